"""Which frames of a video make a clip."""

import numpy as np


def frame_indices(total: int, num_frames: int, frame_stride: int, rng: np.random.Generator) -> np.ndarray:
    """Indices (num_frames,) int64 of frames `frame_stride` apart, from a start drawn uniformly.

    With `span = num_frames * frame_stride`: `total > span` draws the start from [0, total - span], inclusive; a shorter
    video starts at 0 and repeats the last index that the published rule reaches, the largest `start + k * frame_stride`
    that is at most `total - 2` (8 frames, stride 4: 0, 4, 4, ...; up to 5 frames: all 0).

    Errors: ValueError if `total`, `num_frames` or `frame_stride` is not positive.
    Source: HybridVideoMAE._sample_train_indices and get_frame_id_list in datasets/pretrain_datasets.py of VideoMAEv2.
    """
    for name, value in (("total", total), ("num_frames", num_frames), ("frame_stride", frame_stride)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    room = total - num_frames * frame_stride
    start = int(rng.integers(room + 1)) if room > 0 else 0
    last = max(0, (total - 2 - start) // frame_stride)
    return start + frame_stride * np.minimum(np.arange(num_frames, dtype=np.int64), last)
