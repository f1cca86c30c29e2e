"""Clips sampled at affine positions: equal to the definition in float64, torch's resize and Pillow's transform."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels import truth
from tests.kernels.conftest import Backend
from videomae_fast.memory.fake_cuda import fake_cuda
from videomae_kernels import CroppedClips, check_indices, crop_clips, crop_matrix, warp_clips
from videomae_kernels.pixels.crops import RESIZES

SIZE, FRAMES, FILL = (13, 19), 5, 93  # of several blocks of pixels, the last in part; several chunks of frames
SHAPES = (24, 31), (9, 50), (1, 1)
SAMPLING = 0.02  # float32 has a position of up to 100 to some 1e-5 of a pixel, and pixels differ by up to 255


def rotation(degrees: float, scale: float, u: float, v: float) -> list[list[float]]:
    """About the point (u, v) of the source, which the middle of the clip goes to."""
    a = math.radians(degrees)
    (c, s), (height, width) = (scale * math.cos(a), scale * math.sin(a)), SIZE
    return [[c, -s, u - c * width / 2 + s * height / 2], [s, c, v - s * width / 2 - c * height / 2]]


MATRICES = {
    "turned and shrunk": rotation(21, 1.3, 15.5, 12),
    "turned and enlarged": rotation(-75, 0.3, 15.5, 12),
    "turned at a corner": rotation(33, 1.1, 0, 0),
    "sheared": [[1.01, 0.3, -2.02], [0, 1.02, 0.03]],
    "moved": [[1, 0, 9.55], [0, 1, -4.45]],
    "flipped": [[-1.6, 0, 30.8], [0, 1.7, 0.5]],
    "at one point": [[0, 0, 0.75], [0, 0, 0.25]],
    "nowhere": [[1, 0, 400], [0, 1, 400]],
}


def sources(channels: int = 3) -> list[Tensor]:
    return [torch.randint(0, 256, (FRAMES, *shape, channels), dtype=torch.uint8) for shape in SHAPES]


def whole(frames: Sequence[Tensor], numbers: Sequence[int], device: torch.device | str = "cpu") -> CroppedClips:
    """Clips of whole sources."""
    boxes = [(0, 0, *frames[number].shape[1:3]) for number in numbers]
    return crop_clips(frames, numbers, boxes, [False] * len(numbers), SIZE).to(device)


def matrices(rows: object, device: torch.device | str = "cpu") -> Tensor:
    return torch.tensor(rows, dtype=torch.float32, device=device)


@pytest.mark.parametrize("channels", [3, 1])
def test_pixels_follow_their_definition(channels: int, backend: Backend) -> None:
    frames, matrix = sources(channels), matrices(list(MATRICES.values()))
    numbers = [n % len(frames) if n > 2 else 0 for n in range(len(matrix))]
    ours = warp_clips(whole(frames, numbers, backend.device), matrix.to(backend.device), FILL).cpu()
    assert ours.shape == (len(matrix), channels, FRAMES, *SIZE) and ours.dtype == torch.float32
    for clip, number in enumerate(numbers):
        expected, distance = truth.warped(frames[number], matrix[clip], SIZE, FILL)
        clear = distance > 1e-4
        assert clear.float().mean() > 0.95
        error = (ours[clip] - expected).abs()[:, :, clear]
        assert error.max() < SAMPLING, f"{[*MATRICES][clip]}: {error.max()}"
    assert (ours[-1] == FILL).all()


def test_no_error_but_rounding_where_positions_are_exact(backend: Backend) -> None:
    """Numbers of few bits: a point on the left or upper edge is in the source, one on the right or lower is not."""
    frames = sources()
    matrix = matrices([[[1.5, 0.25, -3.125], [-0.5, 1, 9.75]], [[1, 0, -0.5], [0, 1, -0.5]], [[2, 0, 12], [0, 2, -2]]])
    ours = warp_clips(whole(frames, [0, 0, 0], backend.device), matrix.to(backend.device), FILL).cpu()
    for clip in range(3):
        expected, distance = truth.warped(frames[0], matrix[clip], SIZE, FILL)
        assert (ours[clip] - expected).abs()[:, :, distance > 0].max() < 1e-4
    assert torch.equal(ours[1, :, :, 0, 0], frames[0][:, 0, 0].T.float())  # the point (0, 0)
    assert (ours[2, :, :, :, 9] == FILL).all() and (ours[2, :, :, 3, 8] != FILL).any()  # columns 31 and 29 of 31


BOXES = {  # source, (top, left, height, width), flipped
    "smaller": (0, (3, 5, 20, 25), False),
    "smaller, flipped": (0, (1, 0, 23, 31), True),
    "as it is": (0, (7, 9, 13, 19), True),
    "larger": (1, (1, 20, 8, 9), True),
    "larger one way only": (1, (0, 2, 3, 44), False),
    "one pixel": (1, (5, 40, 1, 1), False),
}


@pytest.mark.parametrize("name", BOXES)
def test_the_matrix_of_a_crop_makes_its_bilinear_resize(name: str, backend: Backend) -> None:
    """Of a box that is cut alone: the source that is left ends where it does."""
    number, (top, left, height, width), flipped = BOXES[name]
    frames = sources()[number]
    clips = crop_clips([frames], [0], [(top, left, height, width)], [flipped], SIZE, "bilinear").to(backend.device)
    crop = frames[:, top : top + height, left : left + width].permute(0, 3, 1, 2).double()
    expected = F.interpolate(crop, SIZE, mode="bilinear")
    ours = warp_clips(clips, crop_matrix(clips)).cpu()
    torch.testing.assert_close(
        ours[0].transpose(0, 1).double(), expected.flip(3) if flipped else expected, rtol=0, atol=SAMPLING
    )


def test_matrices_of_crops_in_one_source() -> None:
    """Whatever the filter. Where a box is enlarged, the resize does not see the pixels beside it, and a warp does."""
    boxes, flipped = [(3, 5, 18, 25), (1, 0, 21, 20), (4, 4, 9, 10)], [True, False, False]
    for resize in RESIZES:
        clips = crop_clips(sources()[:1], [0] * 3, boxes, flipped, SIZE, resize)
        (top, left), (height, width) = (1, 0), SIZE
        expected = [
            [[(-w if flip else w) / width, 0, x - left + (w if flip else 0)], [0, h / height, y - top]]
            for (y, x, h, w), flip in zip(boxes, flipped, strict=True)
        ]
        assert torch.equal(crop_matrix(clips), matrices(expected))
    frames = sources()[0]
    clips = crop_clips([frames], [0] * 3, boxes, flipped, SIZE, "bilinear")
    ours = warp_clips(clips, crop_matrix(clips)).transpose(1, 2).double()
    for clip, ((y, x, h, w), flip) in enumerate(zip(boxes, flipped, strict=True)):
        crop = frames[:, y : y + h, x : x + w].permute(0, 3, 1, 2).double()
        expected_clip = F.interpolate(crop.flip(3) if flip else crop, SIZE, mode="bilinear")
        difference = (ours[clip] - expected_clip).abs()
        assert difference[..., 1:-1, 1:-1].max() < SAMPLING
        assert (difference.max() > 1) == (h < SIZE[0] or w < SIZE[1])


def test_a_rotation_composed_on_a_crop_turns_the_source_first() -> None:
    """By 90°, which is exact: the crop of the turned source."""
    frames = sources()[0]
    turned = frames.rot90(1, (1, 2))  # pixel (x, y) comes from (width − y, x) in pixel-edge coordinates
    box = (4, 2, 20, 21)
    of_turned = crop_clips([turned, turned], [0, 0], [box, (0, 0, *turned.shape[1:3])], [True, False], SIZE, "bilinear")
    of_frames = whole([frames], [0, 0])
    first = torch.tensor([[0, -1, frames.shape[2]], [1, 0, 0], [0, 0, 1]], dtype=torch.float32)
    then = torch.cat([crop_matrix(of_turned), torch.tensor([0.0, 0, 1]).expand(2, 1, 3)], dim=1)
    ours = warp_clips(of_frames, (first @ then)[:, :2].contiguous())
    torch.testing.assert_close(ours, warp_clips(of_turned, crop_matrix(of_turned)), rtol=0, atol=SAMPLING)


@pytest.mark.parametrize("name", MATRICES)
def test_pillow_transforms_alike_but_for_its_rounding(name: str) -> None:
    frames, matrix = sources()[0], matrices([MATRICES[name]])
    ours = warp_clips(whole([frames], [0]), matrix, FILL)[0].permute(1, 2, 3, 0)
    method, bilinear = PIL.Image.Transform.AFFINE, PIL.Image.Resampling.BILINEAR
    for frame, expected in zip(ours, frames, strict=True):
        image = PIL.Image.fromarray(expected.numpy())
        theirs = image.transform(SIZE[::-1], method, matrix.flatten().tolist(), bilinear, fillcolor=(FILL,) * 3)
        clear = truth.warped(frames, matrix[0], SIZE, FILL)[1] > 1e-4
        assert (frame - torch.from_numpy(np.array(theirs)).float())[clear].abs().max() <= 1 + SAMPLING


def test_box_flip_and_resize_of_the_clips_do_not_count(backend: Backend) -> None:
    frames, matrix = sources()[0], matrices([MATRICES["turned and shrunk"]] * 2, backend.device)
    around = [(0, 0, *SHAPES[0]), (5, 5, 9, 9)]
    expected = warp_clips(whole([frames], [0, 0], backend.device), matrix)
    for resize in RESIZES:
        clips = crop_clips([frames], [0, 0], around, [False, True], SIZE, resize).to(backend.device)
        assert torch.equal(warp_clips(clips.padded(10**5, 12), matrix), expected)


def test_matrices_of_any_strides(backend: Backend) -> None:
    clips = whole(sources(), [0, 1], backend.device)
    matrix = matrices(list(MATRICES.values())[:2], backend.device)
    strided = matrix.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert torch.equal(warp_clips(clips, strided), warp_clips(clips, matrix))
    expanded = matrix[:1].expand(2, -1, -1)
    assert torch.equal(warp_clips(clips, expanded), warp_clips(clips, expanded.contiguous()))


def test_the_default_dtype_does_not_count(backend: Backend) -> None:
    clips, matrix = whole(sources(), [0, 1], backend.device), matrices([MATRICES["sheared"]] * 2, backend.device)
    expected = warp_clips(clips, matrix), crop_matrix(clips)
    torch.set_default_dtype(torch.float64)
    try:
        found = warp_clips(clips, matrix), crop_matrix(clips)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of Triton's interpreter
def test_positions_beyond_all_numbers_are_outside(backend: Backend) -> None:
    """Infinite, or infinity minus infinity: what a finite matrix can still give."""
    huge = 3e38
    matrix = matrices([[[huge, -3.1e38, 0], [1, 0, 0]], [[0, 0, 1e20], [0, 0, -1e20]]], backend.device)
    assert (warp_clips(whole(sources(), [0, 1], backend.device), matrix, FILL) == FILL).all()


def test_fills_are_pixel_values(backend: Backend) -> None:
    clips, matrix = whole(sources(), [0], backend.device), matrices([MATRICES["nowhere"]], backend.device)
    assert (warp_clips(clips, matrix) == 128).all()
    for fill in (0, 255):
        assert (warp_clips(clips, matrix, fill) == fill).all()


def test_no_clips_and_fake_clips(backend: Backend) -> None:
    clips, matrix = whole(sources(), [0, 1], backend.device), matrices([MATRICES["moved"]] * 2, backend.device)
    none = replace(clips, geometry=clips.geometry[:0], first=clips.first[:0], weights=clips.weights[:0])
    assert warp_clips(none, matrix[:0]).shape == (0, 3, FRAMES, *SIZE)
    assert crop_matrix(none).shape == (0, 2, 3)
    meta = clips.to("meta")
    assert warp_clips(meta, matrix.to("meta")).shape == warp_clips(meta, crop_matrix(meta)).shape == clips.shape
    with fake_cuda():
        tensors = [torch.zeros(one.shape, dtype=one.dtype) for one in (clips.frames, clips.geometry, clips.first)]
        fake = CroppedClips(*tensors, torch.zeros(2, 4, sum(SIZE), dtype=torch.int32), FRAMES, SIZE)  # type: ignore[misc]
        assert warp_clips(fake, crop_matrix(fake)).shape == clips.shape


def test_errors() -> None:
    clips, matrix = whole(sources(), [0, 1]), matrices([MATRICES["moved"]] * 2)
    for function in (lambda c: warp_clips(c, matrix), crop_matrix):
        with pytest.raises(TypeError, match=r"clips must be CroppedClips, got a torch.uint8 tensor of shape \(1,"):
            function(torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8))
    for wrong, error, words in (
        (matrix.tolist(), TypeError, "matrix must be a tensor, got"),
        (matrix.double(), TypeError, "matrix must be float32, got a torch.float64 tensor"),
        (matrix[:1], ValueError, r"matrix must have shape \(2, 2, 3\), got \(1, 2, 3\)"),
        (matrix.mT, ValueError, r"matrix must have shape \(2, 2, 3\), got \(2, 3, 2\)"),
        (matrix.to("meta"), ValueError, "matrix must be on cpu as the other arguments, got meta"),
    ):
        with pytest.raises(error, match=words):
            warp_clips(clips, wrong)  # type: ignore[arg-type]
    for fill, error in ((256, ValueError), (-1, ValueError), (0.5, TypeError), ((1, 2, 3), TypeError)):
        with pytest.raises(error, match="fill must be an integer"):
            warp_clips(clips, matrix, fill)  # type: ignore[arg-type]


def test_values_that_are_not_allowed(backend: Backend) -> None:
    clips, matrix = whole(sources(), [0, 1], backend.device), matrices([MATRICES["moved"]] * 2, backend.device)
    for number in (math.nan, math.inf):
        wrong = matrix.clone()
        wrong[1, 0, 2] = number
        with check_indices(), pytest.raises(ValueError, match=r"matrix must be finite, but that of clip 1 is \[\[1"):
            warp_clips(clips, wrong)
    geometry = clips.geometry.clone()
    geometry[1, 1] = 10**6
    with check_indices(), pytest.raises(ValueError, match=r"clip\.geometry has sources"):
        warp_clips(replace(clips, geometry=geometry), matrix)


def test_a_gradient_is_refused_not_zero() -> None:
    clips, matrix = whole(sources(), [0]), matrices([MATRICES["moved"]]).requires_grad_()
    with pytest.raises(NotImplementedError, match="warp_clips has no derivative"):
        warp_clips(clips, matrix).sum().backward()


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the kernels are not emulated")
@pytest.mark.parametrize("frames", [1, 16])
def test_a_pixel_costs_its_taps_once_and_no_warp_waits(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 instructions of PTX for a value of 16 frames, 25 load, convert, sum and store; of one frame they are 73."""
    emulation = pytest.importorskip("tests.kernels.emulation")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    source = torch.randint(0, 256, (frames, *SHAPES[0], 3), dtype=torch.uint8)
    clips = crop_clips([source], [0], [(0, 0, *SHAPES[0])], [False], (8, 32))
    with emulation.emulated("sm_90") as launches:
        warp_clips(clips, crop_matrix(clips))
    (launch,) = launches
    assert launch.barriers == 0
    values = frames * 3 * 8 * 32 / 32
    assert launch.global_stores.requests == values
    assert launch.global_loads.requests - 4 * values == 8 * 9  # of each of 8 warps, what is the same for a clip
    assert launch.warp_instructions / values < {1: 90, 16: 36}[frames]  # whatever the version of Triton
