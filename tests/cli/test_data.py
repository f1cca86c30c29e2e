"""`check-data` and `transcode` on the command line, and their help."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.data.files import write_video
from videomae_fast.cli import main
from videomae_fast.data import VideoFile, read_annotations, read_mixture
from videomae_fast.data.sources.lists import DATA_HELP, FORMATS, LIST_FORMAT_HELP, LIST_HELP, ROOT_HELP


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with two videos, one of them empty, and a list of both in the folder `lists` inside it."""
    write_video(tmp_path / "good.mp4", num_frames=8)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.csv").write_text("good.mp4 3\nempty.mp4 4\n")
    return tmp_path


def test_check_data(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--root", str(videos), "--list-format", "v1", "--reader", "decord", "--workers", "1"]
    outputs = ["--clean", str(videos / "clean.csv"), "--report", str(videos / "report.tsv")]
    assert main(["check-data", str(videos / "lists" / "list.csv"), *options, *outputs]) == 0
    printed = capsys.readouterr()
    assert "2 videos, 1 bad" in printed.out and "empty.mp4: the file is empty" in printed.out
    assert printed.err.endswith("\r2 of 2 videos\n")
    assert (videos / "clean.csv").read_text() == "good.mp4 3\n"
    assert [line.split("\t")[0] for line in (videos / "report.tsv").read_text().splitlines()[1:]] == [
        str(videos / name) for name in ("good.mp4", "empty.mp4")
    ]


def test_check_captions(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (40, 30)).save(videos / "a.png")
    lines = ["good.mp4\t0.1\tone\ttwo", "empty.mp4\t\tthree\t", "a.png\t\tfour\t", "good.mp4\t9\tfive\t"]
    (videos / "list.tsv").write_text("\n".join(["path\tstart\tcaption\tcaption", *lines]))
    options = ["--captions", "--workers", "1", "--report", str(videos / "report.tsv")]
    assert main(["check-data", str(videos / "list.tsv"), *options]) == 0
    printed = capsys.readouterr().out
    assert "4 videos, 2 bad\n5 captions, of 3 clips of videos and 1 images" in printed
    assert "empty.mp4: the file is empty" in printed and "has 0.320 s, and its clip starts at 9 s" in printed
    rows = [line.split("\t") for line in (videos / "report.tsv").read_text().splitlines()]
    assert rows[3][2:6] == ["image", "40", "30", "1"]
    assert main(["check-data", str(videos / "list.tsv"), "--captions", "--clean", str(videos / "new")]) == 2
    assert "clean is for lists without captions" in capsys.readouterr().err
    (videos / "list.tsv").write_text("path\tcaption\ngood.mp4\t\n")
    assert main(["check-data", str(videos / "list.tsv"), "--captions"]) == 2
    assert "list.tsv:2: the caption is empty" in capsys.readouterr().err
    (videos / "chat.json").write_text('[{"video": "good.mp4", "QA": [{"q": "What?", "a": "A dog."}]}]')
    assert main(["check-data", str(videos / "chat.json"), "--captions", "--workers", "0"]) == 0
    assert "1 captions and conversations, of 1 clips of videos and 0 images" in capsys.readouterr().out


def test_transcode(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--root", str(videos), "--workers", "0", "--short-side", "48", "--gop", "4"]
    assert main(["transcode", str(videos / "lists" / "list.csv"), str(videos / "new"), *options]) == 0
    assert "1 videos written, 0 existed, 1 could not be read" in capsys.readouterr().out
    assert list(read_annotations(videos / "new" / "list.txt")) == [VideoFile(str(videos / "new" / "good.mp4"), 3)]


@pytest.mark.parametrize(
    "text", ["path,label\ngood.mp4,high jump\nempty.mp4,archery\n", "good.mp4 high jump\nempty.mp4 archery\n"]
)
def test_names_of_classes_are_kept(text: str, videos: Path) -> None:
    (videos / "list.csv").write_text(text)
    assert main(["check-data", str(videos / "list.csv"), "--workers", "0", "--clean", str(videos / "clean.csv")]) == 0
    options = ["--workers", "0", "--short-side", "48"]
    assert main(["transcode", str(videos / "clean.csv"), str(videos / "new"), *options]) == 0
    for new in (videos / "clean.csv", videos / "new" / "list.txt"):
        read = read_annotations(new, labelled=True)
        assert read.class_names == ("high jump",) and [Path(entry.path).name for entry in read] == ["good.mp4"]


@pytest.mark.parametrize("command", [["check-data"], ["transcode", "new"]])
def test_errors_are_one_line(command: list[str], videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, *output = command
    assert main([name, str(videos / "gone.csv"), *output]) == 2
    assert capsys.readouterr().err.startswith(f"videomae-fast {name}: error: annotations: there is no list file")
    for bad in (["--list-format", "v3"], ["--workers", "many"]):
        with pytest.raises(SystemExit):
            main([name, str(videos / "lists" / "list.csv"), *output, *bad])


def test_root_help_is_true(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are joined to the folder that holds the list, whatever the working directory has."""
    assert "default: the folder that holds the list file; no other folder is tried" in ROOT_HELP
    monkeypatch.chdir(videos)
    with pytest.raises(FileNotFoundError, match="none of the first 2 entries"):
        read_annotations("lists/list.csv")
    shutil.copy("good.mp4", "lists")
    assert read_annotations("lists/list.csv")[0].path == "lists/good.mp4"


def test_data_help_names_every_form(videos: Path) -> None:
    for form in ("list file", "folder of videos", "tar file of videos (.tar)"):
        assert form in DATA_HELP and form in LIST_HELP
    assert "mixture of these (.json)" in DATA_HELP and "mixture" not in LIST_HELP
    assert all(name in LIST_FORMAT_HELP for name in FORMATS)
    (videos / "mixture.json").write_text('[{"data": "lists/list.csv", "root": "."}, {"data": "good.mp4.d"}]')
    (videos / "good.mp4.d").mkdir()
    shutil.copy(videos / "good.mp4", videos / "good.mp4.d")
    assert len(read_mixture(videos / "mixture.json")) == 3
    with pytest.raises(ValueError, match="is a mixture of lists"):
        read_annotations(videos / "mixture.json")  # what transcode reads
