"""Every reader, on every kind of file: index n is the n-th frame that sequential decoding gives."""

import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.data import files
from videomae_fast.data import VideoError, open_video

Sequential = Callable[[Path], list[np.ndarray]]

# Where a reader is known to be wrong or to give up. What av does is not excused anywhere.
SEEKS_WRONGLY = "decord seeks to another frame"
NO_TIMES = "torchcodec reaches the end too early"
KNOWN = {
    "av": {},
    "decord": {
        "av1.mp4": "decord 0.6 has no AV1 decoder",
        "refresh.mp4": SEEKS_WRONGLY,
        "negative.mkv": "decord leaves out frames before time 0 and repeats others",
        **dict.fromkeys(
            ("h264.ts", "mpeg2.ts", "tail.ts", "hevc.mp4", "mpeg4.mp4", "open_gop.mp4", "wmv2.wmv"), SEEKS_WRONGLY
        ),
    },
    "torchcodec": {
        "refresh.mp4": "torchcodec starts from a key frame that is none",
        **dict.fromkeys(("h264.ts", "h264.avi", "mpeg1.mpg", "mpeg2.ts", "mpeg4.avi", "tail.ts"), NO_TIMES),
        **dict.fromkeys(("open_gop.mp4", "hevc_edit_list.mp4"), NO_TIMES),
    },
}


def draws(num_frames: int) -> Iterator[np.ndarray]:
    """All frames; the last, alone; and clips from anywhere, spread over groups of pictures, repeated and reversed."""
    yield np.arange(num_frames)
    yield np.array([num_frames - 1])
    rng = np.random.default_rng(0)
    for _ in range(4):
        yield np.minimum(rng.integers(num_frames) + 4 * np.arange(16), num_frames - 1)
        yield rng.integers(num_frames, size=5)


@pytest.mark.parametrize("name", [*files.KINDS, *files.DERIVED])
def test_frames_equal_those_of_sequential_decoding(reader: str, name: str, kinds: Path, sequential: Sequential) -> None:
    expected = np.stack(sequential(kinds / name))
    try:
        with closing(open_video(kinds / name, reader)) as video:
            assert video.num_frames == len(expected)
            for indices in draws(video.num_frames):
                frames = video.frames(indices)
                assert frames.dtype == np.uint8
                np.testing.assert_array_equal(frames, expected[indices])
    except (AssertionError, VideoError):
        if name in KNOWN[reader]:
            pytest.xfail(KNOWN[reader][name])
        raise


def test_files_made_for_it_are_what_they_say(kinds: Path, stamp: Callable, sequential: Sequential) -> None:
    """Sequential decoding itself is checked against the numbers written into the frames."""
    shown = {name: [stamp(frame) for frame in sequential(kinds / name)] for name in ("h264.mp4", "edit_list.mp4")}
    assert shown == {"h264.mp4": list(range(60)), "edit_list.mp4": list(range(10, 60))}
    assert sequential(kinds / "rotated.mp4")[0].shape == (128, 96, 3)
    assert 10 < len(sequential(kinds / "cut.mkv")) < 60
    assert 10 < len(sequential(kinds / "tail.ts")) < 60


def test_colours_are_rgb(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    red = np.zeros((64, 64, 3), dtype=np.uint8)
    red[..., 0] = 200
    monkeypatch.setattr(files, "stamped", lambda index, height, width: red)
    frames = open_video(files.write_video(tmp_path / "red.mp4", height=64, width=64), reader).frames(np.array([0]))
    np.testing.assert_allclose(frames[0].mean((0, 1)), [200, 0, 0], atol=6)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.mp4", "no such file"),
        ("empty.mp4", r"empty \(0 bytes\)"),
        ("garbage.mp4", "cannot open"),
        ("half.mp4", "cannot open"),
        ("audio.mp4", "cannot open|no video stream"),
        ("", "is a folder"),
    ],
)
def test_unreadable_files_are_named(reader: str, bad_clips: Path, name: str, reason: str) -> None:
    with pytest.raises(VideoError, match=reason) as caught:
        open_video(bad_clips / name, reader)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.path == str(bad_clips / name) and "\n" not in error.reason
    assert str(error) == f"{error.path}: {error.reason}"


def test_damage_inside_the_stream_is_an_error_or_frames(reader: str, clips: Path, tmp_path: Path) -> None:
    """Whatever the decoder makes of damaged data, it ends as frames of the right shape or as a VideoError."""
    data = bytearray((clips / "h264.mp4").read_bytes())
    data[200 : len(data) // 2] = bytes(len(data) // 2 - 200)
    (tmp_path / "damaged.mp4").write_bytes(data)
    try:
        video = open_video(tmp_path / "damaged.mp4", reader)
        assert video.frames(np.array([video.num_frames - 1])).shape == (1, 96, 128, 3)
    except VideoError as error:
        assert error.path.endswith("damaged.mp4")


def test_names_that_look_like_urls_or_are_not_utf8(
    reader: str, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a:b.mp4", "a, b?c%20.mp4"]
    if reader == "av":  # the others want text
        names.append(os.fsdecode(b"caf\xe9.mp4"))
    for name in names:
        shutil.copy(clips / "h264.mp4", name)
        assert open_video(name, reader).num_frames == 60


def test_bad_arguments(clips: Path) -> None:
    with pytest.raises(ValueError, match=r"reader must be one of \['av', 'decord', 'torchcodec'\], got 'opencv'"):
        open_video(clips / "h264.mp4", reader="opencv")
    with pytest.raises(ValueError, match="short_side needs reader av, got 'decord'"):
        open_video(clips / "h264.mp4", reader="decord", short_side=64)
    with pytest.raises(ValueError, match="short_side must not be negative, got -1"):
        open_video(clips / "h264.mp4", short_side=-1)


def test_bad_indices(reader: str, clips: Path) -> None:
    for indices in ([60], [-1], [], [[0]]):
        with pytest.raises(ValueError, match=r"frames in \[0, 60\)"):
            open_video(clips / "h264.mp4", reader).frames(np.array(indices))


@pytest.mark.parametrize("name", ["av", "decord", "torchcodec"])
def test_missing_package_names_the_extra(clips: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # makes importing it fail
    monkeypatch.setitem(sys.modules, f"{name}.decoders", None)
    with pytest.raises(ImportError, match=r"videomae-fast\[\w+\]"):
        open_video(clips / "h264.mp4", name)


def test_real_clips_agree_with_sequential_decoding(extra_clips: Path, sequential: Sequential) -> None:
    """The default reader opens whatever FFmpeg decodes, and its frames are those of a sequential decode."""
    compared = 0
    for path in sorted(p for p in extra_clips.rglob("*") if p.suffix in (".mp4", ".mkv", ".webm", ".avi")):
        try:
            expected = sequential(path)
        except Exception:
            with pytest.raises(VideoError):
                open_video(path)
            continue
        with closing(open_video(path)) as video:
            assert video.num_frames == len(expected), path
            for indices in list(draws(len(expected)))[2:]:
                for index, frame in zip(indices, video.frames(indices), strict=True):
                    np.testing.assert_array_equal(frame, expected[index], err_msg=f"{path} frame {index}")
        compared += 1
    assert compared
