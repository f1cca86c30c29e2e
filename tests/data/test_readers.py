import pickle
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from videomae_fast.data import VideoEntry, VideoError, open_video
from videomae_fast.data.readers import IMAGE_TEMPLATE, ImageFolder, open_entry

Stamp = Callable[[np.ndarray], int]
SIXTY = ["h264.mp4", "h264.mkv", "mpeg4.avi", "mjpeg.avi", "more/vp8.webm", "more/tall.mp4"]


@pytest.mark.parametrize("name", SIXTY)
def test_index_is_the_nth_displayed_frame(clips: Path, stamp: Stamp, name: str) -> None:
    assert open_video(clips / name).num_frames == 60
    for indices in ([0], [59], [13], [40, 7, 7, 59], range(20, 60, 4)):
        frames = open_video(clips / name).frames(np.array(indices))
        assert frames.dtype == np.uint8 and frames.shape[::3] == (len(indices), 3)
        assert [stamp(frame) for frame in frames] == list(indices)


def test_reader_can_be_asked_again(clips: Path, stamp: Stamp) -> None:
    video = open_video(clips / "mpeg4.avi")
    assert [[stamp(frame) for frame in video.frames([i, i + 3])] for i in (30, 2)] == [[30, 33], [2, 5]]


def test_short_and_tall_videos(clips: Path) -> None:
    assert open_video(clips / "more" / "one.mp4").num_frames == 1
    assert open_video(clips / "more" / "seven.mp4").num_frames == 7
    assert open_video(clips / "more" / "tall.mp4").frames([0]).shape == (1, 160, 96, 3)


def test_colours_are_rgb(tmp_path: Path) -> None:
    red = np.zeros((64, 64, 3), dtype=np.uint8)
    red[..., 0] = 200
    with av.open(str(tmp_path / "red.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(red, "rgb24")))
        container.mux(stream.encode())
    np.testing.assert_allclose(open_video(tmp_path / "red.mp4").frames([0])[0].mean((0, 1)), [200, 0, 0], atol=6)


def test_frames_cut_off_by_an_edit_list_do_not_count(
    clips: Path, tmp_path: Path, stamp: Stamp, copy_from: Callable
) -> None:
    path = copy_from(clips / "h264.mp4", tmp_path / "cut.mp4", 0.4)
    with av.open(str(path)) as container:
        shown = [stamp(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert shown == list(range(10, 60))  # the file still holds frames before the 10th
    assert open_video(path).num_frames == 50
    assert [stamp(open_video(path).frames([i])[0]) for i in range(0, 50, 7)] == shown[::7]


def test_truncated_video_gives_its_good_frames(clips: Path, tmp_path: Path, stamp: Stamp) -> None:
    whole = (clips / "h264.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    video = open_video(tmp_path / "cut.mkv")
    assert 10 < video.num_frames < 60
    shown = [stamp(frame) for frame in video.frames(np.arange(video.num_frames))]
    assert shown[:-3] == list(range(len(shown) - 3))  # among the last ones, a frame lost to the cut may be missing
    assert all(earlier < later for earlier, later in pairwise(shown))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.mp4", "no such file"),
        ("empty.mp4", r"empty \(0 bytes\)"),
        ("garbage.mp4", "decord cannot open"),
        ("half.mp4", "decord cannot open"),
        ("", "is a folder"),
    ],
)
def test_unreadable_files_are_named(bad_clips: Path, name: str, reason: str) -> None:
    with pytest.raises(VideoError, match=reason) as caught:
        open_video(bad_clips / name)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.path == str(bad_clips / name) and "\n" not in error.reason
    assert str(error) == f"{error.path}: {error.reason}"


def test_damage_inside_the_stream_is_an_error_or_frames(clips: Path, tmp_path: Path) -> None:
    """Whatever the decoder makes of damaged data, it ends as frames of the right shape or as a VideoError."""
    data = bytearray((clips / "h264.mp4").read_bytes())
    data[200 : len(data) // 2] = bytes(len(data) // 2 - 200)
    (tmp_path / "damaged.mp4").write_bytes(data)
    try:
        assert open_video(tmp_path / "damaged.mp4").frames([40]).shape == (1, 96, 128, 3)
    except VideoError as error:
        assert error.path.endswith("damaged.mp4")


def test_unknown_reader_and_bad_indices(clips: Path) -> None:
    with pytest.raises(ValueError, match=r"reader must be one of \['decord'\], got 'opencv'"):
        open_video(clips / "h264.mp4", reader="opencv")
    for indices in ([60], [-1], [], [[0]]):
        with pytest.raises(ValueError, match=r"frames in \[0, 60\)"):
            open_video(clips / "h264.mp4").frames(np.array(indices))


def test_missing_decord_names_the_extra(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)  # makes `import decord` fail
    with pytest.raises(ImportError, match=r"videomae-fast\[video\]"):
        open_video(clips / "h264.mp4")


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    for number in range(5, 15):
        image = Image.fromarray(np.full((40, 50, 3), number * 10, dtype=np.uint8))
        image.save(tmp_path / IMAGE_TEMPLATE.format(number), quality=95)
    return tmp_path


def test_image_folder(image_folder: Path) -> None:
    video = open_entry(VideoEntry(str(image_folder), 5, 10))
    assert isinstance(video, ImageFolder) and video.num_frames == 10
    frames = video.frames(np.array([9, 0, 0]))
    assert frames.dtype == np.uint8 and frames.shape == (3, 40, 50, 3)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [140, 50, 50], atol=1)


def test_image_folder_errors(image_folder: Path) -> None:
    with pytest.raises(VideoError, match="no such folder of frames"):
        open_entry(VideoEntry(str(image_folder / "gone"), 1, 3))
    with pytest.raises(VideoError, match=r"img_00015.jpg: no such frame"):
        ImageFolder(str(image_folder), 5, 11).frames([10])
    Image.new("L", (30, 30)).save(image_folder / "img_00006.jpg")
    with pytest.raises(VideoError, match=r"img_00006.jpg is \(30, 30\), others are \(40, 50\)"):
        ImageFolder(str(image_folder), 5, 10).frames([0, 1])
    (image_folder / "img_00007.jpg").write_bytes(b"no image")
    with pytest.raises(VideoError, match=r"img_00007.jpg: cannot identify"):
        ImageFolder(str(image_folder), 5, 10).frames([2])


def test_real_clips_agree_with_sequential_decoding(extra_clips: Path) -> None:
    """Frames drawn by index equal those of a sequential decode, in every H.264 file of the folder."""
    compared = 0
    for path in sorted(extra_clips.rglob("*.mp4")):
        try:
            with av.open(str(path)) as container:
                stream = container.streams.best("video")
                if stream.codec_context.name != "h264" or stream.codec_context.pix_fmt != "yuv420p":
                    continue
                frames = {}
                for index, frame in enumerate(container.decode(stream)):
                    if index % 37 == 0:
                        frames[index] = frame.to_ndarray(format="rgb24")
        except av.FFmpegError:
            continue
        video = open_video(path)
        assert video.num_frames == index + 1, path
        for wanted, expected in frames.items():
            np.testing.assert_array_equal(video.frames([wanted])[0], expected, err_msg=f"{path} frame {wanted}")
        compared += 1
    assert compared
