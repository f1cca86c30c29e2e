"""Videos with names that no list, table or console expects, through every command, and through what it writes."""

import os
import shutil
from pathlib import Path

import pytest

from tests.recipes import tiny
from videomae_fast._text import read_table
from videomae_fast.cli import main
from videomae_fast.data import read_annotations
from videomae_fast.data.bad_videos import BadVideoLog
from videomae_fast.recipes.distil import DistilConfig
from videomae_fast.recipes.finetune import FinetuneConfig

NAMES = [
    "with space.mp4",
    " 3 -1.mp4",
    "tab\tline\nend\r.mp4",
    "separators\x0b\x0c\x1c\x85\u2028.mp4",
    "\x1b]0;owned\x07\x1b[2J\u202e.mp4",
    "not utf-8 \udcff\udc80.mp4",
    '"quoted" 3.mp4',
    "=1+1.mp4",
]


@pytest.fixture
def folder(videos: Path, tmp_path: Path) -> Path:
    """Each name once as a video, and once, in the folder "bad\\n", as an empty file."""
    (tmp_path / "videos" / "bad\n").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        try:
            shutil.copy(videos / f"video{number}.mp4", tmp_path / "videos" / name)
            (tmp_path / "videos" / "bad\n" / name).touch()
        except OSError:
            pytest.skip("this file system has no such names")
    return tmp_path / "videos"


def names(list_file: Path) -> list[str]:
    return sorted(os.path.basename(entry.path) for entry in read_annotations(list_file))


def shows_only_lines(text: str) -> bool:
    return all(line.isprintable() for line in text.replace("\r", "\n").split("\n"))


def test_a_clean_list_trains(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean, report, run = tmp_path / "clean.txt", tmp_path / "report.tsv", tmp_path / "run"
    assert main(["check-data", str(folder), "--workers", "0", "--clean", str(clean), "--report", str(report)]) == 0
    assert names(clean) == sorted(NAMES)
    rows = read_table(report)
    assert sorted(os.path.basename(row[0]) for row in rows[1:]) == sorted(2 * NAMES)
    assert main(["check-data", str(clean), "--workers", "0"]) == 0
    assert main(tiny.arguments(tiny.settings(clean, run, max_steps=4))) == 0
    assert len(tiny.losses(run)) == 4 and not (run / "bad_videos.tsv").exists()
    printed = capsys.readouterr()
    assert "16 videos, 8 bad" in printed.out and "8 videos, 0 bad" in printed.out
    assert shows_only_lines(printed.out) and shows_only_lines(printed.err)


def test_a_run_with_bad_videos_continues(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    config = tiny.settings(folder, run, max_bad_share=1.0, epochs=1, warmup_epochs=0)  # each of 16 videos once
    assert main(tiny.arguments(config.with_options(max_steps=6))) == 0
    first = BadVideoLog(run / "bad_videos.tsv")
    assert main(tiny.arguments(config.with_options(resume=True))) == 0
    counts = BadVideoLog(run / "bad_videos.tsv").counts
    assert {bad.path for bad in counts} == {str(folder / "bad\n" / name) for name in NAMES}
    assert 0 < len(first) < 8 and all(counts[bad] >= count for bad, count in first.counts.items())
    printed = capsys.readouterr()
    assert printed.out.count("unreadable video replaced: ") == 8 and shows_only_lines(printed.out)


def test_transcoded_videos_are_listed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new"
    assert main(["transcode", str(folder), str(new), "--workers", "0", "--short-side", "32"]) == 0
    assert names(new / "list.txt") == sorted(NAMES)
    assert main(["check-data", str(new / "list.txt"), "--workers", "0"]) == 0
    printed = capsys.readouterr()
    assert "8 videos, 0 bad" in printed.out
    assert shows_only_lines(printed.out) and shows_only_lines(printed.err)


def test_a_run_of_bad_videos_names_them(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny.settings(folder / "bad\n", tmp_path / "run", max_bad_share=1.0)
    assert main(tiny.arguments(config)) == 2
    error = capsys.readouterr().err
    assert "videos in a row could not be read" in error and r"bad\n/" in error and shows_only_lines(error)


def test_hostile_names_of_classes(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders of classes with these names, through every command after pre-training."""
    data, run, classes = tmp_path / "videos", tmp_path / "run", [name.removesuffix(".mp4") for name in NAMES]
    for number, name in enumerate([*classes, "$x_{$"]):
        try:
            (data / name).mkdir(parents=True)
            shutil.copy(videos / f"video{number % 8}.mp4", data / name / NAMES[number % 8])
            (data / name / "bad\n.mp4").touch()
        except OSError:
            pytest.skip("this file system has no such names")
    read = ["--data", str(data), "--init", str(run), "--precision", "fp32"]
    changes = {"max_steps": 1, "max_bad_share": 1.0, "eval_data": str(data), "eval_every": 1, "data": str(data)}
    taught = {"teacher": str(run), "output": str(tmp_path / "taught"), "cache_logits": str(tmp_path / "cache")}
    commands = [
        tiny.arguments(FinetuneConfig.from_options(**tiny.FINETUNE | changes, output=str(run)), "finetune"),
        tiny.arguments(DistilConfig.from_options(**tiny.FINETUNE | changes | taught), "distil"),
        ["evaluate", *read, "--workers", "0", "--segments", "1", "--output", str(tmp_path / "evaluated")],
        ["features", *read, "--output", str(tmp_path / "features")],
    ]
    for command in commands:
        assert main(command) == 0
    printed = capsys.readouterr()
    assert shows_only_lines(printed.out) and shows_only_lines(printed.err)
    expected = sorted([*classes, "$x_{$"])
    assert [row[1] for row in read_table(tmp_path / "evaluated" / "classes.tsv")][1:] == expected
    assert len(read_table(tmp_path / "evaluated" / "predictions.tsv")) == 10
    for folder in ("evaluated", "features"):
        missing = {row[0] for row in read_table(tmp_path / folder / "missing.tsv")}
        assert missing == {str(data / name / "bad\n.mp4") for name in expected}
    found = {str(path.relative_to(tmp_path / "features")) for path in (tmp_path / "features").rglob("*.npy")}
    assert len(found) == 9 and {os.path.dirname(path) for path in found} == set(expected)
