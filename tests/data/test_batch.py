from pathlib import Path

import pytest
import torch

from videomae_fast.data import (
    Annotations,
    BadVideo,
    ClipBatch,
    ClipDataset,
    VideoFile,
    collate,
    make_loader,
    read_annotations,
)
from videomae_kernels import crop_clips, masked_patch_loss, patch_targets, tube_mask_gather

BAD = BadVideo("a.mp4", "gone")


def make_sample(number: int, bad_videos: list[BadVideo], label: int | None = None) -> ClipBatch:
    frames = torch.full((1, 4, 4 + number, 3), number, dtype=torch.uint8)
    clips = crop_clips([frames], [0, 0], [(0, 0, 4, 4)] * 2, [False] * 2, (4, 4))
    labels = None if label is None else torch.tensor([label, label])
    return ClipBatch(clips, torch.tensor([2 * number, 2 * number + 1]), labels, 2, bad_videos, 0.25 * number)


def test_collate_and_to() -> None:
    batch = collate([make_sample(1, [BAD]), make_sample(2, [], label=4)])
    assert batch.clips.shape == (4, 3, 1, 4, 4) and (batch.num_videos, batch.crops_per_video) == (2, 2)
    pixels = patch_targets(batch.clips, torch.zeros(4, 1, dtype=torch.int64), (1, 4, 4), normalize_target=False) * 255
    torch.testing.assert_close(pixels.mean((1, 2)), torch.tensor([1.0, 1, 2, 2]))
    assert batch.sample.tolist() == [2, 3, 4, 5] and batch.bad_videos == [BAD] and batch.seconds == 0.75
    assert batch.label is not None and batch.label.tolist() == [-1, -1, 4, 4]
    moved = batch.to("meta", non_blocking=True)
    assert isinstance(moved, ClipBatch) and moved.bad_videos == [BAD] and moved.crops_per_video == 2
    assert moved.clips.device.type == moved.clips.weights.device.type == moved.sample.device.type == "meta"
    assert moved.label is not None and moved.label.device.type == "meta"
    unlabelled = collate([make_sample(1, []), make_sample(2, [])])
    assert unlabelled.label is unlabelled.to("meta").label is None


def test_collate_wants_equal_crops_per_video() -> None:
    other = make_sample(1, [])
    with pytest.raises(ValueError, match=r"the same crops_per_video, got \[1, 2\]"):
        collate([other, ClipBatch(other.clips, other.sample)])


def clip_dataset(folder: Path, resize: str) -> ClipDataset:
    """The videos of a folder, of several sizes, labelled by their numbers."""
    entries = [VideoFile(entry.path, number) for number, entry in enumerate(read_annotations(folder))]
    options = {"num_frames": 4, "frame_stride": 2, "crops_per_video": 2, "seed": 3, "hflip": True}
    return ClipDataset(Annotations(entries), size=(32, 32), resize=resize, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("resize", ["bilinear", "antialias", "pillow"])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 6])
def test_parts_are_the_batch(num_parts: int, resize: str, clips: Path) -> None:
    """Pixels and losses of the parts, one after another, are bit for bit those of the whole batch."""
    dataset = clip_dataset(clips, resize)
    batch = collate([dataset[(index, index)] for index in range(6)])
    parts = batch.split(num_parts)
    assert [part.num_videos for part in parts] == [6 // num_parts] * num_parts
    patch, generator = (2, 8, 8), torch.Generator().manual_seed(0)
    index = torch.stack([torch.randperm(32, generator=generator)[:10] for _ in range(12)])
    prediction = torch.randn(12, 10, 3 * 2 * 8 * 8, generator=generator)
    whole = tube_mask_gather(batch.clips, index, patch)
    assert whole.std() > 0.1
    split = [tube_mask_gather(p.clips, i, patch) for p, i in zip(parts, index.chunk(num_parts), strict=True)]
    assert torch.equal(torch.cat(split), whole)
    for part, pred, tokens in zip(parts, prediction.chunk(num_parts), index.chunk(num_parts), strict=True):
        alone = collate([dataset[(n, n)] for n in (part.sample[::2] // 2).tolist()])  # the same videos, in own buffers
        assert masked_patch_loss(pred, part.clips, tokens, patch) == masked_patch_loss(pred, alone.clips, tokens, patch)
        assert part.clips.frames.data_ptr() == batch.clips.frames.data_ptr()  # nothing is copied
    for name in ("sample", "label"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert sum(part.seconds for part in parts) == pytest.approx(batch.seconds)


def test_bad_videos_of_parts_are_counted_once() -> None:
    batch = collate([make_sample(1, []), make_sample(2, [BAD, BAD])])
    parts = batch.split(2)
    assert [part.bad_videos for part in parts] == [[BAD, BAD], []]
    assert [part.label for part in parts] == [None, None] and [part.crops_per_video for part in parts] == [2, 2]


@pytest.mark.parametrize("num_parts", [0, -1, 2, 6])
def test_parts_must_have_equally_many_videos(num_parts: int) -> None:
    batch = collate([make_sample(number, []) for number in (1, 2, 3)])  # 6 clips, which 2 and 6 would divide
    with pytest.raises(ValueError, match=f"divide the 3 videos of the batch, got {num_parts}"):
        batch.split(num_parts)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinning needs CUDA")
def test_pin_memory(clips: Path) -> None:
    batch = next(iter(make_loader(clip_dataset(clips, "antialias"), 2, workers=1)))
    assert batch.label is not None and batch.label.is_pinned()
    assert batch.clips.frames.is_pinned() and batch.clips.geometry.is_pinned() and batch.sample.is_pinned()
    moved = batch.to("cuda", non_blocking=True)
    assert moved.label is not None and moved.label.is_cuda
    assert moved.clips.frames.is_cuda and moved.clips.geometry.is_cuda and moved.sample.is_cuda
