"""Configurations from keywords and files; a run's own config.json is such a file."""

import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videomae_fast.cli import build_parser
from videomae_fast.cli.runs import read_config
from videomae_fast.recipes.options import MaskOptions
from videomae_fast.recipes.pretrain import DEMO, PretrainConfig, PretrainData
from videomae_kernels import RESIZES

toml = pytest.mark.skipif(not (find_spec("tomllib") or find_spec("tomli")), reason="needs Python 3.11, or tomli")


def test_options_lie_in_sections() -> None:
    config = PretrainConfig.from_options(data="videos", lr=5e-4, seed=3)
    assert (config.data.data, config.optimizer.lr, config.run.seed) == ("videos", 5e-4, 3)
    assert config == PretrainConfig().with_options(seed=3).with_options(lr=5e-4, data="videos")
    assert PretrainConfig(data=PretrainData(data="videos")) == PretrainConfig.from_options(data="videos")
    assert config.flat()["lr"] == 5e-4 and config.flat().keys() == PretrainConfig().flat().keys()


def test_unknown_keyword() -> None:
    with pytest.raises(TypeError, match=r"PretrainConfig has no option 'mask_ration': mask_ratio\?"):
        PretrainConfig.from_options(mask_ration=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "none"}, "mask 'none' hides nothing"),
        ({"decoder_mask": "cube"}, "decoder_mask must be one of running_cell, random, none, got 'cube'"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"short_side": -1}, "short_side must not be negative, got -1"),
        ({"lr": float("inf")}, "lr must be finite, got inf"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"eval_every": 5}, "eval_every 5 needs eval_data: name the videos to evaluate on"),
        ({"track": "tensorboard,sacred"}, "got 'sacred'"),
    ],
)
def test_values_that_are_not_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainConfig.from_options(**options)


def test_choices_are_those_of_the_library() -> None:
    fields = {field.name: field.metadata["choices"] for _, field in PretrainConfig.options()}
    assert fields["resize"] == RESIZES
    for name in ("reader", "crop", "mask", "decoder_mask", "model", "attention", "decoder_context", "precision"):
        assert PretrainConfig().flat()[name] in fields[name]
    assert set(vars(MaskOptions())) <= fields.keys()


def test_a_saved_configuration_is_read_back(tmp_path: Path) -> None:
    config = DEMO.with_options(data="videos", hflip=True, eval_data="more", eval_every=3)
    config.save(tmp_path / "config.json")
    assert PretrainConfig.from_options(**PretrainConfig.read_options(tmp_path / "config.json")) == config


def _asked(arguments: list[str]) -> PretrainConfig:
    return read_config(build_parser().parse_args(["pretrain", *arguments]), PretrainConfig, DEMO)


@toml
def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[data]\nhflip = true\nframe_stride = 2\n[optimizer]\nlr = 1\nepochs = 15\n[run]\nresume = true\n")
    config = _asked(["--config", str(file), "--frame-stride", "3", "--no-hflip", "--warmup-epochs", "5"])
    expected = {"frame_stride": 3, "lr": 1.0, "epochs": 15, "warmup_epochs": 5, "resume": True}
    assert config == PretrainConfig.from_options(**expected)
    assert type(config.optimizer.lr) is float
    demo = _asked(["--demo", "--config", str(file)]) if DEMO else None
    assert demo is not None and (demo.optimizer.epochs, demo.data.image_size) == (15, DEMO.data.image_size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"optim": {}}', "unknown section 'optim'; sections are data, masks, model, optimizer, run"),
        ('{"lr": 0.1}', "unknown section 'lr'"),
        ('{"optimizer": 3}', "section 'optimizer' must hold options, got 3"),
        (
            '{"optimizer": {"lrate": 1}}',
            "unknown option 'lrate' in section 'optimizer'; options are epochs, warmup_epochs, lr",
        ),
        ('{"optimizer": {"seed": 1}}', "unknown option 'seed' in section 'optimizer'"),
        ('{"optimizer": {"lr": "high"}}', "optimizer.lr must be of type float, got 'high'"),
        ('{"optimizer": {"epochs": 1.5}}', "optimizer.epochs must be of type int, got 1.5"),
        ('{"optimizer": {"epochs": true}}', "optimizer.epochs must be of type int, got True"),
        ('{"data": {"hflip": 1}}', "data.hflip must be of type bool, got 1"),
        ("[]", "must hold sections of options, got list"),
        ("{", "cannot be read: "),
    ],
)
def test_files_that_are_wrong(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        PretrainConfig.read_options(file)
    assert str(error.value).startswith(str(file)) and message in str(error.value)


@toml
def test_toml_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[optimizer\n")
    with pytest.raises(ValueError, match=r"config\.toml cannot be read"):
        PretrainConfig.read_options(tmp_path / "config.toml")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"config\.toml cannot be read: .*utf-8"):
        PretrainConfig.read_options(tmp_path / "config.toml")


def test_files_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("optimizer: {}")
    with pytest.raises(ValueError, match=r"a configuration is a \.toml or \.json file"):
        PretrainConfig.read_options(tmp_path / "config.yaml")
    with pytest.raises(FileNotFoundError):
        PretrainConfig.read_options(tmp_path / "absent.json")


def test_toml_on_python_3_10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text("")
    monkeypatch.setattr(sys, "version_info", (3, 10))
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(ImportError, match=r"a TOML file needs Python 3\.11, or the package tomli"):
        PretrainConfig.read_options(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2.5}, r"batch_size must be a whole number, got '2\.5' \(float\)"),
        ({"batch_size": 2.0}, r"batch_size must be a whole number, got '2\.0' \(float\)"),
        ({"epochs": True}, r"epochs must be a whole number, got 'True' \(bool\)"),
        ({"epochs": "3"}, r"epochs must be a whole number, got '3' \(str\)"),
        ({"workers": None}, "workers must be a whole number, got 'None'"),
        ({"max_steps": 2**63}, r"max_steps must be less than 2\*\*63, got 9223372036854775808"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": 2**63}, "seed must be in"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
        ({"lr": 1j}, "lr must be a number"),
        ({"lr": 10**400}, "lr must be a number"),
        ({"lr": math.nan}, "lr must be finite, got nan"),
        ({"final_lr": math.inf}, "final_lr must be finite, got inf"),
        ({"weight_decay": -math.inf}, "weight_decay must not be negative, got -inf"),
        ({"mask_ratio": math.nan}, r"mask_ratio must be in \[0, 1\), got nan"),
        ({"max_bad_share": np.float32("nan")}, "max_bad_share must be finite, got nan"),
        ({"hflip": 1}, r"hflip must be True or False, got '1' \(int\)"),
        ({"reader": 3}, "reader must be text, got '3'"),
    ],
)
def test_values_of_another_type(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainConfig.from_options(**options)


def test_values_that_lose_nothing_are_taken(tmp_path: Path) -> None:
    """Numbers of numpy, whole numbers for floats, paths for strings; and config.json can hold them."""
    config = PretrainConfig.from_options(
        batch_size=np.int64(4), lr=1, beta2=np.float32(0.5), data=tmp_path, output=Path("x")
    )
    assert config == PretrainConfig.from_options(batch_size=4, lr=1.0, beta2=0.5, data=str(tmp_path), output="x")
    assert type(config.optimizer.lr) is float and type(config.optimizer.batch_size) is int
    config.save(tmp_path / "config.json")
    assert PretrainConfig.from_options(**PretrainConfig.read_options(tmp_path / "config.json")) == config
