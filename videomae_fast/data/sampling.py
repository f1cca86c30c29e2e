"""Which frames of a video make a clip."""

import numpy as np


def frame_indices(total: int, num_frames: int, frame_stride: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the frames of a clip by the published rule.

    With S = frame_stride and span = num_frames · S: if total > span, the start s is uniform in [0, total - span], both
    ends included; otherwise s = 0. Frame k of the clip is s + S · min(k, last), where last is the largest j >= 0 with
    s + j · S <= total - 2 (0 if there is none). So a short video repeats the last index that the rule reaches: 8 frames
    at frame stride 4 give 0, 4, 4, ...; up to 5 frames give 0, 0, ...

    Args:
        total: frames of the video.
        num_frames: T, frames of the clip.
        frame_stride: frames of the video from one frame of the clip to the next.
        rng: draws the start.

    Returns:
        (T,) int64 indices in [0, total), ascending.

    Raises:
        ValueError: `total`, `num_frames` or `frame_stride` is not positive.

    References:
        HybridVideoMAE._sample_train_indices and get_frame_id_list in datasets/pretrain_datasets.py of VideoMAE V2.
    """
    for name, value in (("total", total), ("num_frames", num_frames), ("frame_stride", frame_stride)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    room = total - num_frames * frame_stride
    start = int(rng.integers(room + 1)) if room > 0 else 0
    last = max(0, (total - 2 - start) // frame_stride)
    return start + frame_stride * np.minimum(np.arange(num_frames, dtype=np.int64), last)
