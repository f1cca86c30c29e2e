import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videomae_fast.data import FrameFolder, VideoError, open_entry
from videomae_fast.data.readers import IMAGE_TEMPLATE, ImageFolder


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
