"""Position tables for other grids."""

import copy

import pytest
import torch
import torch.nn.functional as F

from videomae_fast.models.positions import FixedPositions, interpolate_positions, interpolated_sinusoid, sinusoid_table


def table(grid: tuple[int, int, int], width: int = 5) -> torch.Tensor:
    torch.manual_seed(0)
    t, h, w = grid
    return torch.randn(t * h * w, width, dtype=torch.float64)


def cubic(x: float) -> float:
    """The kernel of bicubic interpolation, a = -3/4."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resampling(source: int, target: int, kernel: str) -> torch.Tensor:
    """(target, source) weights: centres at (i + 1/2) / size, taps outside take the edge."""
    matrix = torch.zeros(target, source, dtype=torch.float64)
    for i in range(target):
        centre = (i + 0.5) * source / target - 0.5
        if kernel == "linear":
            centre = max(centre, 0.0)
        for tap in range(int(centre // 1) - 1, int(centre // 1) + 3):
            weight = cubic(centre - tap) if kernel == "cubic" else max(0.0, 1 - abs(centre - tap))
            matrix[i, min(max(tap, 0), source - 1)] += weight
    return matrix


@pytest.mark.parametrize("source", [(8, 4, 4), (4, 3, 5), (1, 2, 1)])
@pytest.mark.parametrize("target", [(8, 7, 4), (16, 4, 4), (3, 2, 9), (5, 1, 3)])
def test_written_out(source: tuple[int, int, int], target: tuple[int, int, int]) -> None:
    positions = table(source)
    kernels = ("linear", "cubic", "cubic") if source[1:] != target[1:] else ("linear", "none", "none")
    matrices = [
        torch.eye(a, dtype=torch.float64) if kernel == "none" else resampling(a, b, kernel)
        for a, b, kernel in zip(source, target, kernels, strict=True)
    ]
    expected = torch.einsum("xt,yh,zw,thwd->xyzd", *matrices, positions.view(*source, -1)).flatten(0, 2)
    result = interpolate_positions(positions, source, target)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_equal_grids_keep_every_bit() -> None:
    positions = table((4, 3, 5))
    assert torch.equal(interpolate_positions(positions, (4, 3, 5), (4, 3, 5)), positions)
    assert torch.equal(interpolated_sinusoid((8, 14, 14), (8, 14, 14), 24), sinusoid_table(1568, 24))


def test_as_the_published_code_means_it() -> None:
    """Frames of 14x14 positions to 16x24 by bicubic interpolation, one by one."""
    positions = sinusoid_table(1568, 24)
    maps = positions.view(8, 14, 14, 24).permute(0, 3, 1, 2)
    expected = torch.stack([F.interpolate(one[None], (16, 24), mode="bicubic")[0] for one in maps])
    result = interpolate_positions(positions, (8, 14, 14), (8, 16, 24))
    torch.testing.assert_close(result, expected.permute(0, 2, 3, 1).flatten(0, 2), rtol=0, atol=1e-6)


def test_time_and_space_do_not_mix() -> None:
    """A table that depends on time alone stays so, and is linear in time away from the ends."""
    positions = torch.arange(8.0).repeat_interleave(6)[:, None]
    result = interpolate_positions(positions, (8, 2, 3), (16, 4, 4)).view(16, 16)
    torch.testing.assert_close(result, result[:, :1].expand(-1, 16))
    torch.testing.assert_close(result[1:-1, 0], 0.25 + torch.arange(14) / 2)


@pytest.mark.parametrize(
    "source, target, message",
    [
        ((4, 3, 4), (1, 1, 1), r"table must be \(48, D\) for from_grid \(4, 3, 4\), got \(60, 5\)"),
        ((4, 3, 0), (1, 1, 1), r"from_grid must be three positive numbers \(T', H', W'\), got \(4, 3, 0\)"),
        ((4, 3, 5), (4, 15), r"to_grid must be three positive numbers \(T', H', W'\), got \(4, 15\)"),
    ],
)
def test_errors(source: tuple[int, ...], target: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolate_positions(table((4, 3, 5)), source, target)  # type: ignore[arg-type]


def test_a_module_fills_the_table_it_was_built_from() -> None:
    def build() -> FixedPositions:
        return FixedPositions(24, 6, lambda: interpolated_sinusoid((2, 2, 2), (4, 2, 3), 6))

    with torch.device("meta"):
        module = build()
    assert module.position.is_meta
    module.to_empty(device="cpu")
    assert torch.equal(module.position, build().position)
    assert not torch.equal(module.position, sinusoid_table(24, 6))
    other = copy.deepcopy(module)
    other.position.zero_()
    other.init_positions()
    assert torch.equal(other.position, module.position) and not module.state_dict()
