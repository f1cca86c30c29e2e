import numpy as np
import pytest

from videomae_fast.data import (
    frame_indices,
    sample_rng,
)


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (1, [0] * 16),
        (5, [0] * 16),
        (6, [0] + [4] * 15),
        (8, [0] + [4] * 15),
        (16, [0, 4, 8] + [12] * 13),
        (40, [*range(0, 36, 4)] + [36] * 7),
        (64, [*range(0, 64, 4)]),
    ],
)
def test_published_frame_indices(total: int, expected: list[int]) -> None:
    indices = frame_indices(total, 16, 4, sample_rng(0, 0))
    assert indices.dtype == np.int64 and indices.tolist() == expected


def published_loop(total: int, num_frames: int, frame_stride: int, start: int) -> list[int]:
    """The rule as the published code states it: a 1-based offset that stops before the end."""
    offset, indices = start + 1, []
    for _ in range(num_frames):
        indices.append(offset - 1)
        if offset + frame_stride < total:
            offset += frame_stride
    return indices


@pytest.mark.parametrize("frame_stride", [1, 2, 3, 4, 7])
def test_frame_indices_follow_the_published_loop(frame_stride: int) -> None:
    for total in range(1, 90):
        for sample in range(3):
            indices = frame_indices(total, 8, frame_stride, sample_rng(1, sample)).tolist()
            assert indices == published_loop(total, 8, frame_stride, indices[0])


def test_start_is_uniform_and_reaches_both_ends() -> None:
    starts = [frame_indices(68, 16, 4, sample_rng(0, sample))[0] for sample in range(2000)]
    counts = np.bincount(starts, minlength=5)
    assert len(counts) == 5 and counts.min() > 340  # 400 expected, five standard deviations are 90


@pytest.mark.parametrize(
    ("name", "values"), [("total", (0, 1, 1)), ("num_frames", (1, 0, 1)), ("frame_stride", (1, 1, 0))]
)
def test_frame_indices_errors(name: str, values: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        frame_indices(*values, sample_rng(0, 0))
