"""Options of fine-tuning that cannot work, and data that cannot be trained on: each is an error that names it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.recipes import tiny
from videomae_fast.cli import main
from videomae_fast.recipes.finetune import FinetuneConfig, finetune
from videomae_fast.recipes.pretrain import pretrain


@pytest.mark.parametrize(
    "options, message",
    [
        ({"erasing": 1.5}, r"erasing must be a probability in \[0, 1\], got 1.5"),
        ({"mix_probability": 2.0}, r"mix_probability must be a probability in \[0, 1\], got 2.0"),
        ({"mix_switch": 1.01}, r"mix_switch must be a probability in \[0, 1\], got 1.01"),
        ({"mixup": -0.1}, "mixup must not be negative, got -0.1"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got 1.0"),
        ({"rand_augment": "rand-m7-x4"}, "rand-m7-x4"),
        ({"augment": "cuda"}, "augment must be one of device, pillow, got 'cuda'"),
        ({"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\], got 0.0"),
        ({"layer_decay": 1.1}, r"layer_decay must be in \(0, 1\], got 1.1"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        (
            {"drop_tokens": "random"},
            r"drop_tokens must be random:R or changed:R with R in \(0, 1\), or empty, got 'random'",
        ),
        ({"drop_tokens": "random:1"}, "got 'random:1'"),
        ({"drop_tokens": "random:nan"}, "got 'random:nan'"),
        ({"drop_tokens": "static:0.5"}, "got 'static:0.5'"),
        ({"drop_tokens": "changed:0"}, "got 'changed:0'"),
        ({"drop_tokens": "changed"}, "got 'changed'"),
        ({"trained_clip": "16x224"}, "trained_clip must be frames, height and width, such as 16x224x224, got '16x224'"),
        ({"crop_area": 1.0}, r"crop_area must be in \[0, 1\), got 1.0"),
        ({"positions": "learned"}, "positions must be one of interpolate, sinusoid, got 'learned'"),
        ({"sampling": "sparse"}, "sampling must be one of strided, dense, uniform, got 'sparse'"),
        ({"lora_rank": 4, "train": "head"}, "lora_rank 4 says what is trained: leave train at all, got 'head'"),
        ({"lora_rank": -1}, "lora_rank must not be negative, got -1"),
        ({"eval_every": 5}, "eval_every 5 needs eval_data"),
        ({"epochs": 5}, "warmup_epochs 5 must be less than epochs 5"),
    ],
    ids=str,
)
def test_values_that_are_not_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig.from_options(**options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"data": ""}, "data is empty: name a list of videos with labels, or a folder of class folders"),
        ({"output": ""}, "output is empty: name a folder for the run"),
        ({"train": "last:3"}, "train must be 'all', 'head' or 'last:K' with K from 1 to 2, got 'last:3'"),
        ({"train": "decoder"}, "train must be 'all', 'head' or 'last:K'"),
        ({"trained_clip": "8x40x40"}, "trained_clip must be .*multiples of"),
        ({"image_size": 40}, "40"),
        ({"init": "/gone.pth"}, "/gone.pth"),
        ({"classes": "/gone.txt"}, "there is no class file at /gone.txt"),
        ({"eval_data": "/gone.csv", "eval_every": 1}, "/gone.csv"),
        ({"drop_tokens": "changed:0.9"}, "would keep 2 of 16 tokens, fewer than the 4 of the first frames"),
        ({"batch_size": 13}, "does not fill one step of batch_size 13"),
    ],
    ids=str,
)
def test_runs_that_cannot_begin(options: dict[str, Any], message: str, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        finetune(tiny.finetuning(labelled, tmp_path / "run", **options))


@pytest.mark.parametrize(
    "lines, classes, message",
    [
        ("0 5", "abcd", r"class number 5: expected a number in \[0, 4\)"),
        ("0 -1", "abcd", "expected a class number from 0 on"),
        ("0 e", "abcd", "both"),
        ("a e", "abcd", "class 'e', which is none of the 4 classes"),
        ("0 1", "abc", r"1 of 3 classes have no video: 'c' \(2\)"),
        ("0 2", "", r"1 of 3 classes have no video: '1' \(1\)"),
        ("0 ", "ab", "list.txt:2: expected .path label."),
        ("0 0", "", "all 2 videos have the class .0.: a classifier needs two"),
        ("0 1", "aa", "'a' comes twice"),
    ],
)
def test_labels_that_do_not_fit(lines: str, classes: str, message: str, labelled: Path, tmp_path: Path) -> None:
    """Of two videos, with a file of classes or without."""
    paths = [shutil.copy(path, tmp_path / f"{k}.mp4") for k, path in enumerate(sorted(labelled.rglob("*.mp4"))[:2])]
    labels = lines.split(" ")
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path} {label}".rstrip() + "\n" for path, label in zip(paths, labels, strict=True)))
    options: dict[str, Any] = {"batch_size": 1}
    if classes:
        (tmp_path / "classes.txt").write_text("\n".join(classes))
        options["classes"] = str(tmp_path / "classes.txt")
    with pytest.raises(ValueError, match=message):
        finetune(tiny.finetuning(listed, tmp_path / "run", **options))


def test_a_list_of_another_format(labelled: Path, tmp_path: Path) -> None:
    """A pre-training list of path, start and total has no labels."""
    video = next(labelled.rglob("*.mp4"))
    shutil.copy(video, tmp_path / "video.mp4")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/video.mp4 0 -1\n")
    with pytest.raises(ValueError, match=r"list.txt:1"):
        finetune(tiny.finetuning(tmp_path / "list.txt", tmp_path / "run"))


def test_empty_classes_by_choice(labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join([*tiny.CLASSES, "diagonals"]))
    options = {"classes": str(tmp_path / "classes.txt"), "max_steps": 1}
    with pytest.raises(ValueError, match=r"1 of 5 classes have no video: 'diagonals' \(4\).*or allow empty classes"):
        finetune(tiny.finetuning(labelled, tmp_path / "run", **options))
    checkpoint = finetune(tiny.finetuning(labelled, tmp_path / "run", allow_empty_classes=True, **options)).checkpoint
    assert json.loads((checkpoint / "classes.json").read_text()) == [*tiny.CLASSES, "diagonals"]


def test_a_classifier_does_not_begin_pre_training(labelled: Path, videos: Path, tmp_path: Path) -> None:
    checkpoint = finetune(tiny.finetuning(labelled, tmp_path / "ft", max_steps=1)).checkpoint
    with pytest.raises(ValueError, match="it holds a classifier, and pre-training weights are needed"):
        pretrain(tiny.settings(videos, tmp_path / "pre", init=str(checkpoint)))


def test_no_readable_video(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "videos" / name).mkdir(parents=True)
        for k in range(2):
            (tmp_path / "videos" / name / f"{k}.mp4").write_bytes(b"no video")
    from videomae_fast.data import UnreadableVideosError

    with pytest.raises(UnreadableVideosError, match="could not be read"):
        finetune(tiny.finetuning(tmp_path / "videos", tmp_path / "run"))


def test_videos_shorter_than_a_clip_train(labelled: Path, tmp_path: Path) -> None:
    """Of 12 frames, by each rule; 16 frames 4 apart would need 64."""
    for sampling in ("dense", "uniform", "strided"):
        options = {"sampling": sampling, "num_frames": 16, "frame_stride": 4, "max_steps": 1}
        assert finetune(tiny.finetuning(labelled, tmp_path / sampling, **options)).step == 1


def test_the_command_line(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    run = tiny.finetuning(labelled, tmp_path / "file" / "run", max_steps=1)
    assert main(tiny.arguments(run, "finetune")) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(tiny.arguments(run.with_options(output=str(tmp_path / "run")), "finetune")) == 0
    out = capsys.readouterr().out
    assert "weights, in the published layout:" in out and (tmp_path / "run" / "curves.png").is_file()
