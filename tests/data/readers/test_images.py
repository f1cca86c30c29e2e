import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videomae_fast.data import CaptionedEntry, FrameFolder, TarMember, VideoError, VideoFile, open_entry
from videomae_fast.data.readers import IMAGE_TEMPLATE, ImageFolder, open_captioned


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    for number in range(5, 15):
        image = Image.fromarray(np.full((40, 50, 3), number * 10, dtype=np.uint8))
        image.save(tmp_path / IMAGE_TEMPLATE.format(number), quality=95)
    return tmp_path


def test_image_folder(image_folder: Path) -> None:
    video = open_entry(FrameFolder(str(image_folder), 5, 10))
    assert isinstance(video, ImageFolder) and video.num_frames == 10
    frames = video.frames(np.array([9, 0, 0]))
    assert frames.dtype == np.uint8 and frames.shape == (3, 40, 50, 3)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [140, 50, 50], atol=1)
    video.close()


def test_names_by_template(image_folder: Path) -> None:
    Image.new("RGB", (50, 40), (200, 0, 0)).save(image_folder / "image_000005.png")
    video = open_entry(FrameFolder(str(image_folder), 5, 1), template="image_{:06}.png")
    assert video.frames(np.array([0])).mean((0, 1, 2)).tolist() == [200, 0, 0]


def test_image_folder_errors(image_folder: Path) -> None:
    with pytest.raises(VideoError, match="no such folder of frames"):
        open_entry(FrameFolder(str(image_folder / "gone"), 1, 3))
    with pytest.raises(VideoError, match=r"img_00015.jpg: no such frame"):
        ImageFolder(str(image_folder), 5, 11).frames(np.array([10]))
    Image.new("L", (30, 30)).save(image_folder / "img_00006.jpg")
    with pytest.raises(VideoError, match=r"several sizes: \[\(30, 30\), \(40, 50\)\]"):
        ImageFolder(str(image_folder), 5, 10).frames(np.array([0, 1]))
    with pytest.raises(VideoError, match=r"several sizes: \[\(30, 30\), \(40, 50\)\]"):
        list(ImageFolder(str(image_folder), 5, 11).stream(np.arange(3)))
    (image_folder / "img_00007.jpg").write_bytes(b"no image")
    with pytest.raises(VideoError, match=r"img_00007.jpg: .*cannot identify"):
        ImageFolder(str(image_folder), 5, 10).frames(np.array([2]))


def test_no_list_claims_images_without_limit(image_folder: Path) -> None:
    assert open_entry(FrameFolder(str(image_folder), 5, 1 << 22)).num_frames == 1 << 22
    for claimed in ((1 << 22) + 1, 10**17):
        with pytest.raises(VideoError, match=f"is said to have {claimed} images, more than 4194304"):
            open_entry(FrameFolder(str(image_folder), 5, claimed))


def test_images_that_are_no_regular_files_are_not_opened(image_folder: Path) -> None:
    (image_folder / "img_00005.jpg").unlink()
    os.mkfifo(image_folder / "img_00005.jpg")
    (image_folder / "img_00006.jpg").unlink()
    (image_folder / "img_00006.jpg").symlink_to("/dev/zero")
    for index, kind in ((0, "FIFO"), (1, "device")):
        with pytest.raises(VideoError, match=rf"img_0000{5 + index}.jpg: is a {kind}, not a regular file"):
            ImageFolder(str(image_folder), 5, 10).frames(np.array([index]))


@pytest.mark.parametrize("pixels", [1500, 500])  # Pillow warns, and gives up
def test_decompression_bombs_are_an_error(image_folder: Path, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    with pytest.raises(VideoError, match=r"img_00005.jpg: .*decompression bomb"):
        ImageFolder(str(image_folder), 5, 10).frames(np.array([0]))


def test_formats_that_run_programs_are_refused(image_folder: Path) -> None:
    Image.new("RGB", (50, 40)).save(image_folder / "img_00005.jpg", format="EPS")
    with pytest.raises(VideoError, match=r"img_00005.jpg: .*cannot identify"):
        ImageFolder(str(image_folder), 5, 10).frames(np.array([0]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "TGA"])
def test_formats_of_frames(image_folder: Path, kind: str) -> None:
    Image.new("RGB", (50, 40), (200, 0, 0)).save(image_folder / "img_00005.jpg", format=kind)
    frames = ImageFolder(str(image_folder), 5, 10).frames(np.array([0]))
    np.testing.assert_allclose(frames[0].mean((0, 1)), [200, 0, 0], atol=3)


def test_warnings_about_images_do_not_leak(image_folder: Path) -> None:
    grey = Image.fromarray((np.arange(2000).reshape(40, 50) % 200).astype(np.uint8))
    grey.convert("P").save(image_folder / "img_00005.jpg", format="PNG", transparency=bytes(range(0, 200, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ImageFolder(str(image_folder), 5, 10).frames(np.array([0])).shape == (1, 40, 50, 3)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "PNG"])
def test_an_image_is_a_video_of_one_frame(suffix: str, tmp_path: Path) -> None:
    pixels = np.zeros((40, 50, 3), dtype=np.uint8)
    pixels[:, 16:, 0] = 200
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", quality=95)
    data = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / "x.tar").write_bytes(b"before" + data + b"after")
    for entry in (
        VideoFile(str(tmp_path / f"a.{suffix}")),
        TarMember(str(tmp_path / "x.tar"), f"a.{suffix}", 6, len(data)),
    ):
        video = open_captioned(CaptionedEntry(entry, ("x",)))
        assert video.num_frames == 1 and video.fps == 0
        frames = video.frames(np.array([0, 0]))
        assert frames.shape == (2, 40, 50, 3) and frames.dtype == np.uint8
        np.testing.assert_allclose(frames[1].astype(int), pixels, atol=40 if suffix != "png" else 0)
        np.testing.assert_array_equal(next(video.stream(np.array([0]))), frames[0])
        with pytest.raises(ValueError, match=r"frames in \[0, 1\)"):
            video.frames(np.array([1]))
        video.close()


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    for mode, colour in (("L", 90), ("RGBA", (90, 90, 90, 10)), ("P", 3), ("1", 1), ("LA", (90, 4))):
        Image.new(mode, (6, 5), colour).save(tmp_path / f"{mode}.png")
        video = open_captioned(CaptionedEntry(VideoFile(str(tmp_path / f"{mode}.png")), ("x",)))
        assert video.frames(np.array([0])).shape == (1, 5, 6, 3)


def test_image_errors_name_the_image(tmp_path: Path) -> None:
    def read(name: str, limit: int = 1 << 20) -> None:
        video = open_captioned(CaptionedEntry(VideoFile(str(tmp_path / name)), ("x",)), max_decoded_bytes=limit)
        video.frames(np.array([0]))

    Image.new("RGB", (400, 300)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # Pillow would run it
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (
        ("gone.png", "gone.png: no such file"),
        ("empty.jpg", r"empty.jpg: the file is empty \(0 bytes\)"),
        ("pipe.png", "pipe.png: is a FIFO"),
        ("half.png", "half.png: cannot be read"),
        ("script.jpg", "script.jpg: cannot be read .*cannot identify"),
    ):
        with pytest.raises(VideoError, match=message):
            read(name)
    read("a.png", 2 * 400 * 300 * 3)
    with pytest.raises(VideoError, match="more than max_decoded_bytes 719999"):
        read("a.png", 2 * 400 * 300 * 3 - 1)
    (tmp_path / "x.tar").write_bytes(whole)
    for member in (
        TarMember(str(tmp_path / "x.tar"), "a.png", 1, len(whole)),
        TarMember(str(tmp_path / "x.tar"), "a.png", 1, 0),
    ):
        with pytest.raises(VideoError, match=r"x.tar/a.png: (the tar file has|is empty)"):
            open_captioned(CaptionedEntry(member, ("x",)))


def test_lists_without_captions_have_no_images(tmp_path: Path) -> None:
    """`open_entry` takes an image for what it always was there: no video."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with pytest.raises(VideoError, match="not a video container that is allowed"):
        open_entry(VideoFile(str(tmp_path / "a.png")))
