"""Every file of examples/configs is what the release pre-trains with, written down again from its scripts."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae_fast.cli import build_parser
from videomae_fast.cli.runs import read_config
from videomae_fast.engine.optim import learning_rate
from videomae_fast.models import VideoMAEForPretraining
from videomae_fast.recipes.pretrain import DEMO, PretrainConfig

pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "configs"
COMMON = (
    "--mask_type tube --mask_ratio 0.9 --decoder_mask_type run_cell --decoder_mask_ratio 0.5 --decoder_depth 4 "
    "--batch_size 32 --num_sample 4 --num_frames 16 --sampling_rate 4 --num_workers 10 --opt_betas 0.9 0.95"
)
# The flags of scripts/pretrain/*.sh, and what our options call them.
SCRIPTS = {
    "vit_s": "",  # there is none: the file takes ViT-B's
    "vit_b": f"{COMMON} --lr 1e-3 --warmup_epochs 20 --epochs 200",
    "vit_l": f"{COMMON} --lr 1e-3 --warmup_epochs 30 --epochs 300",
    "vit_h": f"{COMMON} --with_checkpoint --lr 1e-3 --warmup_epochs 30 --epochs 300",
    "vit_g": f"{COMMON} --with_checkpoint --lr 6e-4 --clip_grad 0.02 --warmup_epochs 30 --epochs 300",
}
WORDS = {"mask_type": "mask", "decoder_mask_type": "decoder_mask", "num_sample": "crops_per_video"}
WORDS |= {"sampling_rate": "frame_stride", "num_workers": "workers", "with_checkpoint": "activation_checkpointing"}
VALUES = {"run_cell": "running_cell"}
# Size, weights in millions, GPUs of the script, learning rate after the warm-up on as many.
PUBLISHED = {
    "vit_s": ("small", 24.03, None, None),
    "vit_b": ("base", 94.21, 32, 4e-3),
    "vit_l": ("large", 317.78, 48, 6e-3),
    "vit_h": ("huge", 645.66, 64, 8e-3),
    "vit_g": ("giant", 1026.3, 64, 4.8e-3),
}


def _load(name: str) -> PretrainConfig:
    """As `videomae-fast pretrain --config` does."""
    args = build_parser().parse_args(["pretrain", "--config", str(FOLDER / f"{name}.toml")])
    return read_config(args, PretrainConfig, DEMO)


def _flags(script: str) -> dict[str, Any]:
    """The options of a script by our names."""
    found: dict[str, Any] = {}
    for name, value in re.findall(r"--(\w+)((?: [^-\s]\S*)*)", script):
        if name == "opt_betas":
            found["beta2"] = value.split()[1]
        else:
            found[WORDS.get(name, name)] = VALUES.get(value.strip(), value.strip()) or "True"
    return found


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == SCRIPTS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_settings_are_those_of_the_script(name: str) -> None:
    options = _load(name).flat()
    expected = _flags(SCRIPTS[name] or SCRIPTS["vit_b"])
    assert len(expected) >= 14
    for option, value in expected.items():
        assert options[option] == type(options[option])(value), option
    for option in ("clip_grad", "activation_checkpointing"):
        assert bool(options[option]) == (option in expected)
    assert (options["weight_decay"], options["final_lr"], options["drop_path"]) == (0.05, 1e-5, 0.0)
    assert (options["image_size"], options["crop"], options["hflip"]) == (224, "multi-scale", False)
    assert (options["resize"], options["decoder_context"], options["accumulate"]) == ("pillow", "published", 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_and_learning_rate(name: str) -> None:
    size, millions, gpus, peak = PUBLISHED[name]
    config = _load(name)
    assert config.model.model == size
    with torch.device("meta"):
        model = VideoMAEForPretraining(config.model_config())
    weights = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert weights == pytest.approx(millions, abs=0.05 if millions > 1000 else 0.005)
    if gpus is not None:
        videos = gpus * config.optimizer.batch_size
        assert learning_rate(config.optimizer.warmup_epochs * 10, config.optimizer, 10, videos) == pytest.approx(peak)
        assert f"on {gpus} GPUs" in (FOLDER / f"{name}.toml").read_text().replace("\n", " ")


def test_the_defaults_are_the_published_vit_b() -> None:
    """But for the pixels and the workers."""
    assert _load("vit_b").with_options(resize="antialias", workers=8, decoder_depth=0) == PretrainConfig()
    assert _load("vit_s").with_options(model="base") == _load("vit_b")
