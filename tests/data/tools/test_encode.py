import errno
import gc
import io
import multiprocessing
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.data import files
from videomae_fast.data import VideoError, VideoFile, open_video
from videomae_fast.data.tools import encode
from videomae_fast.data.tools.check import check_video
from videomae_fast.data.tools.encode import encode_video


@pytest.mark.parametrize("name", [*files.KINDS, *files.DERIVED])
def test_every_frame_is_there_and_looks_the_same(kinds: Path, tmp_path: Path, name: str) -> None:
    encode_video(VideoFile(str(kinds / name)), tmp_path / "new.mp4", 1000, 8)
    with closing(open_video(kinds / name)) as old, closing(open_video(tmp_path / "new.mp4")) as new:
        assert new.num_frames == old.num_frames
        before, after = (video.frames(np.arange(video.num_frames)) for video in (old, new))
        assert after.shape[1] % 2 == after.shape[2] % 2 == 0
        if after.shape == before.shape:  # all but the odd one
            assert np.abs(after.astype(int) - before).mean() < 2
        assert [files.stamp(frame) for frame in after] == [files.stamp(frame) for frame in before]


def test_size_groups_and_times(kinds: Path, tmp_path: Path) -> None:
    encode_video(VideoFile(str(kinds / "vfr.mp4")), tmp_path / "new.mp4", 48, 5)
    with av.open(str(tmp_path / "new.mp4")) as new, av.open(str(kinds / "vfr.mp4")) as old:
        keys = [index for index, frame in enumerate(new.decode(video=0)) if frame.key_frame]
        assert keys[0] == 0 and max(np.diff([*keys, 60])) <= 5
        assert (new.streams.video[0].width, new.streams.video[0].height) == (64, 48)
        assert len(new.streams) == 1
        new.seek(0)
        times = [[frame.time for frame in container.decode(video=0)] for container in (old, new)]
        np.testing.assert_allclose(np.diff(times[1]), np.diff(times[0]), atol=1e-3)


def test_a_process_may_fork_afterwards(kinds: Path, tmp_path: Path) -> None:
    """What libav leaves to the garbage collector has no threads, for which a forked process would wait in vain."""
    gc.collect()
    gc.disable()
    try:
        encode_video(VideoFile(str(kinds / "rotated.mp4")), tmp_path / "new.mp4", 48, 8)
        child = multiprocessing.get_context("fork").Process(target=gc.collect)
        child.start()
        child.join(30)
        child.kill()
        child.join()
        assert child.exitcode == 0
    finally:
        gc.enable()


def test_a_result_with_another_number_of_frames_is_not_kept(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, target = VideoFile(str(clips / "h264.mp4")), tmp_path / "x.mp4"
    with monkeypatch.context() as patch, pytest.raises(VideoError, match="60 frames became 7"):
        patch.setattr(encode, "open_video", lambda _: open_video(clips / "more" / "seven.mp4"))
        encode_video(video, target, 64, 8)
    whole: Callable = encode._encode
    monkeypatch.setattr(encode, "_encode", lambda *arguments: whole(*arguments) - 1)
    with pytest.raises(VideoError, match="decoding it gives 59 frames instead of 60"):
        encode_video(video, target, 64, 8)
    assert not list(tmp_path.iterdir())


def test_a_damaged_frame_is_not_encoded(kinds: Path, tmp_path: Path) -> None:
    """In a place that `check_video`, which decodes one clip and the last frame, does not read."""
    whole = bytearray((kinds / "mpeg2.ts").read_bytes())
    for place in range(len(whole) // 188 // 5 * 188, len(whole) // 188 // 3 * 188, 188):
        whole[place + 60 : place + 100] = bytes(40)
    damaged = tmp_path / "damaged.ts"
    damaged.write_bytes(whole)
    assert check_video(VideoFile(str(damaged))).reason == ""
    with pytest.raises(VideoError, match=r"frame \d+ of \d+ is damaged") as caught:
        encode_video(VideoFile(str(damaged)), tmp_path / "x.mp4", 64, 8)
    assert caught.value.path == str(damaged) and not list(tmp_path.glob("*x.mp4*"))


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(files.stamped(1, 48, 64), "rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux([*cover.encode(), *sound.encode(frame), *sound.encode()])
    entry = VideoFile(str(tmp_path / "song.mp4"))
    with pytest.raises(VideoError, match="has no video stream") as caught:
        encode_video(entry, tmp_path / "x.mp4", 64, 8)
    assert caught.value.reason == check_video(entry).reason


def test_frames_of_several_sizes_are_not_made_one(tmp_path: Path) -> None:
    parts = [files.write_video(tmp_path / f"{width}.ts", 20, 48, width).read_bytes() for width in (64, 96)]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    with pytest.raises(VideoError, match=r"frames of several sizes|gives \d+ frames"):
        encode_video(VideoFile(str(tmp_path / "both.ts")), tmp_path / "x.mp4", 64, 8)


DISK_ERRORS = ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO"]


@pytest.mark.parametrize("name", DISK_ERRORS)
def test_an_error_of_the_disk_is_none_of_the_video(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    number = getattr(errno, name)

    class FullFile(io.BytesIO):
        """A file on a disk that has room for no more than 2000 bytes."""

        name = "x.mp4"

        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 2000:
                raise OSError(number, os.strerror(number))
            return super().write(data)

    monkeypatch.setattr(encode, "open", lambda *_: FullFile(), raising=False)
    with pytest.raises(OSError, match=rf"\[Errno {number}\] {os.strerror(number)}: '.*/x.mp4'") as caught:
        encode_video(VideoFile(str(clips / "h264.mp4")), tmp_path / "x.mp4", 64, 8)
    assert not isinstance(caught.value, av.FFmpegError) and not list(tmp_path.iterdir())


def test_a_name_that_the_file_system_cannot_have_is_an_error_of_the_video(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4" / "in").mkdir(parents=True)
    for target in ("x" * 300 + ".mp4", "x" * 300 + "/a.mp4", "file/a.mp4", "folder.mp4"):
        with pytest.raises(VideoError, match="cannot be the name of the new video"):
            encode_video(VideoFile(str(clips / "h264.mp4")), tmp_path / target, 64, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.mp4"]
