import pickle
from pathlib import Path

import pytest

from videomae_fast.data import read_annotations


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A folder with three (empty) videos in `videos`, next to the folder `lists`, which is returned."""
    for name in ("a.mp4", "b c.mp4", "d.mkv"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / name).touch()
    (tmp_path / "lists").mkdir()
    return tmp_path / "lists"


def write(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_annotations_behave_like_a_sequence(lists: Path) -> None:
    read = read_annotations(write(lists, "a.mp4 0 -1\nd.mkv 0 -1\n"), root=lists.parent / "videos")
    assert len(read) == 2 and read[-1] == read[1] and list(pickle.loads(pickle.dumps(read))) == list(read)
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"{index} is out of range for 2"):
            read[index]


def test_annotations_are_a_handful_of_objects(lists: Path) -> None:
    path = write(lists, "".join(f"videos/{i:06}.mp4 0 -1\n" for i in range(20000)))
    (lists / "videos").mkdir()
    (lists / "videos" / "000000.mp4").touch()
    read = read_annotations(path)
    assert read[12345].path == str(lists / "videos" / "012345.mp4")
    assert len(pickle.dumps(read)) < 20000 * (17 + 2 * 8 + 3 * 8) + 2000  # the paths, ends of names, numbers
