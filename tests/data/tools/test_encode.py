import gc
import multiprocessing
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data import files
from videomae_fast.data import VideoError, VideoFile, open_video
from videomae_fast.data.tools import encode
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


def test_a_result_that_lost_frames_is_not_kept(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Callable = encode._encode
    monkeypatch.setattr(encode, "_encode", lambda *arguments: whole(*arguments) + 1)
    with pytest.raises(VideoError, match="61 frames became 60"):
        encode_video(VideoFile(str(clips / "h264.mp4")), tmp_path / "x.mp4", 64, 8)
    assert not list(tmp_path.iterdir())
