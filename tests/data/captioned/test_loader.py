"""Batches of images and videos in turn: one order for every split, resumed exactly."""

from itertools import chain, islice, pairwise
from typing import Any

import pytest
import torch

from videomae_fast.data import (
    AlternatingSampler,
    Annotations,
    CaptionedBatch,
    CaptionedDataset,
    CaptionTokenizer,
    Mixture,
    VideoFile,
    VideoSource,
    make_captioned_loader,
    split_kinds,
)
from videomae_fast.data.captioned.loader import FIRST_IMAGE
from videomae_fast.data.loader import StepSampler, load


def steps(videos: int, images: int, batch: int, rank: int = 0, world: int = 1, **options: int) -> AlternatingSampler:
    kinds = [Mixture([VideoSource(Annotations([VideoFile("x")] * n))]) if n else None for n in (videos, images)]
    first, second = (None if kind is None else StepSampler(kind, batch, 1, rank, world) for kind in kinds)
    return AlternatingSampler(first, second, **options)


def kinds_of(batches: list[list[tuple[int, int]]]) -> str:
    return "".join("vi"[batch[0][1] >= FIRST_IMAGE] for batch in batches)


@pytest.mark.parametrize(
    ("videos", "images", "expected"),
    [
        (8, 8, "vivivivi"),
        (12, 4, "vvvivvvi"),
        (4, 12, "viiiviii"),
        (16, 0, "vvvv"),
        (0, 8, "iiii"),
        (10, 4, "vvvivvivvviv"),
    ],
)
def test_kinds_are_mixed_evenly(videos: int, images: int, expected: str) -> None:
    sampler = steps(videos, images, 2, num_steps=len(expected))
    assert kinds_of(list(sampler)) == expected and len(sampler) == len(expected)


def test_an_epoch_has_every_entry_once() -> None:
    sampler = steps(15, 6, 3)
    assert sampler.steps_per_epoch == 7
    for epoch in range(2):
        batches = list(islice(sampler, 7 * epoch, 7 * epoch + 7))
        pairs = {kind: [p for b in batches for p in b if (p[1] >= FIRST_IMAGE) == kind] for kind in (False, True)}
        assert [sorted(index for index, _ in pairs[kind]) for kind in pairs] == [[*range(15)], [*range(6)]]
        assert [number for _, number in pairs[False]] == [*range(15 * epoch, 15 * epoch + 15)]
        assert [number - FIRST_IMAGE for _, number in pairs[True]] == [*range(6 * epoch, 6 * epoch + 6)]


@pytest.mark.parametrize("start", [0, 1, 2, 6, 7, 8, 20])
def test_it_resumes_exactly(start: int) -> None:
    whole = list(steps(17, 7, 3, num_steps=30))
    assert list(steps(17, 7, 3, start_step=start, num_steps=30 - start)) == whole[start:]


def test_ranks_have_one_kind_and_share_the_batch() -> None:
    whole = list(steps(50, 31, 6, num_steps=20))
    ranks = [list(steps(50, 31, 2, rank, 3, num_steps=20)) for rank in range(3)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == whole


def test_sampler_errors() -> None:
    with pytest.raises(ValueError, match="there must be videos or images, got neither"):
        AlternatingSampler(None, None)
    with pytest.raises(ValueError, match="start_step and num_steps must not be negative"):
        steps(4, 4, 1, start_step=-1)
    with pytest.raises(TypeError, match="without num_steps has no length"):
        len(steps(4, 4, 1))


@pytest.fixture(scope="module")
def datasets(captioned: Mixture) -> tuple[CaptionedDataset, CaptionedDataset]:
    videos, images = split_kinds(captioned)
    assert videos is not None and images is not None
    options: dict[str, Any] = {"size": (16, 16), "seed": 5}
    return CaptionedDataset(videos, num_frames=2, **options), CaptionedDataset(images, num_frames=1, **options)


def same(one: CaptionedBatch, other: CaptionedBatch) -> bool:
    assert one.captions is not None and other.captions is not None
    pairs = ((one.clips.frames, other.clips.frames), (one.captions.input_ids, other.captions.input_ids))
    return all(torch.equal(*pair) for pair in pairs) and one.texts == other.texts


def test_batches(datasets: tuple[CaptionedDataset, CaptionedDataset], tokenizer: Any) -> None:
    tokens = CaptionTokenizer(tokenizer, 5)
    make = lambda **options: list(  # noqa: E731
        load(make_captioned_loader(*datasets, 2, tokens, image_batch_size=3, **options))
    )
    whole = make(num_steps=6)
    assert [batch.is_image for batch in whole] == [False, False, True] * 2  # 5 // 2 of videos and 3 // 3 of images
    assert [batch.clips.shape for batch in whole[1:3]] == [(2, 3, 2, 16, 16), (3, 3, 1, 16, 16)]
    for other, start in ((make(num_steps=6, workers=2), 0), (make(num_steps=2, start_step=4), 4)):
        assert all(map(same, whole[start:], other))
    assert not any(same(*pair) for pair in pairwise(whole[::3]))


def test_one_kind_alone_and_in_the_wrong_place(datasets: tuple[CaptionedDataset, CaptionedDataset]) -> None:
    videos, images = datasets
    (batch,) = make_captioned_loader(None, images, 3, num_steps=1)
    assert batch.is_image and batch.captions is None and len(batch.texts) == 3
    with pytest.raises(ValueError, match="images must be images, got the other kind"):
        make_captioned_loader(None, videos, 1)
    with pytest.raises(ValueError, match="does not fill one step"):
        make_captioned_loader(videos, images, 4)
