"""Memory: a clip of too many bytes is refused before it is decoded, and no second copy of its frames is made."""

import json
import struct
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data import files
from videomae_fast.data import VideoError, open_video
from videomae_fast.data.readers import open_entry
from videomae_fast.data.readers.av import AvVideo
from videomae_fast.data.readers.frame_stack import check_decoded_bytes
from videomae_fast.data.sources.annotations import VideoFile
from videomae_fast.data.sources.lists import read_annotations
from videomae_fast.data.tools.check import check_data

FRAME = 96 * 128 * 3  # bytes of a frame of the files here
SIDE = 2048
PEAK = """
import json, sys
from contextlib import closing
import numpy as np
from videomae_fast.data import open_video

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

before = peak()
with closing(open_video(sys.argv[1])) as video:
    video.frames(np.arange(16))
print(json.dumps(peak() - before))
"""


def test_the_clip_and_one_frame_of_the_video_count(reader: str, kinds: Path) -> None:
    needed = (5 + 1) * FRAME
    if reader == "decord":  # it does not tell a frame's size before it decodes all
        with pytest.raises(ValueError, match="max_decoded_bytes needs reader av or torchcodec"):
            open_video(kinds / "h264.mp4", reader, max_decoded_bytes=needed)
        return
    with closing(open_video(kinds / "h264.mp4", reader, max_decoded_bytes=needed)) as video:
        assert video.frames(np.arange(5)).shape[0] == 5
        with pytest.raises(VideoError, match=r"h264\.mp4: 6 frames of 128 x 96 pixels.*more than max_decoded_bytes"):
            video.frames(np.arange(6))


def test_it_is_refused_before_it_is_decoded(kinds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_video(kinds / "h264.mp4", max_decoded_bytes=3 * FRAME)) as video:
        monkeypatch.setattr(AvVideo, "_decoded", None)
        with pytest.raises(VideoError, match="max_decoded_bytes"):
            video.frames(np.arange(16))


def test_a_frame_beyond_the_limit_is_refused_when_the_video_is_opened(kinds: Path) -> None:
    with pytest.raises(VideoError, match=r"h264\.mp4: .*max_decoded_bytes"):
        open_video(kinds / "h264.mp4", max_decoded_bytes=FRAME - 1)


def test_frames_count_as_they_are_scaled(kinds: Path) -> None:
    with closing(open_video(kinds / "h264.mp4", short_side=48, max_decoded_bytes=3 * FRAME)) as video:
        assert video.frames(np.arange(8)).shape == (8, 48, 64, 3)


def test_the_default_takes_what_people_have() -> None:
    check_decoded_bytes("4k.mp4", (64, 2160, 3840), (2160, 3840), 2 << 30)
    with pytest.raises(VideoError, match="max_decoded_bytes"):
        check_decoded_bytes("8k.mp4", (16, 8192, 8192), (8192, 8192), 2 << 30)


def test_check_data_names_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videomae_fast.data.readers.frame_stack.MAX_DECODED_BYTES", FRAME)
    files.write_video(tmp_path / "large.mp4", 1, height=8192, width=8192, preset="ultrafast", crf="51")
    (video,) = check_data(tmp_path).videos
    assert "more than max_decoded_bytes" in video.reason


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_frames_are_kept_once(tmp_path: Path) -> None:
    path = files.write_video(tmp_path / "large.mp4", 16, SIDE, SIDE, preset="ultrafast", crf="51", bf="0", g="16")
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    clip = 16 * SIDE * SIDE * 3
    assert clip < json.loads(done.stdout) < 1.6 * clip


@pytest.mark.parametrize("inside", [False, True], ids=["file", "tar"])
def test_a_forged_table_of_samples_is_refused_before_it_takes_memory(inside: bool, tmp_path: Path) -> None:
    path = files.write_video(tmp_path / "clip.mp4", 8)
    whole = bytearray(path.read_bytes())
    place = whole.index(b"stsz") + 8  # after kind, version and flags
    assert struct.unpack_from(">II", whole, place) == (0, 8)
    struct.pack_into(">II", whole, place, 1, 80_000_000)
    path.write_bytes(whole)
    if inside:
        with tarfile.open(tmp_path / "shard.tar", "w") as shard:
            shard.add(path, "clip.mp4")
        (entry,) = read_annotations(tmp_path / "shard.tar")
    else:
        entry = VideoFile(str(path))
    with pytest.raises(VideoError, match=r"clip\.mp4: its tables claim 80000000 samples or more, and it has"):
        open_entry(entry)


def test_whole_mp4_files_pass(tmp_path: Path) -> None:
    plain = files.write_video(tmp_path / "plain.mp4", 8)
    options = {"movflags": "frag_keyframe+empty_moov"}
    with av.open(str(plain)) as old, av.open(str(tmp_path / "fragments.mp4"), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    for name in ("plain.mp4", "fragments.mp4"):
        with closing(open_video(tmp_path / name)) as video:
            assert video.num_frames == 8
