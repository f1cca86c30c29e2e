"""The published loader: pixels against numpy and Pillow frame by frame, masks and bytes by their counts."""

import numpy as np
import torch
from PIL import Image

from benchmarks.baselines.published.loader import PublishedSample, published_collate, published_samples

SIZE, GRID, FRAMES = (24, 32), (2, 6, 8), 4
BOXES = [(0, 0, 40, 50), (3, 7, 20, 30), (10, 11, 24, 32), (40, 50, 5, 6)]  # all, larger, as it is, enlarged
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def video(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (FRAMES, 60, 70, 3), dtype=np.uint8)


def samples(number: int) -> list[PublishedSample]:
    return published_samples(video(number), BOXES, SIZE, GRID, np.random.default_rng(number))


def expected(frames: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """(3, T, H, W) float64."""
    top, left, height, width = box
    clip = np.empty((3, len(frames), *SIZE))
    for number, frame in enumerate(frames):
        cut = Image.fromarray(np.ascontiguousarray(frame[top : top + height, left : left + width]))
        pixels = np.asarray(cut.resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR), dtype=np.float64)
        clip[:, number] = ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1)
    return clip


def test_pixels() -> None:
    for box, sample in zip(BOXES, samples(0), strict=True):
        assert sample.clip.dtype == torch.float32
        np.testing.assert_allclose(sample.clip.numpy(), expected(video(0), box), atol=1e-6)


def test_batch_is_all_repeats_of_the_first_video_then_of_the_next() -> None:
    videos = [samples(0), samples(1)]
    batch = published_collate(videos)
    assert batch.clip.shape == (8, 3, FRAMES, *SIZE) and batch.clip.is_contiguous()
    for row, sample in enumerate([*videos[0], *videos[1]]):
        assert torch.equal(batch.clip[row], sample.clip)
        assert np.array_equal(batch.hidden[row], sample.hidden)
        assert np.array_equal(batch.not_decoded[row], sample.not_decoded)


def test_masks_and_bytes_of_the_published_size() -> None:
    frames = np.zeros((16, 256, 340, 3), dtype=np.uint8)
    boxes = [(0, 0, 256, 256)] * 4
    batch = published_collate([published_samples(frames, boxes, (224, 224), (8, 14, 14), np.random.default_rng(0))])
    for mask, ones in ((batch.hidden, 1408), (batch.not_decoded, 784)):
        assert mask.dtype == torch.float64 and mask.shape == (4, 1568)
        assert set(mask.unique().tolist()) == {0.0, 1.0} and (mask.sum(1) == ones).all()
    assert (((1 - batch.hidden) * (1 - batch.not_decoded)).sum(1) == 80).all()
    assert len(batch.hidden.unique(dim=0)) == 4  # each repeat has its own
    assert sum(tensor.nbytes for tensor in batch) == 4 * (3 * 16 * 224 * 224 * 4 + 2 * 1568 * 8)


def test_every_start_of_the_running_cell_comes() -> None:
    rng = np.random.default_rng(0)
    seen = {s.not_decoded.tobytes() for _ in range(10) for s in published_samples(video(0), BOXES, SIZE, GRID, rng)}
    assert len(seen) == 4
