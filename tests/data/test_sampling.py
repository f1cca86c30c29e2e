from collections.abc import Callable

import numpy as np
import pytest

from videomae_fast.data import (
    dense_frames,
    dense_views,
    frame_indices,
    sample_rng,
    timed_frames,
    uniform_frames,
    uniform_views,
)
from videomae_fast.data.sampling import spread_evenly


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
@pytest.mark.parametrize("rule", [frame_indices, dense_frames])
def test_frame_indices_errors(rule: Callable, name: str, values: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        rule(*values, sample_rng(0, 0))


DENSE = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]


def test_dense_frames_of_long_videos() -> None:
    drawn = np.stack([dense_frames(300, 16, 4, sample_rng(0, sample)) for sample in range(4000)])
    assert drawn.dtype == np.int64 and (drawn - drawn[:, :1] == DENSE).all()
    assert np.unique(drawn[:, 0]).tolist() == list(range(236)) and drawn.max() == 298  # published: never the last one
    np.testing.assert_allclose(np.mean(drawn[:, 0]), 235 / 2, atol=4)
    assert dense_frames(65, 16, 4, sample_rng(0, 0)).tolist() == DENSE  # the first start is the only one


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (64, DENSE),
        (40, [0, 4, 8, 13, 17, 22, 26, 31, 35] + [39] * 7),
        (4, [0] + [3] * 15),
        (3, [2] * 16),
        (1, [0] * 16),
    ],
)
def test_dense_frames_of_short_videos(total: int, expected: list[int]) -> None:
    for rng in (None, sample_rng(0, 0)):
        assert dense_frames(total, 16, 4, rng).tolist() == expected


def test_dense_frames_of_validation() -> None:
    expected = [118, 122, 126, 130, 135, 139, 143, 147, 152, 156, 160, 164, 169, 173, 177, 181]
    assert dense_frames(300, 16, 4, None).tolist() == expected


def published_dense_view(total: int, num_frames: int, frame_stride: int, segments: int, segment: int) -> list[int]:
    frames = list(range(0, total, frame_stride))
    frames += frames[-1:] * (num_frames - len(frames))
    start = int(segment * max((len(frames) - num_frames) / (segments - 1), 0))
    return frames[start : start + num_frames]


def test_dense_views() -> None:
    for total, firsts in ((300, [0, 56, 116, 176, 236]), (250, [0, 44, 92, 140, 188])):
        assert dense_views(total, 16, 4, 5).tolist() == [list(range(first, first + 61, 4)) for first in firsts]
    assert len(np.unique(dense_views(250, 16, 4, 5))) == 63
    for total in (1, 5, 63, 64, 65, 71, 199, 300, 1234):
        for segments in range(2, 11):
            expected = [published_dense_view(total, 16, 4, segments, segment) for segment in range(segments)]
            assert dense_views(total, 16, 4, segments).tolist() == expected
    assert dense_views(300, 16, 4, 1).tolist() == [list(range(116, 180, 4))]  # published: a division by zero
    assert dense_views(3, 4, 2, 1).tolist() == [[0, 2, 2, 2]]


def test_uniform_frames() -> None:
    assert uniform_frames(47, 16, None).tolist() == list(range(1, 32, 2))
    assert uniform_frames(16, 16, None).tolist() == uniform_frames(31, 16, sample_rng(0, 0)).tolist() == [*range(16)]
    drawn = np.stack([uniform_frames(47, 8, sample_rng(0, sample)) for sample in range(300)])
    for part in range(8):  # every frame of a part is drawn, and no frame after the last part
        assert np.unique(drawn[:, part]).tolist() == list(range(5 * part, 5 * part + 5))
    for rng in (None, sample_rng(0, 0)):
        assert uniform_frames(10, 16, rng).tolist() == [0] * 6 + [*range(10)]  # published for videos: frame -1
        assert uniform_frames(1, 4, rng).tolist() == [0] * 4


def published_uniform_views(total: int, num_frames: int, segments: int) -> list[list[int]]:
    tick = total / float(num_frames)
    frames = sorted(int(c * tick / segments + tick * x) for c in range(segments) for x in range(num_frames))
    return [frames[segment::segments] for segment in range(segments)]


def test_uniform_views() -> None:
    vectors = {  # numbered from 1
        40: [
            [1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26, 28, 31, 33, 36, 38],
            [2, 4, 7, 9, 12, 14, 17, 19, 22, 24, 27, 29, 32, 34, 37, 39],
        ],
        16: [[*range(1, 17)]] * 2,
        10: [[1, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 7, 8, 9, 9, 10], [1, 1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9, 10, 10]],
    }
    for total, expected in vectors.items():
        assert (uniform_views(total, 16, 2) + 1).tolist() == expected
    for total in range(1, 130):
        for segments in (1, 2, 3, 5):
            assert uniform_views(total, 16, segments).tolist() == published_uniform_views(total, 16, segments)


def test_views_are_spread_evenly() -> None:
    assert spread_evenly(73, 3).tolist() == [0, 36, 73] and spread_evenly(73, 1).tolist() == [36]
    assert spread_evenly(0, 5).tolist() == [0] * 5 and spread_evenly(59, 5).tolist() == [0, 14, 29, 44, 59]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: dense_views(8, 4, 2, 0), "segments"),
        (lambda: dense_views(8, 4, 0, 1), "frame_stride"),
        (lambda: uniform_views(8, 4, 0), "segments"),
        (lambda: uniform_views(0, 4, 1), "total"),
        (lambda: uniform_frames(8, 0, None), "num_frames"),
    ],
)
def test_errors_of_fine_tuning_and_evaluation(call: Callable, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        call()


@pytest.mark.parametrize(
    ("total", "num_frames", "stride", "expected"),
    [
        (100, 4, 25, [12, 37, 62, 87]),
        (112, 4, 25, [12, 37, 62, 87]),  # the fifth, 112, is not there
        (113, 4, 25, [14, 42, 70, 98]),  # it is: spread over the video
        (30, 4, 25, [12, 12, 12, 12]),
        (5, 3, 25, [4, 4, 4]),
        (4, 8, 0.5, [0, 0, 1, 1, 2, 2, 3, 3]),  # more frames per second than the video has
        (1, 2, 1e9, [0, 0]),
        (90, 3, 29.97, [14, 44, 74]),
    ],
)
def test_timed_frames(total: int, num_frames: int, stride: float, expected: list[int]) -> None:
    indices = timed_frames(total, num_frames, stride)
    assert indices.dtype == np.int64 and indices.tolist() == expected


def test_timed_frames_lie_in_every_video() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        total, num_frames, stride = int(rng.integers(1, 5000)), int(rng.integers(1, 300)), float(rng.uniform(0.1, 60))
        indices = timed_frames(total, num_frames, stride)
        assert len(indices) == num_frames and indices[0] >= 0 and indices[-1] < total and (np.diff(indices) >= 0).all()
        if total > num_frames * stride + stride:  # it spans the video
            assert indices[0] <= total / num_frames and indices[-1] >= total - 1 - total / num_frames


@pytest.mark.parametrize("arguments", [(0, 4, 1.0), (4, 0, 1.0), (4, 4, 0.0), (4, 4, np.inf), (4, 4, np.nan)])
def test_timed_frames_errors(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="must be"):
        timed_frames(*arguments)
