"""The closed form of the memory of an InternVideo2's step against the prediction that counts every tensor."""

from dataclasses import replace

import pytest
import torch

from videomae_fast.memory.predict import predict_step
from videomae_fast.models import (
    AlignmentHeads,
    InternVideo2Config,
    InternVideo2ForAlignment,
    InternVideo2ForClassification,
    TeacherRows,
    choose_recompute,
    get_internvideo2_config,
)
from videomae_fast.models.memory_budget import AlignmentTokens, peak_bytes

SMALL = get_internvideo2_config("small", encoder_depth=2, recompute="never")
WIDE = get_internvideo2_config("1b", encoder_depth=2, recompute="never")
BOTH = AlignmentHeads((0, 1), video_layers=(1,))
DISTILLED = AlignmentHeads((0, 1), image_dim=1408, image_mlp=True)
GIB = 2**30


class Step:
    """Forward, backward and AdamW on zeros."""

    def __init__(self, config: InternVideo2Config, clips: int, precision: str) -> None:
        self.precision = precision
        self.clip = torch.zeros(clips, 3, config.num_frames, *config.image_size, dtype=torch.uint8)
        self.model = self.make(config, clips)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)

    def make(self, config: InternVideo2Config, clips: int) -> torch.nn.Module:
        self.clip = self.clip.float()
        return InternVideo2ForClassification(config, 400)

    def loss(self) -> torch.Tensor:
        return self.model(self.clip).float().square().mean()

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False):
            loss = self.loss()
        loss.backward()
        self.optimizer.step()


class AlignmentStep(Step):
    """With the rows that bfloat16 teachers hand over."""

    def __init__(self, config: InternVideo2Config, clips: int, precision: str, tokens: AlignmentTokens) -> None:
        self.tokens = tokens
        super().__init__(config, clips, precision)

    def make(self, config: InternVideo2Config, clips: int) -> torch.nn.Module:
        heads, visible, low = self.tokens.heads, self.tokens.visible, torch.bfloat16
        count = clips * self.tokens.masks_per_clip
        self.visible = torch.arange(visible).repeat(count, 1)
        image = tuple(torch.zeros(count, 1 + visible, heads.image_dim, dtype=low) for _ in heads.image_layers)
        video = tuple(torch.zeros(count, visible, heads.video_dim, dtype=low) for _ in heads.video_layers)
        pooled = None if heads.pooled_dim is None else torch.zeros(clips, heads.pooled_dim, dtype=low)
        self.image = TeacherRows(image, pooled) if image or heads.pooled_dim else None
        self.video = TeacherRows(video) if video else None
        return InternVideo2ForAlignment(config, heads)

    def loss(self) -> torch.Tensor:
        losses = self.model(self.clip, self.visible, self.image, self.video)
        parts = [part.mean() for part in (losses.image, losses.pooled, losses.video) if part is not None]
        return torch.stack(parts).sum()


@pytest.mark.parametrize(
    "config, clips, tokens, precision",
    [
        pytest.param(SMALL, 16, AlignmentTokens(BOTH, 416), "bf16", marks=pytest.mark.slow),
        pytest.param(SMALL, 16, AlignmentTokens(BOTH, 416), "fp32", marks=pytest.mark.slow),
        (SMALL, 8, AlignmentTokens(BOTH, 416, masks_per_clip=2), "bf16"),
        pytest.param(SMALL, 16, AlignmentTokens(DISTILLED, 410), "fp32", marks=pytest.mark.slow),
        (SMALL, 16, AlignmentTokens(replace(DISTILLED, pooled_dim=None), 410), "fp32"),
        pytest.param(
            replace(SMALL, elementwise="torch"), 16, AlignmentTokens(BOTH, 416), "bf16", marks=pytest.mark.slow
        ),
        pytest.param(WIDE, 32, AlignmentTokens(BOTH, 416), "bf16", marks=pytest.mark.slow),
    ],
    ids=["bf16", "fp32", "two masks", "distillation", "without pool", "torch", "1B"],
)
def test_alignment(config: InternVideo2Config, clips: int, tokens: AlignmentTokens, precision: str) -> None:
    expected = predict_step(lambda: AlignmentStep(config, clips, precision, tokens)).figures.peak_bytes
    assert peak_bytes(config, tokens, clips, precision) == pytest.approx(expected, rel=0.015)


def test_classification() -> None:
    expected = predict_step(lambda: Step(SMALL, 4, "bf16")).figures.peak_bytes
    assert peak_bytes(SMALL, SMALL.num_tokens, 4, "bf16") == pytest.approx(expected, rel=0.015)


def test_the_choice_counts_the_teachers() -> None:
    config = get_internvideo2_config("1b")
    heads = AlignmentHeads(tuple(range(34, 40)), video_layers=tuple(range(36, 40)))
    tokens, teachers = AlignmentTokens(heads, 416), 13 * GIB
    needed = int((peak_bytes(config, tokens, 32, "bf16") + teachers) / 0.95) + 2 * GIB

    def choice(capacity: int, teachers: int = teachers) -> str:
        options = {"clips": 32, "precision": "bf16", "capacity_bytes": capacity}
        return choose_recompute(config, tokens, teachers=teachers, **options)  # type: ignore[arg-type]

    assert choice(needed - 2**20) == "always" and choice(needed + 2**20) == "never"
    assert choice(needed - 2**20, teachers=0) == "never"
