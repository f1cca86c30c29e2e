"""The second stage learns what its losses are for: which caption is of a video, and words that only the video tells."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from videomae_fast.models import InternVideo2Config, InternVideo2Tower, SplitBert, SplitBertConfig, VideoTextFusionModel
from videomae_fast.models import fusion as fusion_module
from videomae_kernels import contrastive_loss

PALETTE = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1.0]])
COLOURS, KINDS = len(PALETTE), 2
CLS, SEP, MASKED, THE, MOVE, FIRST = 2, 3, 4, 5, 6, 7  # token numbers; from FIRST on the colours, then the kinds
VISION = InternVideo2Config(
    48,
    2,
    3,
    pool_heads=3,
    clip_embed_dim=32,
    layer_scale=0.1,
    drop_path=0.0,
    patch_size=8,
    num_frames=2,
    image_size=(32, 32),
)
TEXT = SplitBertConfig(
    48, 3, 4, text_layers=2, hidden=96, vocab_size=16, max_length=6, pad_id=0, cls_id=CLS, mask_id=MASKED, dropout=0.0
)
BATCH, STEPS = 32, 300
# Matching knows that a third are pairs. Of hidden words the text tells neither colour nor kind, which are two of five
# words that are hidden alike, and of which 80 % are [MASK].
PRIOR_LOSS, PRIOR_ACCURACY = math.log(3) - 2 / 3 * math.log(2), 2 / 3
TEXT_ALONE = 0.8 * (math.log(COLOURS) + math.log(KINDS)) / 5


class Figures(NamedTuple):
    matching: float
    accuracy: float
    words: float


def pairs(sample: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy stripes, columns or rows, of one colour; "the <colour> <kind> move"; and the number of the caption."""
    generator = torch.Generator().manual_seed(int(sample[0]))
    colour, kind = (torch.randint(count, (BATCH,), generator=generator) for count in (COLOURS, KINDS))
    wave = (torch.arange(32) // 4 % 2).float().expand(BATCH, 32, 32)
    stripes = torch.where(kind[:, None, None] == 0, wave, wave.mT)
    clip = PALETTE[colour][:, :, None, None, None] * stripes[:, None, None]
    clip = clip + 0.5 * torch.randn(BATCH, 3, 2, 32, 32, generator=generator)
    words = [torch.full((BATCH,), word) for word in (CLS, THE, MOVE, SEP)]
    ids = torch.stack([words[0], words[1], FIRST + colour, FIRST + COLOURS + kind, *words[2:]], dim=1)
    return clip, ids, colour * KINDS + kind


def run(model: VideoTextFusionModel, sample: Tensor, visible: Tensor | None = None) -> tuple[Any, Tensor]:
    clip, ids, number = pairs(sample)
    mask = torch.ones_like(ids, dtype=torch.bool)
    return model(clip, ids, mask, sample, visible, seed=0, pair_ids=number), number


def train() -> VideoTextFusionModel:
    torch.manual_seed(0)
    tower = InternVideo2Tower(VISION)
    model = VideoTextFusionModel(tower, SplitBert(TEXT, tower.token_dim), 32)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS, pct_start=0.1)
    for step in range(STEPS):
        sample = torch.arange(BATCH) + BATCH * step
        output, number = run(model, sample, tower.draw(sample, 0.5, seed=0))
        loss = contrastive_loss(*output.pairs, x_ids=number, y_ids=number) + output.matching + output.words
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.limit_temperature()
    return model.eval()


@torch.no_grad()
def held_out(model: VideoTextFusionModel, monkeypatch: pytest.MonkeyPatch, batches: int = 8) -> Figures:
    """Means over pairs that training has not seen, with negatives as hard as its own."""
    logits: list[Tensor] = []
    loss = fusion_module.vtm_loss

    def kept(of_pairs: Tensor) -> Tensor:
        logits.append(of_pairs)
        return loss(of_pairs)

    monkeypatch.setattr(fusion_module, "vtm_loss", kept)
    outputs = [run(model, torch.arange(BATCH) + 10**6 + BATCH * k)[0] for k in range(batches)]
    is_pair = torch.arange(3 * BATCH) < BATCH
    right = [(of_pairs[:, 1] > of_pairs[:, 0]) == is_pair for of_pairs in logits]
    matching, words = (torch.stack([getattr(o, name) for o in outputs]).mean() for name in ("matching", "words"))
    return Figures(float(matching), float(torch.stack(right).float().mean()), float(words))


@pytest.mark.slow
def test_matching_and_words_need_the_video_and_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = held_out(train(), monkeypatch)
    assert found.matching < 0.6 * PRIOR_LOSS
    assert found.accuracy > PRIOR_ACCURACY + 0.2
    assert found.words < 0.5 * TEXT_ALONE
    _, ids, _ = pairs(torch.zeros(1, dtype=torch.int64))
    shares = ids[:, 1:].flatten().unique(return_counts=True)[1] / ids[:, 1:].numel()
    assert float(-(shares * shares.log()).sum()) > TEXT_ALONE  # words by their frequency: a weaker bound


def blind(fuse: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda self, tokens, mask, video: fuse(self, tokens, mask, torch.zeros_like(video))


@pytest.mark.slow
def test_without_the_video_they_learn_the_prior_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the bounds above say that cross-attention reads the video."""
    monkeypatch.setattr(SplitBert, "fuse", blind(SplitBert.fuse))
    found = held_out(train(), monkeypatch)
    assert found.matching > PRIOR_LOSS - 0.02
    assert found.accuracy < PRIOR_ACCURACY + 0.02
    assert TEXT_ALONE - 0.05 < found.words < 3 * TEXT_ALONE
