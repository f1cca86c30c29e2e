"""The fine-tuning loaders: the same draws for all, what is equal and what is alike, and all bytes counted."""

from pathlib import Path

import pytest
import torch

from benchmarks.harness.run import DisagreementError
from benchmarks.loader import finetuning as module
from benchmarks.loader.contenders import OURS, PUBLISHED, Loader
from benchmarks.loader.finetuning import PILLOW, FinetuningCase, device_side
from tests.data.files import write_video
from videomae_fast.data.augment import ClipAugmentation

CLIP_BYTES = 3 * 16 * 224 * 224 * 4


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> FinetuningCase:
    folder = tmp_path_factory.mktemp("own")
    write_video(folder / "one.mp4", num_frames=70, height=120, width=160)
    write_video(folder / "two.mp4", num_frames=70, height=160, width=120)
    return FinetuningCase("own", rounds=1, videos=2, crops_per_video=2, own=folder)


def test_equal_and_alike(case: FinetuningCase, tmp_path: Path) -> None:
    error = case.check(tmp_path)
    assert error["pillow"] < 0.01 < error["device"] < error["other draws"] / 2


def test_another_draw_is_no_agreement(case: FinetuningCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = ClipAugmentation.cut
    monkeypatch.setattr(
        ClipAugmentation,
        "cut",
        lambda self, frames, crops, sample, *rest: cut(self, frames, crops, [s + 1 for s in sample], *rest),
    )
    with pytest.raises(DisagreementError, match=r"augmented clips are not the published ones.*'pillow': \d+"):
        case.check(tmp_path)


def test_all_make_the_batch_and_its_bytes_are_counted(case: FinetuningCase, tmp_path: Path) -> None:
    loaders = case.loaders(tmp_path)
    assert tuple(loaders) == case.variants == (PUBLISHED, OURS, PILLOW)
    batches = {name: loader(case.pairs(loader.dataset, 0)) for name, loader in loaders.items()}
    (published,) = batches[PUBLISHED]
    assert published.shape == (4, 3, 16, 224, 224) and published.dtype == torch.float32
    sent = {name: loader.figures(case.clips)["bytes_to_device_per_clip"] for name, loader in loaders.items()}
    ours, pillow = batches[OURS], batches[PILLOW]
    assert sent == {
        PUBLISHED: CLIP_BYTES,
        OURS: ours.clips.nbytes / 4 + 8 + 6 * 4,
        PILLOW: pillow.clips.nbytes / 4 + 8,
    }


def test_the_same_boxes_are_erased(case: FinetuningCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLICY", "")
    dataset = case.augmented(tmp_path, "pillow", erasing=1.0)
    plain = case.augmented(tmp_path, "pillow", erasing=0.0)
    pairs = case.pairs(dataset, 0)
    (published,), (expected,) = (Loader(PUBLISHED, each)(pairs) for each in (dataset, plain))
    erased = device_side(dataset, Loader(OURS, dataset)(pairs)) != device_side(plain, Loader(OURS, plain)(pairs))
    assert torch.equal(published != expected, erased) and 0.02 < erased.float().mean() < 0.34
