import hashlib
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from videomae_fast.data import Annotations, FrameFolder, TarMember, VideoFile, read_annotations


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


KINDS = [
    VideoFile("a.mp4", 3),
    VideoFile("b.mp4"),
    TarMember("c.tar", "x/1.mp4", 512, 2**40, 0),
    TarMember("c.tar", "x/2.mp4", 1024, 0),
    FrameFolder("frames", 7, 20, 399),
    FrameFolder("frames", 0, 0),
]


def test_every_kind_of_video_comes_back() -> None:
    assert list(Annotations(KINDS)) == KINDS and list(Annotations(KINDS[1::2])) == KINDS[1::2]
    joined = list(Annotations(KINDS, root="/data"))
    assert [entry.path for entry in joined] == [f"/data/{entry.path}" for entry in KINDS]
    assert [entry.name for entry in joined[1:5]] == [
        *("/data/b.mp4", "/data/c.tar/x/1.mp4", "/data/c.tar/x/2.mp4", "/data/frames")
    ]
    assert Annotations(KINDS).has_labels and not Annotations(KINDS[1::2]).has_labels


def test_fingerprint_is_what_checkpoints_hold(lists: Path) -> None:
    """The numbers of the lines as they are, also those of a video file, then the names below the shared folder."""
    (lists / "one").mkdir()
    (lists / "one" / "a.mp4").touch()
    numbers = np.array([[0, -1, 0], [7, -3, 0], [3, 37, 0]], dtype=np.int64)
    digest = hashlib.sha256(numbers.tobytes() + b"a.mp4\0\0b.mp4\0\0frames\0\0").hexdigest()[:16]
    for labels in ("", " 4"):
        path = write(lists, f"one/a.mp4 0 -1{labels}\none/b.mp4 7 -3{labels}\none/frames 3 37{labels}\n")
        assert read_annotations(path).fingerprint() == digest
    moved = [VideoFile("/far/a.mp4", 1), VideoFile("/far/b.mp4"), FrameFolder("/far/frames", 3, 37)]
    numbers[1] = numbers[0]
    digest = hashlib.sha256(numbers.tobytes() + b"a.mp4\0\0b.mp4\0\0frames\0\0").hexdigest()[:16]
    assert Annotations(moved).fingerprint() == digest


def test_a_list_is_never_held_as_objects(lists: Path) -> None:
    """Reading takes little more memory than the arrays do: about 70 bytes a line, and growing buffers."""
    (lists / "videos").mkdir()
    (lists / "videos" / "000000.mp4").touch()
    path = write(lists, "".join(f"videos/{i:06}.mp4 0 -1 {i % 400}\n" for i in range(20000)))
    tracemalloc.start()
    try:
        read = read_annotations(path)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(read) == 20000 and held < 20000 * 80 and peak < 20000 * 180


def test_labels_take_eight_bytes_each() -> None:
    plain, labelled = (Annotations(VideoFile(f"{i:06}.mp4", label) for i in range(5000)) for label in (None, 3))
    assert len(pickle.dumps(labelled)) - len(pickle.dumps(plain)) == pytest.approx(8 * 5000, abs=200)
