"""Cached logits: a run that reads them is the run that computed them, and no file is read that another batch wrote."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.recipes import taught, tiny
from videomae_fast.data import ClipBatch
from videomae_fast.engine.log import read_log
from videomae_fast.interop.classifier import Classifier
from videomae_fast.recipes import distil as recipe_file
from videomae_fast.recipes.distil import DistilConfig, Distillation, distil
from videomae_fast.recipes.logit_cache import KEY, LogitCache
from videomae_kernels import crop_clips


def rows(output: Path) -> list[tuple[str, ...]]:
    """What the log says of every step, but for the time it took."""
    return [(row["step"], row["loss"], row["kl"], row["agreement"], row["lr"]) for row in read_log(output)]


def forbid_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*args: Any, **options: Any) -> None:
        raise AssertionError("a teacher was built")

    monkeypatch.setattr(recipe_file, "Teacher", build)


PLAIN = {"mixup": 0.0, "cutmix": 0.0, "rand_augment": "", "erasing": 0.0}  # clips stay boxes of frames


@pytest.mark.parametrize("options", [{}, PLAIN, {"label_weight": 0.5, "head_dropout": 0.3, "accumulate": 2}], ids=str)
def test_a_run_on_cached_logits_equals_the_live_run(
    options: dict[str, Any], colors: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bitwise, with and without writing; and another student reads them, for more epochs than were written."""
    config = taught.settings(colors, teacher, tmp_path / "live", **{"batch_size": 2, **options})
    steps = distil(config).step
    cached = config.with_options(cache_logits=str(tmp_path / "logits"))
    distil(cached.with_options(output=str(tmp_path / "writes")))
    files = sorted(path.name for path in (tmp_path / "logits").glob("*.safetensors"))
    assert len(files) == steps and files[0] == "000000000000.safetensors"
    assert rows(tmp_path / "live") == rows(tmp_path / "writes") and len(rows(tmp_path / "live")) == steps
    written = {name: (tmp_path / "logits" / name).stat().st_mtime_ns for name in files}
    with monkeypatch.context() as patch:
        forbid_teacher(patch)
        distil(cached.with_options(output=str(tmp_path / "reads")))
        other = {"drop_path": 0.0, "lr": 0.1, "init_scale": 1.0, "smoothing": 0.0, "temperature": 2.0}
        distil(cached.with_options(output=str(tmp_path / "other"), **other))
    assert rows(tmp_path / "reads") == rows(tmp_path / "live")
    assert rows(tmp_path / "other") != rows(tmp_path / "live")
    last = [load_file(tmp_path / run / f"checkpoints/step-{steps:08d}/model.safetensors") for run in ("live", "reads")]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    assert {name: (tmp_path / "logits" / name).stat().st_mtime_ns for name in files} == written
    distil(cached.with_options(output=str(tmp_path / "longer"), epochs=3))
    assert len(list((tmp_path / "logits").glob("*.safetensors"))) == steps * 3 // 2


def test_a_cache_continues(colors: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that stopped, and a file that was deleted: what is missing is computed, and the rest read."""
    config = taught.settings(colors, teacher, tmp_path / "whole", cache_logits=str(tmp_path / "logits"))
    distil(config.with_options(cache_logits="", output=str(tmp_path / "live")))
    distil(config.with_options(max_steps=2))
    distil(config.with_options(resume=True))
    assert rows(tmp_path / "whole") == rows(tmp_path / "live")
    sorted((tmp_path / "logits").glob("*.safetensors"))[3].unlink()
    capsys.readouterr()
    distil(config.with_options(output=str(tmp_path / "again")))
    assert f"teacher logits of 5 of 6 steps are in {tmp_path / 'logits'}" in capsys.readouterr().out
    assert rows(tmp_path / "again") == rows(tmp_path / "live")
    assert len(list((tmp_path / "logits").glob("*.safetensors"))) == 6


def test_ranks_have_files_of_their_own(colors: Path, teacher: Path, tmp_path: Path) -> None:
    """Their batches are the files that their runs look for."""
    config = taught.settings(colors, teacher, tmp_path, cache_logits=str(tmp_path / "logits"), batch_size=2)
    found = []
    for rank in range(2):
        recipe = Distillation(config)
        recipe.build(torch.device("cpu"), lambda line: None)
        for batch in recipe.batches(rank, 2, 1, 3):
            list(recipe.parts(batch, 1, torch.device("cpu")))
        found.append(sorted(path.name for path in (tmp_path / "logits").glob("*.safetensors")))
        assert recipe.cache is not None and recipe.cache.open(recipe._first_samples(rank, 2, 1, 3), rank) == 0
        recipe.report()
    assert len(found[0]) == 3 and len(found[1]) == 6


@pytest.mark.slow
def test_two_processes_read_what_they_wrote(colors: Path, teacher: Path, tmp_path: Path) -> None:
    config = taught.settings(colors, teacher, tmp_path, batch_size=2, cache_logits=str(tmp_path / "logits"))
    config.save(tmp_path / "config.json")
    for found, name in ((0, "writes"), (6, "reads")):
        options = ["distil", "--config", str(tmp_path / "config.json"), "--output", str(tmp_path / name)]
        assert f"teacher logits of {found} of 6 steps are in" in tiny.launch(options)
    assert rows(tmp_path / "writes") == rows(tmp_path / "reads") and len(rows(tmp_path / "reads")) == 6
    assert len(list((tmp_path / "logits").glob("*.safetensors"))) == 12


DIFFERENT: dict[str, dict[str, Any]] = {
    "seed": {"seed": 4},
    "erasing": {"erasing": 0.5},
    "mixup": {"mixup": 0.0},
    "rand_augment": {"rand_augment": ""},
    "augment": {"augment": "pillow"},
    "hflip": {"hflip": False},
    "crop_area": {"crop_area": 0.5},
    "sampling": {"sampling": "uniform"},
    "frame_stride": {"frame_stride": 2},
    "crops_per_video": {"crops_per_video": 1},
    "resize": {"resize": "antialias"},
    "videos_per_batch": {"batch_size": 2},
    "precision": {"precision": "bf16"},
}


@pytest.fixture
def filled(colors: Path, teacher: Path, tmp_path: Path) -> DistilConfig:
    """The configuration of a run that has written the logits of two steps."""
    config = taught.settings(colors, teacher, tmp_path / "run", cache_logits=str(tmp_path / "logits"), max_steps=2)
    distil(config)
    return config.with_options(output=str(tmp_path / "other"))


def test_a_cache_of_other_settings_is_refused(filled: DistilConfig, colors: Path, tmp_path: Path) -> None:
    """Each by its name: other pixels, mixtures, videos or teachers."""
    for name, options in DIFFERENT.items():
        with pytest.raises(ValueError, match=rf"teacher logits in .* are of another run: {name}: was .*, now "):
            distil(filled.with_options(**options))
        AcceleratorState._reset_state(reset_partial_state=True)
    other = taught.make_teacher(tmp_path / "another", colors, tubelet_size=4)
    with pytest.raises(ValueError, match=r"are of another run: teacher: was '[0-9a-f]{16}', now '[0-9a-f]{16}'"):
        distil(filled.with_options(teacher=str(other)))
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("".join(colors.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="are of another run: videos: was"):
        distil(filled.with_options(data=str(fewer)))
    assert not (tmp_path / "other" / "checkpoints").exists()


def test_what_changes_no_pixel_is_allowed(filled: DistilConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_teacher(monkeypatch)
    distil(filled.with_options(smoothing=0.0, lr=1.0, weight_decay=0.0, label_weight=1.0, workers=1, drop_path=0.0))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _rewrite(path: Path, change: Callable[[Tensor], Tensor], **facts: str) -> None:
    with safe_open(path, "pt") as file:
        metadata, logits = file.metadata(), file.get_tensor("logits")
    save_file({"logits": change(logits)}, path, metadata | facts)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flipped bit": (_flip, "are damaged: their checksum is another"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-3]), "are damaged: "),
    "empty": (lambda path: path.write_bytes(b""), "are damaged: "),
    "another step": (
        lambda path: shutil.copy(sorted(path.parent.glob("*.safetensors"))[1], path),
        "are of other pixel",
    ),
    "no logits": (lambda path: save_file({"x": torch.zeros(1)}, path), "are damaged: "),
    "another key": (lambda path: _rewrite(path, lambda x: x, key="0" * 32), "were made with other settings"),
    "no metadata": (lambda path: save_file(load_file(path), path), "were made with other settings"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_named(damage: str, filled: DistilConfig, tmp_path: Path) -> None:
    path = sorted((tmp_path / "logits").glob("*.safetensors"))[0]
    act, message = DAMAGES[damage]
    act(path)
    with pytest.raises(
        ValueError, match=rf"teacher logits {path} {message}.*delete it, and the teacher makes it again"
    ):
        distil(filled)
    path.unlink()
    distil(filled)


def test_a_damaged_key(filled: DistilConfig, tmp_path: Path) -> None:
    for text, message in (("{", "is damaged: .*Delete the folder"), ("[]", "are of another run: version: was None")):
        (tmp_path / "logits" / KEY).write_text(text)
        with pytest.raises(ValueError, match=message):
            distil(filled)
    (tmp_path / "logits" / KEY).unlink()
    distil(filled)


def test_videos_that_changed_under_their_names(filled: DistilConfig, colors: Path, tmp_path: Path) -> None:
    """The list has the same names, so only the pixels tell."""
    copied = tmp_path / "copy"
    shutil.copytree(colors.parent, copied)
    for video in copied.glob("*.mp4"):
        shutil.copy(colors.parent / "video0.mp4", video)
    (copied / "list.txt").write_text(colors.read_text().replace(str(colors.parent), str(copied)))
    config = filled.with_options(data=str(copied / "list.txt"))
    with pytest.raises(ValueError, match="are of other pixels than this run decodes"):
        distil(config)


def batch(first: int = 4, value: int = 7) -> ClipBatch:
    frames = torch.full((2, 8, 8, 3), value, dtype=torch.uint8)
    clips = crop_clips([frames], [0, 0], [(0, 0, 8, 8)] * 2, [False, True], (4, 4), "bilinear")
    return ClipBatch(clips, torch.arange(first, first + 2), torch.zeros(2, dtype=torch.int64), 2)


def cache(folder: Path, **key: Any) -> LogitCache:
    return LogitCache(folder, {"seed": 1, **key}, 3)


def test_a_file_is_of_one_batch(tmp_path: Path) -> None:
    made, logits = cache(tmp_path), torch.randn(2, 3).half()
    assert made.open([4, 8]) == 2 and not made.has(batch())
    made.write(batch(), logits)
    assert made.has(batch()) and torch.equal(made.read(batch()), logits)
    assert stat.S_IMODE((tmp_path / "000000000004.safetensors").stat().st_mode) == 0o666 & ~_umask()
    made.close()
    assert cache(tmp_path).open([4, 8]) == 1 and cache(tmp_path).open([4]) == 0
    with pytest.raises(ValueError, match="are of other pixels than this run decodes: a video has changed"):
        made.read(batch(value=8))
    with pytest.raises(FileNotFoundError, match="000000000008"):
        made.read(batch(8))
    with pytest.raises(ValueError, match=r"must be float16 \(2, 5\), got torch.float16 \(2, 3\)"):
        LogitCache(tmp_path, {"seed": 1}, 5).read(batch())
    with pytest.raises(ValueError, match="other settings, data or teacher"):
        cache(tmp_path, erasing=1).read(batch())
    with pytest.raises(ValueError, match="extra: was None, now 3"):
        cache(tmp_path, extra=3).open([4])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_one_run_writes_at_a_time(tmp_path: Path) -> None:
    """Another process asks: the lock does not hold within one."""
    made = cache(tmp_path)
    made.open([4])
    program = (
        "import sys; from pathlib import Path; from videomae_fast.recipes.logit_cache import LogitCache\n"
        f"LogitCache(Path({str(tmp_path)!r}), {{'seed': 1}}, 3).open([4])"
    )
    process = tiny.start(["-c", program])
    assert "is in use by another run, process" in process.communicate()[1] and process.returncode
    made.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_not_written(value: float, tmp_path: Path) -> None:
    made = cache(tmp_path)
    made.open([4])
    with pytest.raises(ValueError, match=r"logits for 000000000004\.safetensors are NaN or infinite"):
        made.write(batch(), torch.tensor([[0, 1, 2], [0, value, 2]]).half())
    made.close()
    assert not made.has(batch())


def test_the_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"folder .*file.* cannot be written"):
        cache(tmp_path / "file").open([0])


def test_a_full_disk(colors: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stops and names the file and its checkpoint; what was written stays, and it continues."""
    config = taught.settings(
        colors, teacher, tmp_path / "run", cache_logits=str(tmp_path / "logits"), save_every=1, batch_size=4
    )
    from videomae_fast.recipes import logit_cache

    write, calls = logit_cache.write_safetensors, []

    def full(*args: Any, **options: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(args[1]))
        write(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(logit_cache, "write_safetensors", full)
        with pytest.raises(
            OSError, match=r"No space left.*\.safetensors.*The run stopped after step 2; .*step-00000002"
        ):
            distil(config)
    names = {path.name for path in (tmp_path / "logits").iterdir()}
    assert len([name for name in names if name.endswith("safetensors")]) == 2
    distil(config.with_options(resume=True))
    distil(config.with_options(cache_logits="", output=str(tmp_path / "live")))
    assert rows(tmp_path / "run") == rows(tmp_path / "live")


def test_the_key_is_for_people_too(filled: DistilConfig, tmp_path: Path) -> None:
    key = json.loads((tmp_path / "logits" / KEY).read_text())
    assert {"version", "teacher", "seed", "erasing", "num_frames", "processes", "precision", "videos"} <= key.keys()
    assert not {"smoothing", "workers", "data", "root"} & key.keys()


def test_a_classifier_is_let_go(filled: DistilConfig) -> None:
    """With all logits at hand, no weights of the teacher stay in memory."""
    recipe = Distillation(filled)
    recipe.build(torch.device("cpu"), lambda line: None)
    recipe.batches(0, 1, 0, 2).close()
    assert recipe.teacher is None and not any(isinstance(value, Classifier) for value in vars(recipe).values())
