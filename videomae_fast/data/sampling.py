"""Which frames of a video make a clip: the published rules of pre-training, fine-tuning and evaluation."""

from collections.abc import Callable

import numpy as np


def frame_indices(total: int, num_frames: int, frame_stride: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the frames of a clip by the published rule of pre-training.

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
    _check_positive(total=total, num_frames=num_frames, frame_stride=frame_stride)
    room = total - num_frames * frame_stride
    start = int(rng.integers(room + 1)) if room > 0 else 0
    last = max(0, (total - 2 - start) // frame_stride)
    return start + frame_stride * np.minimum(np.arange(num_frames, dtype=np.int64), last)


def dense_frames(total: int, num_frames: int, frame_stride: int, rng: np.random.Generator | None) -> np.ndarray:
    """Draw the frames of a clip by the published rule of dense fine-tuning, or take those of validation.

    With span = num_frames · frame_stride, if total > span: the end e is uniform in [span, total), or
    ⌊(span + total) / 2⌋ without `rng`. Frame k of the clip is ⌊e - span + k · span / (num_frames - 1)⌋, at most e - 1.
    So the mean stride is 4.2 for 16 frames at a frame stride of 4, and the last frame of the video is never drawn. If
    total <= span: ⌊total / frame_stride⌋ frames are spread over the video in the same way, and the last frame fills the
    rest of the clip.

    Args:
        total: frames of the video.
        num_frames: T, frames of the clip.
        frame_stride: frames of the video from one frame of the clip to the next, almost.
        rng: draws the end; None for validation, where nothing is random.

    Returns:
        (T,) int64 indices in [0, total), ascending.

    Raises:
        ValueError: `total`, `num_frames` or `frame_stride` is not positive.

    References:
        VideoClsDataset in dataset/datasets.py of VideoMAE V2.
    """
    _check_positive(total=total, num_frames=num_frames, frame_stride=frame_stride)
    span = num_frames * frame_stride
    if total <= span:
        spread = np.linspace(0, total, total // frame_stride)
        indices = np.concatenate([spread, np.full(num_frames - len(spread), total)])
        return indices.clip(0, total - 1).astype(np.int64)
    end = (span + total) // 2 if rng is None else int(rng.integers(span, total))
    return np.linspace(end - span, end, num_frames).clip(end - span, end - 1).astype(np.int64)


def dense_views(total: int, num_frames: int, frame_stride: int, segments: int) -> np.ndarray:
    """The frames of the clips of a video in dense evaluation.

    The frames 0, S, 2S, … of the video are K = ⌈total / S⌉, and the last one is repeated up to num_frames. Clip c has
    num_frames of them, from number ⌊c · (K - num_frames) / (segments - 1)⌋ on. A single clip is in the middle, where
    the published code divides by zero.

    Args:
        total: frames of the video.
        num_frames: T, frames of a clip.
        frame_stride: S, frames of the video from one frame of a clip to the next.
        segments: clips of the video.

    Returns:
        (segments, T) int64 indices in [0, total), each row ascending.

    Raises:
        ValueError: an argument is not positive.

    References:
        VideoClsDataset, test mode, in dataset/datasets.py of VideoMAE V2.
    """
    _check_positive(total=total, num_frames=num_frames, frame_stride=frame_stride, segments=segments)
    strided = -(-total // frame_stride)
    starts = spread_evenly(max(0, strided - num_frames), segments)
    return frame_stride * np.minimum(starts[:, None] + np.arange(num_frames), strided - 1)


def uniform_frames(total: int, num_frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """Draw one frame from each of equally long parts of a video, as temporal segment networks do.

    With d = ⌊total / num_frames⌋ >= 1, frame k of the clip is k · d + u, u uniform in [0, d), or ⌊d / 2⌋ without `rng`.
    Frames from num_frames · d on are never used: of 47 frames and 16 parts, the last 15. If total < num_frames, the
    first frame is repeated before all others.

    The published code has the rule twice. This is the one for folders of frames, as Something-Something V2 is trained.
    The one for video files never draws the last frame of a part, and asks for frame -1 of a video that is shorter than
    the clip.

    Args:
        total: frames of the video.
        num_frames: T, frames of the clip.
        rng: draws the frames; None for validation, where nothing is random.

    Returns:
        (T,) int64 indices in [0, total), ascending.

    Raises:
        ValueError: `total` or `num_frames` is not positive.

    References:
        RawFrameClsDataset in dataset/datasets.py of VideoMAE V2; Wang et al., Temporal segment networks, ECCV 2016.
    """
    _check_positive(total=total, num_frames=num_frames)
    numbers, length = np.arange(num_frames, dtype=np.int64), total // num_frames
    if length == 0:
        return np.maximum(numbers - (num_frames - total), 0)
    return numbers * length + (length // 2 if rng is None else rng.integers(length, size=num_frames))


def uniform_views(total: int, num_frames: int, segments: int) -> np.ndarray:
    """The frames of the clips of a video in uniform evaluation.

    Frame x of clip c is ⌊total · (c / segments + x) / num_frames⌋.

    Args:
        total: frames of the video; fewer than num_frames are repeated.
        num_frames: T, frames of a clip.
        segments: clips of the video.

    Returns:
        (segments, T) int64 indices in [0, total), each row ascending.

    Raises:
        ValueError: an argument is not positive.

    References:
        RawFrameClsDataset, test mode, in dataset/datasets.py of VideoMAE V2.
    """
    _check_positive(total=total, num_frames=num_frames, segments=segments)
    steps = np.arange(num_frames * segments, dtype=np.int64)  # c + segments · x
    return (total * steps // (num_frames * segments)).reshape(num_frames, segments).T


def timed_frames(total: int, num_frames: int, frame_stride: float) -> np.ndarray:
    """The frames of a clip at a given number per second, or spread over a longer video. Nothing is random.

    With S = frame_stride, frames of the video from one of the clip to the next, frame k is ⌊(k + 1/2) · S⌋: the middle
    of its interval. The video has K = ⌈total / S - 1/2⌉ such frames, and at least one. If K < num_frames, the last one
    is repeated. If K > num_frames, the clip spans the whole video: frame k is ⌊(k + 1/2) · total / num_frames⌋.

    Args:
        total: frames of the video, or of the part that the clip may show.
        num_frames: T, frames of the clip.
        frame_stride: frames per second of the video, divided by those of the clip; positive.

    Returns:
        (T,) int64 indices in [0, total), ascending.

    Raises:
        ValueError: an argument is not positive.

    References:
        get_frame_indices with "fps" in multi_modality/dataset/video_utils.py of UMT, which has the same frames, drops
        those beyond num_frames, and repeats the last one elsewhere; LongViViT, section 5: one frame per second.
    """
    _check_positive(total=total, num_frames=num_frames)
    if not 0 < frame_stride < np.inf:
        raise ValueError(f"frame_stride must be positive, got {frame_stride}")
    here = max(1, int(np.ceil(total / frame_stride - 0.5)))
    stride = frame_stride if here <= num_frames else total / num_frames
    places = np.minimum(np.arange(num_frames), here - 1)
    return np.minimum(((places + 0.5) * stride).astype(np.int64), total - 1)


def spread_evenly(room: int, count: int) -> np.ndarray:
    """Where views of a video begin: the first at 0, the last at `room`, one view in the middle.

    Args:
        room: the last place, at least 0: frames or pixels.
        count: views, at least 1.

    Returns:
        (count,) int64: ⌊i · room / (count - 1)⌋, or ⌊room / 2⌋ for one view.
    """
    return np.array([room // 2]) if count == 1 else np.arange(count, dtype=np.int64) * room // (count - 1)


# By the names of the option `sampling`; each is a function of (total, num_frames, frame_stride, rng).
Sampling = Callable[[int, int, int, np.random.Generator], np.ndarray]
SAMPLINGS: dict[str, Sampling] = {
    "strided": frame_indices,
    "dense": dense_frames,
    "uniform": lambda total, num_frames, frame_stride, rng: uniform_frames(total, num_frames, rng),
}


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
