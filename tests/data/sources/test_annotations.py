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


def digest_of(numbers: list[list[int]], names: list[bytes]) -> str:
    """The fingerprint of videos: a digest of the digests of its columns, one after the other."""
    columns = [*np.array(numbers, dtype=np.int64).T, [0] * len(names), [len(name) for name in names]]
    digests = [hashlib.sha256(np.array(column, dtype=np.int64).tobytes()) for column in columns]
    return hashlib.sha256(b"".join(each.digest() for each in [*digests, hashlib.sha256(b"".join(names))])).hexdigest()[
        :16
    ]


def test_fingerprint_is_what_checkpoints_hold(lists: Path) -> None:
    """The numbers of the lines as they are, also those of a video file, then the names below the shared folder."""
    (lists / "one").mkdir()
    (lists / "one" / "a.mp4").touch()
    names = [b"a.mp4", b"b.mp4", b"frames"]
    digest = digest_of([[0, -1, 0], [7, -3, 0], [3, 37, 0]], names)
    for labels in ("", " 4"):
        path = write(lists, f"one/a.mp4 0 -1{labels}\none/b.mp4 7 -3{labels}\none/frames 3 37{labels}\n")
        assert read_annotations(path).fingerprint() == digest
    moved = [VideoFile("/far/a.mp4", 1), VideoFile("/far/b.mp4"), FrameFolder("/far/frames", 3, 37)]
    assert Annotations(moved).fingerprint() == digest_of([[0, -1, 0], [0, -1, 0], [3, 37, 0]], names)


@pytest.mark.parametrize("count", [0, 1, 20000])
def test_the_shared_folder_is_that_of_all_videos(count: int) -> None:
    """20000 videos are digested in two parts."""
    inner = [VideoFile(f"clips/{number:05}.mp4") for number in range(count)]
    here, there = (Annotations([VideoFile(f"{folder}{each.path}") for each in inner]) for folder in ("", "/far/away/"))
    assert here.fingerprint() == there.fingerprint()
    outside = [*inner, VideoFile("other/a.mp4")]
    digests = [Annotations(each).fingerprint() for each in (inner, outside, outside[::-1], [*outside, *outside])]
    assert len(set(digests)) == (4 if count else 3)  # one video is the same in both directions


def test_names_are_divided_as_they_were() -> None:
    """No byte may move from a name to the next, nor from a path to its member, unnoticed."""
    pairs = [("x/ab", "c"), ("x/a", "bc"), ("x/ab", "d")]
    digests = {Annotations([VideoFile(a), VideoFile(b)]).fingerprint() for a, b in [("x/ab", "x/c"), ("x/a", "x/bc")]}
    members = {Annotations([TarMember(path, member, 0, 5)]).fingerprint() for path, member in pairs}
    assert len(digests) == 2 and len(members) == 3


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


def test_labels_take_eight_bytes_each_if_they_differ() -> None:
    plain, equal, labelled = (
        len(pickle.dumps(Annotations(VideoFile(f"{i:06}.mp4", label(i)) for i in range(5000))))
        for label in (lambda i: None, lambda i: 3, lambda i: i % 3)
    )
    assert labelled - plain == pytest.approx(8 * 5000, abs=200) and equal - plain < 100


def test_a_label_after_many_equal_ones_is_kept() -> None:
    """Equal numbers are written when the first other one comes."""
    labels = [None] * 5000 + [7] + [None] * 5000
    read = Annotations(VideoFile(f"{i}.mp4", label) for i, label in enumerate(labels))
    assert [entry.label for entry in read] == labels and read.has_labels
    assert read.labels.tolist() == [-1 if label is None else label for label in labels]
