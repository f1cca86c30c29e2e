"""Bit-flipped videos of every container, through every command that reads videos."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.data import files
from tests.forks import run_forks
from tests.recipes import tiny
from videomae_fast._text import read_table
from videomae_fast.models.config import CONFIGS
from videomae_fast.recipes.distil import DistilConfig
from videomae_fast.recipes.finetune import FinetuneConfig

CONTAINERS: dict[str, dict] = {
    "a.mp4": {},
    "b.mov": {},
    "c.mkv": {},
    "d.avi": {"codec": "mpeg4"},
    "e.webm": {"codec": "libvpx"},
    "f.ts": {"codec": "mpeg2video", "bf": "2"},
    "g.wmv": {"codec": "wmv2"},
    "h.flv": {"codec": "flv"},
    "i.mpg": {"codec": "mpeg1video", "bf": "2"},
    "j.3gp": {"codec": "mpeg4"},
    "k.ogv": {"codec": "libvpx"},
}
# Runs commands in one process, each with its output in a file; an exit status other than 0 is a crash.
DRIVER = """
import contextlib, json, sys
from tests.recipes.tiny import TINY
from videomae_fast.cli import main
from videomae_fast.models.config import CONFIGS

CONFIGS["tiny"] = TINY
statuses = {}
for name, command in json.loads(sys.argv[1]).items():
    with open(f"{sys.argv[2]}/{name}.txt", "w") as out, contextlib.redirect_stdout(out):
        statuses[name] = main(command)
print(json.dumps(statuses))
"""


class Outcome(NamedTuple):
    """What the commands did: reasons by path."""

    checked: dict[str, str]
    transcoded: dict[str, str]
    replaced: dict[str, str]
    labelled: dict[str, dict[str, str]]  # by command


def flipped(whole: bytes, rng: np.random.Generator) -> bytes:
    """The file with up to 32 bits flipped: anywhere, or near an end, where containers keep their tables."""
    near = int(rng.integers(3))
    reach = min(len(whole), 600) if near else len(whole)
    places = rng.integers(0, reach, size=2 ** int(rng.integers(6)))
    damaged = bytearray(whole)
    for place in (len(whole) - 1 - places if near == 2 else places).tolist():
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def write_flipped(folder: Path, name: str, count: int) -> None:
    """`count` flipped videos of a kind, and half as many good ones that each have another name."""
    whole = files.write_video(folder / name, 24, 48, 64, **CONTAINERS[name]).read_bytes()
    (folder / name).unlink()
    seed = list(CONTAINERS).index(name)
    for number in range(count):
        (folder / f"{number:02}.flipped.{name}").write_bytes(flipped(whole, np.random.default_rng((seed, number))))
    for number in range(-(-count // 2)):
        (folder / f"{number:02}.good.{name}").write_bytes(whole)


def run_commands(folder: Path, output: Path) -> Outcome:
    output.mkdir()
    options = {"epochs": 1, "warmup_epochs": 0, "batch_size": 4, "max_bad_share": 1.0, "log_every": 1000}
    config = tiny.settings(folder, output / "run", **options)
    labelled, tuned = output / "labelled.csv", output / "tuned"
    labelled.write_text("".join(f"{path},{number % 2}\n" for number, path in enumerate(sorted(folder.iterdir()))))
    tuning = tiny.FINETUNE | options | {"data": str(labelled), "eval_data": str(labelled), "eval_every": 1000}
    taught = {"output": str(output / "taught"), "teacher": str(tuned), "cache_logits": str(output / "cache")}
    read = ["--data", str(labelled), "--init", str(tuned), "--precision", "fp32"]
    commands = {
        "check": ["check-data", str(folder), "--workers", "1", "--report", str(output / "report.tsv")],
        "transcode": ["transcode", str(folder), str(output / "new"), "--workers", "1"],
        "again": ["check-data", str(output / "new" / "list.txt"), "--workers", "1"],
        "pretrain": tiny.arguments(config),
        "finetune": tiny.arguments(FinetuneConfig.from_options(**tuning, output=str(tuned)), "finetune"),
        "distil": tiny.arguments(DistilConfig.from_options(**tuning, **taught), "distil"),
        "evaluate": ["evaluate", *read, "--workers", "0", "--segments", "2", "--output", str(output / "evaluated")],
        "features": ["features", *read, "--output", str(output / "features")],
        "gallery": ["gallery", *tiny.arguments(config)[1:], "--output", str(output / "picture.png")],
    }
    (process,) = run_forks([["-c", DRIVER, json.dumps(commands), str(output)]], [{}], timeout=600)
    out, err = process.stdout, process.stderr
    assert process.returncode == 0 and "Traceback" not in err, err[-3000:]
    assert json.loads(out.splitlines()[-1]) == dict.fromkeys(commands, 0), err[-3000:]
    assert "0 bad" in (output / "again.txt").read_text()
    rows = [row[:2] for row in read_table(output / "report.tsv")[1:]]
    told = (line[len("  bad: ") :] for line in (output / "transcode.txt").read_text().splitlines() if "  bad: " in line)
    replaced = read_table(output / "run" / "bad_videos.tsv")
    reports = ["tuned/bad_videos.tsv", "taught/bad_videos.tsv", "evaluated/missing.tsv", "features/missing.tsv"]
    return Outcome(
        {path: reason for path, reason in rows},
        {path: reason for path, reason in (line.split(": ", 1) for line in told)},
        {row[0]: row[1] for row in replaced},
        {Path(name).parts[0]: {row[0]: row[1] for row in read_table(output / name)} for name in reports},
    )


@pytest.mark.slow  # a process of its own, which a crash ends
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_flipped_video_is_read_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(CONFIGS, "tiny", tiny.TINY)
    folder = tmp_path / "videos"
    folder.mkdir()
    write_flipped(folder, name, 50)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = run_commands(folder, tmp_path / "output")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "videos"]
    assert list(done.checked) == sorted(map(str, before))
    bad = {path: reason for path, reason in done.checked.items() if reason}
    for reasons in (bad, done.transcoded, done.replaced, *done.labelled.values()):
        assert all("flipped" in Path(path).name for path in reasons), reasons
        assert all(reason and reason.isprintable() and "died" not in reason for reason in reasons.values()), reasons
    assert bad.items() <= done.transcoded.items()  # with the same reasons
    assert bad.keys() <= done.labelled["features"].keys()  # which reads every frame
    features = {path.name for path in (tmp_path / "output" / "features").rglob("*.npy")}
    assert features == {f"{path.stem}.npy" for path in before if str(path) not in done.labelled["features"]}
    new = tmp_path / "output" / "new"
    written = {path for path in before if str(path) not in done.transcoded}
    expected = {path.name if path.suffix == ".mp4" else f"{path.name}.mp4" for path in written}
    assert {path.name for path in new.iterdir()} == expected | {".lock", "list.txt"}
