"""The device's one resampling against Pillow's op by op, and what a worker cuts for it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

import videomae_kernels
from videomae_fast.data import Crop, CropBox
from videomae_fast.data.augment import AppliedOp, RandAugmentDraw
from videomae_fast.data.augment.geometry import clip_matrix, op_matrix, warped_clips
from videomae_fast.data.augment.pillow import pillow_frames
from videomae_fast.data.augment.policy import GEOMETRIC

SIZE = (48, 60)  # large enough that no region is shrunk
CROP = Crop(CropBox(5, 11, 47, 60), flipped=False)


def published(frames: Tensor, crop: Crop, draw: RandAugmentDraw, size: tuple[int, int]) -> Tensor:
    """(3, T, H, W): Pillow on whole frames, then crop, bilinear resize and flip."""
    top, left, height, width = crop.box
    moved = pillow_frames(frames, draw)[:, top : top + height, left : left + width]
    clip = functional.interpolate(moved.permute(3, 0, 1, 2).float(), size, mode="bilinear")
    return clip.flip(3) if crop.flipped else clip


def warped(frames: Tensor, crop: Crop, draw: RandAugmentDraw, size: tuple[int, int]) -> Tensor:
    clips, matrix = warped_clips(frames, [crop], [draw], size)
    return videomae_kernels.warp_clips(clips, matrix)[0]


@pytest.mark.parametrize("op", sorted(GEOMETRIC))
def test_matrices_are_those_of_pillow(op: str) -> None:
    """By nearest pixels of an image whose pixels are their own numbers."""
    height, width = 40, 64
    value = 17.0 if op == "rotate" else 0.23
    numbers = Image.fromarray(np.arange(height * width, dtype=np.int32).reshape(height, width))
    if op == "rotate":
        expected = np.asarray(numbers.rotate(value, Image.Resampling.NEAREST, fillcolor=-1))
    else:
        coefficients = tuple(op_matrix(op, value, height, width)[:2].flatten())
        expected = np.asarray(numbers.transform((width, height), Image.Transform.AFFINE, coefficients, fillcolor=-1))
    y, x = np.mgrid[:height, :width] + 0.5
    point_x, point_y, _ = op_matrix(op, value, height, width) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    inside = (point_x >= 0) & (point_x < width) & (point_y >= 0) & (point_y < height)
    found = np.where(inside, np.floor(point_y) * width + np.floor(point_x), -1).reshape(height, width)
    assert (found != expected).mean() < 0.005  # points on an edge may fall on either side


def test_directions_are_the_published_ones() -> None:
    point = np.array([10.0, 20.0, 1.0])
    assert op_matrix("shear_x", 0.2, 50, 80) @ point == pytest.approx([14, 20, 1])
    assert op_matrix("shear_y", 0.2, 50, 80) @ point == pytest.approx([10, 22, 1])
    assert op_matrix("translate_x", 0.3, 50, 80) @ point == pytest.approx([34, 20, 1])
    assert op_matrix("translate_y", 0.3, 50, 80) @ point == pytest.approx([10, 35, 1])
    assert op_matrix("rotate", 90, 50, 80) @ np.array([40.0, 0.0, 1.0]) == pytest.approx([65, 25, 1])


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("box", [CropBox(5, 11, 47, 60), CropBox(0, 0, 61, 83), CropBox(20, 70, 30, 13)])
def test_a_draw_without_geometry_is_the_published_crop(frames: Tensor, box: CropBox, flipped: bool) -> None:
    crop, draw = Crop(box, flipped), (AppliedOp("invert", 0.0),)
    expected = published(frames, crop, (), SIZE)
    torch.testing.assert_close(warped(frames, crop, draw, SIZE), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("op", sorted(GEOMETRIC))
@pytest.mark.parametrize("sign", [-1, 1])
def test_one_op_is_close_to_the_published_pixels(frames: Tensor, op: str, sign: int, flipped: bool) -> None:
    value = {"rotate": 21.0, "shear_x": 0.21, "shear_y": 0.21}.get(op, 0.315) * sign
    crop, draw = Crop(CROP.box, flipped), (AppliedOp(op, value),)
    difference = (warped(frames, crop, draw, SIZE) - published(frames, crop, draw, SIZE)).abs()
    # Bicubic and rounded, then bilinear, against bilinear once; at the edge of the frame, also mixed with fill. Half a
    # pixel beside it, the mean is above 3.
    assert difference.mean() < 2.5 and difference.median() < 1


def test_several_ops_are_close_to_the_published_pixels(frames: Tensor) -> None:
    """Order matters, so another order is far off."""
    draw = (AppliedOp("shear_x", 0.2), AppliedOp("color", 1.5), AppliedOp("rotate", -20.0), AppliedOp("shear_y", 0.2))
    geometric = tuple(one for one in draw if one.op in GEOMETRIC)
    crop = Crop(CropBox(15, 20, 30, 40), flipped=True)
    difference = (warped(frames, crop, draw, SIZE) - published(frames, crop, geometric, SIZE)).abs()
    other = (warped(frames, crop, draw[::-1], SIZE) - published(frames, crop, geometric, SIZE)).abs()
    assert difference.mean() < 2.5 and other.mean() > 20


@pytest.mark.parametrize("op", sorted(GEOMETRIC))
def test_regions_hold_all_that_a_clip_shows(frames: Tensor, op: str) -> None:
    """The clip of a region equals the clip of the whole frame."""
    rng = np.random.default_rng(1)
    for _ in range(5):
        height, width = (int(n) for n in rng.integers(8, 50, 2))
        box = CropBox(int(rng.integers(61 - height)), int(rng.integers(83 - width)), height, width)
        crop = Crop(box, bool(rng.integers(2)))
        draw = (AppliedOp(op, float(rng.uniform(-1, 1)) * (30 if op == "rotate" else 0.4)),)
        whole = videomae_kernels.crop_clips([frames], [0], [(0, 0, 61, 83)], [False], SIZE, "bilinear")
        matrix = torch.from_numpy(clip_matrix(crop, draw, (61, 83), SIZE)[None, :2]).float()
        expected = videomae_kernels.warp_clips(whole, matrix)
        clips, of_region = warped_clips(frames, [crop], [draw], SIZE)
        found = videomae_kernels.warp_clips(clips, of_region)
        assert clips.nbytes < whole.nbytes
        assert ((found - expected).abs() > 0.01).double().mean() < 0.005  # points on the edge of the frame


def test_a_clip_from_outside_of_the_frame_is_fill(frames: Tensor) -> None:
    crop, draw = Crop(CropBox(0, 0, 10, 10), flipped=False), (AppliedOp("translate_x", -0.4),)
    clips, matrix = warped_clips(frames, [crop], [draw], SIZE)
    assert clips.frames.numel() == 3 * 3
    assert (videomae_kernels.warp_clips(clips, matrix) == 128).all()


def test_large_frames_are_shrunk_to_the_resolution_of_the_clip(frames: Tensor) -> None:
    size = (18, 22)
    crop, draw = Crop(CropBox(4, 4, 45, 66), flipped=False), (AppliedOp("rotate", 10.0),)
    expected = published(frames, crop, draw, size)
    for resize in ("bilinear", "antialias", "pillow"):
        clips, matrix = warped_clips(frames, [crop], [draw], size, resize)
        assert clips.frames.numel() < 2 * 3 * 3 * 18 * 22
        shrunk = videomae_kernels.warp_clips(clips, matrix)[0]
        beside = videomae_kernels.warp_clips(clips, matrix + torch.tensor([[0, 0, 0.5], [0, 0, 0.5]]))[0]
        assert (shrunk - expected).abs().mean() < 5 < 10 < (beside - expected).abs().mean()
    plain, of_plain = warped_clips(frames, [crop], [()], size)
    shrunk = videomae_kernels.warp_clips(plain, of_plain)[0]
    torch.testing.assert_close(shrunk, published(frames, crop, (), size), rtol=0, atol=0.51)  # rounded to uint8


def test_clips_of_a_video_have_their_own_regions(frames: Tensor) -> None:
    crops = [CROP, Crop(CropBox(20, 0, 30, 30), flipped=True)]
    draws: list[RandAugmentDraw] = [(AppliedOp("rotate", 12.0),), ()]
    clips, matrix = warped_clips(frames, crops, draws, SIZE)
    both = videomae_kernels.warp_clips(clips, matrix)
    assert matrix.shape == (2, 2, 3) and matrix.dtype == torch.float32 and clips.shape == (2, 3, 3, *SIZE)
    for b in range(2):
        torch.testing.assert_close(both[b], warped(frames, crops[b], draws[b], SIZE))


def test_bad_arguments_are_errors(frames: Tensor) -> None:
    with pytest.raises(ValueError, match="one draw for each of 1 crops, got 0"):
        warped_clips(frames, [CROP], [], SIZE)
    for box in (CropBox(20, 0, 61, 10), CropBox(-1, 0, 10, 10), CropBox(0, 0, 0, 4)):
        with pytest.raises(ValueError, match=r"CropBox\(.*\) does not lie in frames of 61 x 83"):
            warped_clips(frames, [Crop(box, False)], [()], SIZE)
    with pytest.raises(TypeError, match=r"uint8.*torch.float32"):
        warped_clips(frames.float(), [CROP], [()], SIZE)
