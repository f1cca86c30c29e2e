"""RoIAlign against its definition, written point by point."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.test_classify import TINY, build, clip_for
from videomae_fast.models.roi import roi_align

GRIDS = [(1, 1, 1), (2, 3, 5), (4, 7, 2), (1, 1, 6)]


def draw(grid: tuple[int, int, int], boxes: int = 6, dim: int = 3, clips: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, boxes and clips; the first boxes are a whole clip and two corners."""
    generator = torch.Generator().manual_seed(sum(grid))
    tokens = torch.randn(clips, *grid, dim, dtype=torch.float64, generator=generator)
    ends = torch.rand(boxes, 2, 2, dtype=torch.float64, generator=generator).sort(1).values
    drawn = ends.flatten(1)
    corners = [[0, 0, 1, 1], [0, 0, 0.01, 0.02], [0.97, 0.9, 1, 1]]
    drawn[: len(corners)] = torch.tensor(corners, dtype=torch.float64)
    return tokens, drawn, torch.randint(clips, (boxes,), generator=generator)


def bilinear(plane: Tensor, y: float, x: float) -> Tensor:
    """The value of a map (H', W', D) at a point, in units where centres of tokens are whole numbers."""
    height, width, _ = plane.shape
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = (1 - (x - left)) * plane[top, left] + (x - left) * plane[top, right]
    lower = (1 - (x - left)) * plane[down, left] + (x - left) * plane[down, right]
    return (1 - (y - top)) * upper + (y - top) * lower


def written_out(tokens: Tensor, boxes: Tensor, clip: Tensor, size: int, sampling: int) -> Tensor:
    """RoIAlign with aligned=True: half a token is subtracted, and a bin is the mean of its points."""
    _, _, height, width, dim = tokens.shape
    out = tokens.new_zeros(len(boxes), size, size, dim)
    for r, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        plane = tokens[clip[r]].mean(0)
        left, top = x1 * width - 0.5, y1 * height - 0.5
        bin_width, bin_height = (x2 - x1) * width / size, (y2 - y1) * height / size
        for i in range(size):
            for j in range(size):
                for m in range(sampling):
                    for n in range(sampling):
                        y = top + i * bin_height + (m + 0.5) * bin_height / sampling
                        x = left + j * bin_width + (n + 0.5) * bin_width / sampling
                        out[r, i, j] += bilinear(plane, y, x) / sampling**2
    return out


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("size, sampling", [(7, 2), (1, 1), (2, 3)])
def test_written_out(grid: tuple[int, int, int], size: int, sampling: int) -> None:
    given = draw(grid)
    ours = roi_align(*given, output_size=size, sampling=sampling)
    assert ours.shape == (6, size, size, 3)
    torch.testing.assert_close(ours, written_out(*given, size, sampling), rtol=1e-12, atol=1e-12)


def test_a_token_is_its_own_box() -> None:
    """A box of one token has that token in its middle; the bins of a linear ramp have its values at their centres."""
    tokens = torch.randn(1, 1, 4, 5, 2)
    box = torch.tensor([[2 / 5, 1 / 4, 3 / 5, 2 / 4]])
    torch.testing.assert_close(
        roi_align(tokens, box, torch.zeros(1).int(), output_size=1, sampling=1)[0, 0, 0], tokens[0, 0, 1, 2]
    )
    ramp = torch.arange(8.0).add(0.5).div(8).view(1, 1, 1, 8, 1).expand(-1, -1, 3, -1, -1)
    row = roi_align(ramp, torch.tensor([[0.25, 0.0, 0.75, 1.0]]), torch.tensor([0]), output_size=4)[0, 0, :, 0]
    torch.testing.assert_close(row, 0.25 + 0.5 * (torch.arange(4) + 0.5) / 4)


def test_gradients() -> None:
    tokens, boxes, clip = draw((2, 3, 4), boxes=4)
    boxes[1:3] = torch.tensor([[0.1, 0.23, 0.6, 0.57], [0.31, 0.42, 0.93, 0.88]])  # no point on a kink
    boxes[0] = torch.tensor([0.03, 0.011, 0.97, 0.99])
    assert torch.autograd.gradcheck(
        lambda t, b: roi_align(t, b, clip, output_size=2), (tokens.requires_grad_(), boxes.requires_grad_())
    )


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_dtypes(dtype: torch.dtype, tolerance: float) -> None:
    """Coordinates stay in the dtype of the boxes."""
    tokens, boxes, clip = draw((2, 14, 14))
    ours = roi_align(tokens.to(dtype), boxes.float(), clip.int())
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), roi_align(tokens, boxes, clip), rtol=tolerance, atol=tolerance)


def test_no_boxes_are_no_features() -> None:
    tokens, boxes, clip = draw((2, 3, 5))
    assert roi_align(tokens, boxes[:0], clip[:0]).shape == (0, 7, 7, 3)


def test_tokens_of_a_classifier() -> None:
    model = build()
    tokens = model.tokens(clip_for()).unflatten(1, TINY.grid)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2, dtype=torch.float64)
    features = roi_align(tokens, whole, torch.arange(2), output_size=2, sampling=8)
    assert features.shape == (2, 2, 2, 48)
    quarters = tokens.mean(1).unflatten(1, (2, 2)).unflatten(3, (2, 3)).mean((2, 4))
    assert (features - quarters).norm() < 0.5 * quarters.norm()


GOOD = (torch.zeros(2, 1, 3, 3, 4), torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 3), torch.tensor([0, 1, 1]))
HALF = torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 2)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(tokens=GOOD[0][0]), ValueError, r"tokens must have shape \(B, T', H', W', D\), got \(1, 3, 3, 4\)"),
        (dict(tokens=GOOD[0][:, :0]), ValueError, r"tokens must have shape .*, got \(2, 0, 3, 3, 4\)"),
        (dict(tokens=GOOD[0].int()), TypeError, "tokens must be floating, got torch.int32"),
        (dict(boxes=GOOD[1][:, :3]), ValueError, r"boxes must have shape \(R, 4\), got \(3, 3\)"),
        (dict(boxes=GOOD[1].half()), TypeError, "boxes must be float32 or float64, got torch.float16"),
        (dict(boxes=GOOD[1].to("meta")), ValueError, "boxes must be on cpu as the tokens, got meta"),
        (dict(clip=GOOD[2][:2]), ValueError, r"clip must have shape \(3,\) as there are 3 boxes, got \(2,\)"),
        (dict(clip=GOOD[2].float()), TypeError, "clip must be int32 or int64, got torch.float32"),
        (
            dict(clip=GOOD[2] + 1),
            ValueError,
            r"clip must lie in \[0, 2\), the clips of tokens, got numbers from 1 to 2",
        ),
        (
            dict(clip=GOOD[2] - 1),
            ValueError,
            r"clip must lie in \[0, 2\), the clips of tokens, got numbers from -1 to 0",
        ),
        (
            dict(boxes=100 * GOOD[1]),
            ValueError,
            r"in \[0, 1\], shares of .*divide pixels.*got \[0.0, 0.0, 50.0, 50.0\]",
        ),
        (dict(boxes=torch.cat([HALF, HALF[:1].flip(1)])), ValueError, r"x1 < x2 .*got \[0.5, 0.5, 0.0, 0.0\] in row 2"),
        (dict(boxes=torch.cat([HALF, HALF[:1] * math.nan])), ValueError, r"got \[nan, nan, nan, nan\] in row 2"),
        (dict(output_size=0), ValueError, r"output_size must be in \[1, 1024\], got 0"),
        (dict(sampling=-1), ValueError, r"sampling must be in \[1, 1024\], got -1"),
    ],
    ids=str,
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = dict(zip(("tokens", "boxes", "clip"), GOOD, strict=True))
    with pytest.raises(error, match=message):
        roi_align(**(given | change))
