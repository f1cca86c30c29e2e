import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from videomae_fast.data import (
    Crop,
    CropBox,
    cut_clips,
    multi_scale_crop_box,
    random_resized_crop_box,
    sample_rng,
)
from videomae_fast.data.crops import crop_resize
from videomae_kernels import CroppedClips


def boxes(height: int, width: int, size: tuple[int, int] = (224, 224), draws: int = 4000) -> set[CropBox]:
    return {multi_scale_crop_box(height, width, size, sample_rng(0, sample)) for sample in range(draws)}


def test_ten_shapes_at_thirteen_places() -> None:
    drawn = boxes(400, 700)
    sides = [400, 350, 300, 264]
    shapes = {(sides[i], sides[j]) for i in range(4) for j in range(4) if abs(i - j) <= 1}
    assert len(shapes) == 10 and {(box.height, box.width) for box in drawn} == shapes
    for height, width in shapes:
        down, right = (400 - height) // 4, (700 - width) // 4
        places = {(i, j) for i in (0, 2, 4) for j in (0, 2, 4)} | {(1, 1), (1, 3), (3, 1), (3, 3)}
        expected = {(i * down, j * right) for i, j in places}
        assert {(box.top, box.left) for box in drawn if (box.height, box.width) == (height, width)} == expected


@pytest.mark.parametrize(("side", "snapped"), [(221, 221), (222, 224), (226, 224), (227, 227)])
def test_sides_within_two_pixels_snap(side: int, snapped: int) -> None:
    heights = {box.height for box in boxes(2 * side, int(side / 0.875) + 1)}
    assert snapped in heights and (side == snapped or side not in heights)


@pytest.mark.parametrize(("height", "width"), [(222, 500), (500, 223), (1, 1), (30, 40), (3, 1000), (1080, 1920)])
@pytest.mark.parametrize("size", [(224, 224), (112, 200), (64, 16)])
def test_boxes_stay_inside(height: int, width: int, size: tuple[int, int]) -> None:
    for top, left, box_height, box_width in boxes(height, width, size, draws=300):
        assert box_height >= 1 and box_width >= 1
        assert 0 <= top <= height - box_height and 0 <= left <= width - box_width


def test_oblong_crops_keep_the_wanted_shape() -> None:
    largest = max(boxes(400, 700, size=(100, 200)), key=lambda box: box.height * box.width)
    assert (largest.height, largest.width) == (350, 700)


@pytest.mark.parametrize("draw", [multi_scale_crop_box, random_resized_crop_box])
def test_crop_box_errors(draw: Callable) -> None:
    for bad in ((0, 5, (4, 4)), (5, 0, (4, 4)), (5, 5, (0, 4))):
        with pytest.raises(ValueError, match="sides must be at least 1"):
            draw(*bad, sample_rng(0, 0))


@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
def test_random_resized_boxes(size: tuple[int, int]) -> None:
    """Areas and aspect ratios fill their ranges evenly, and places the whole frame."""
    drawn = [random_resized_crop_box(400, 700, size, sample_rng(0, sample)) for sample in range(3000)]
    areas = np.array([box.height * box.width / (400 * 700) for box in drawn])
    aspects = np.log([box.width / box.height * size[0] / size[1] for box in drawn])
    assert 0.495 < areas.min() < 0.52 and areas.max() <= 1
    assert aspects.min() > math.log(3 / 4) - 0.01 and aspects.max() < math.log(4 / 3) + 0.01
    assert aspects.max() - aspects.min() > 0.9 * math.log(16 / 9) / (1 if size[0] != size[1] else 2)
    for top, left, height, width in drawn:
        assert 0 <= top <= 400 - height and 0 <= left <= 700 - width
    spare = [(box.top / (400 - box.height), box.left / (701 - box.width)) for box in drawn if box.height < 390]
    np.testing.assert_allclose(np.mean(spare, axis=0), 0.5, atol=0.05)


def test_random_resized_boxes_of_fine_tuning() -> None:
    drawn = [random_resized_crop_box(240, 320, (224, 224), sample_rng(0, n), (0.08, 1)) for n in range(4000)]
    areas = np.array([box.height * box.width / (240 * 320) for box in drawn])
    assert 0.078 < areas.min() < 0.09 and areas.max() > 0.95
    aspects = np.log([box.width / box.height for box in drawn if box.height * box.width < 0.5 * 240 * 320])
    np.testing.assert_allclose(
        np.histogram(aspects, 4, (-math.log(4 / 3), math.log(4 / 3)))[0] / len(aspects), 0.25, atol=0.04
    )


@pytest.mark.parametrize("areas", [(0, 1), (0.5, 0.4), (0.5, 1.1), (0.5,)])
def test_crop_areas_that_cannot_be(areas: tuple[float, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"crop areas must be \(smallest, largest\) with 0 < smallest <= largest <= 1, got"
    ):
        random_resized_crop_box(10, 10, (4, 4), sample_rng(0, 0), areas)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(10, 1000, CropBox(0, 493, 10, 13)), (1000, 10, CropBox(493, 0, 13, 10)), (1, 1, CropBox(0, 0, 1, 1))],
)
def test_random_resized_boxes_of_long_frames(height: int, width: int, expected: CropBox) -> None:
    """Where half of the area cannot have an allowed shape, the middle is taken."""
    assert random_resized_crop_box(height, width, (224, 224), sample_rng(0, 0)) == expected


def cut(height: int, width: int, boxes: list[CropBox], resize: str = "antialias") -> CroppedClips:
    frames = torch.arange(2 * height * width * 3).reshape(2, height, width, 3).to(torch.uint8)
    return cut_clips(frames, [Crop(box, number % 2 == 1) for number, box in enumerate(boxes)], (16, 16), resize)


def test_clips_come_in_the_fewest_bytes() -> None:
    small = [CropBox(4, 6, 18, 18), CropBox(8, 2, 20, 16)]  # 24 x 22 around them, resized 2 x 16 x 16
    large = cut(40, 40, small)
    assert large.frames.numel() == 2 * 2 * 16 * 16 * 3 and large.geometry[:, 1:3].tolist() == [[16, 16]] * 2
    assert large.first[0].tolist() == [*range(16)] * 2 and (large.tensors[3][:, 0] == 1).all()
    close = [CropBox(4, 6, 18, 18), CropBox(5, 7, 18, 18)]
    assert cut(40, 40, close).frames.numel() == 2 * 19 * 19 * 3
    assert cut(40, 40, close).geometry[:, 1:3].tolist() == [[19, 19]] * 2


def test_a_bilinear_crop_is_torchs() -> None:
    frames = torch.randint(0, 256, (2, 40, 50, 3), dtype=torch.uint8)
    ours = crop_resize(frames, CropBox(3, 5, 30, 40), (16, 16), "bilinear")
    planes = frames[:, 3:33, 5:45].permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(planes, (16, 16), mode="bilinear").permute(0, 2, 3, 1)
    assert (ours - expected).abs().max() <= 1


@pytest.mark.parametrize("resize", ["antialias", "pillow"])
@pytest.mark.parametrize(
    ("box", "size"),
    [
        (CropBox(3, 5, 90, 90), (64, 64)),
        (CropBox(0, 0, 100, 140), (64, 48)),
        (CropBox(10, 20, 30, 24), (64, 64)),
        (CropBox(7, 9, 64, 64), (64, 64)),
        (CropBox(99, 139, 1, 1), (8, 8)),
    ],
)
def test_crop_resize_equals_pillow(box: CropBox, size: tuple[int, int], resize: str) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 100, 140, 3), dtype=np.uint8)
    ours = crop_resize(torch.from_numpy(frames), box, size, resize)
    assert ours.dtype == torch.uint8 and ours.is_contiguous()
    area = (box.left, box.top, box.left + box.width, box.top + box.height)
    for frame, result in zip(frames, ours, strict=True):
        pillow = Image.fromarray(frame).crop(area)
        for sides in ((size[1], pillow.height), size[::-1]):  # in the order that Pillow had before 13
            pillow = pillow.resize(sides, Image.Resampling.BILINEAR)
        difference = np.abs(np.asarray(pillow).astype(int) - result.numpy())
        assert difference.max() <= (1 if resize == "antialias" else 0) and (difference == 0).mean() > 0.99


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: (x.float(), CropBox(0, 0, 4, 4), (4, 4)), TypeError, "must be uint8, got torch.float32"),
        (lambda x: (x[0], CropBox(0, 0, 4, 4), (4, 4)), ValueError, r"\(T, H, W, 3\), got \(10, 12, 3\)"),
        (lambda x: (x, CropBox(7, 0, 4, 4), (4, 4)), ValueError, "cannot cut .* from frames of 10 x 12"),
        (lambda x: (x, CropBox(0, -1, 4, 4), (4, 4)), ValueError, "cannot cut"),
        (lambda x: (x, CropBox(0, 0, 4, 4), (0, 4)), ValueError, "cannot cut"),
    ],
)
def test_crop_resize_errors(change: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        crop_resize(*change(torch.zeros(2, 10, 12, 3, dtype=torch.uint8)))
