"""Entries of one video, joined for retrieval."""

from pathlib import Path

import pytest

from videomae_fast.data import (
    Annotations,
    CaptionedEntry,
    CaptionedVideos,
    Mixture,
    VideoFile,
    VideoSource,
    merge_captions,
    read_captions,
)


def source(*entries: tuple[str, tuple[str, ...], float, float], root: str = "", stride: int = 1) -> VideoSource:
    rows = [CaptionedEntry(VideoFile(path, None), captions, start, end) for path, captions, start, end in entries]
    return VideoSource(CaptionedVideos(rows, root), frame_stride=stride)


def test_a_video_is_there_once_with_all_its_captions() -> None:
    whole = float("inf")
    first = source(
        ("a.mp4", ("one", "two"), 0, whole), ("b.mp4", ("three",), 0, 2), ("a.mp4", ("two", "four"), 0, whole)
    )
    second = source(("b.mp4", ("five",), 0, 2), ("b.mp4", ("six",), 2, 4), ("c.png", ("one",), 0, whole), stride=3)
    merged = merge_captions(Mixture([first, second]))
    found = [merged.captioned(index) for index in range(len(merged))]
    assert [(entry.name, entry.captions, entry.start, entry.end) for entry in found] == [
        ("a.mp4", ("one", "two", "four"), 0, whole),
        ("b.mp4", ("three", "five"), 0, 2),
        ("b.mp4", ("six",), 2, 4),
        ("c.png", ("one",), 0, whole),
    ]
    assert [merged.source(index).frame_stride for index in range(4)] == [1, 1, 3, 3]
    assert [entry.is_image for entry in found] == [False, False, False, True]


def test_a_source_of_which_nothing_is_left_is_left_out() -> None:
    entries = (("a.mp4", ("one",), 0.0, 1.0),)
    merged = merge_captions(Mixture([source(*entries), source(*entries, stride=2)]))
    assert len(merged) == len(merged.sources) == 1


def test_paths_are_joined_once(tmp_path: Path) -> None:
    """A list with a line for each caption."""
    (tmp_path / "list.tsv").write_text("path\tcaption\na.mp4\tone\nb.mp4\ttwo\na.mp4\tthree\n")
    (tmp_path / "a.mp4").touch()
    merged = merge_captions(Mixture([VideoSource(read_captions(tmp_path / "list.tsv"))]))
    found = [merged.captioned(index) for index in range(len(merged))]
    assert [(entry.name, entry.captions) for entry in found] == [
        (str(tmp_path / "a.mp4"), ("one", "three")),
        (str(tmp_path / "b.mp4"), ("two",)),
    ]


def test_without_captions() -> None:
    with pytest.raises(ValueError, match="annotations must have captions"):
        merge_captions(Mixture([VideoSource(Annotations([VideoFile("a.mp4", 0)]))]))
