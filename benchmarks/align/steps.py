"""Alignment steps that can be compared: the same student, teachers, clips and masks, the published way and ours.

A step is teachers, masks, student, losses, backward and AdamW. The published code gets normalised float32 clips, one
for each mask; ours gets uint8 frames, once for the M masks of a clip. Neither drops paths.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.align.models import AlignBatch, AlignWeights, OurAlignment, PublishedAlignment
from benchmarks.align.sizes import AlignSize
from benchmarks.model.steps import ComparedStep, Implementation, NamedTensors

# What adds the same to all keys of a softmax has no effect: these gradients are rounding errors of 0.
WITHOUT_EFFECT = ("student.clip_projector.norm1_k.bias", "student.clip_projector.cross_attn.k_bias")
TEACHER_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _loss(batch: AlignBatch, model: nn.Module) -> Callable[[], Tensor]:
    return lambda: model(batch)


def _published_inputs(batch: AlignBatch) -> tuple[Tensor, ...]:
    return (batch.repeated_clip,)


def _our_inputs(batch: AlignBatch) -> tuple[Tensor, ...]:
    return batch.frames, batch.sample


def _with_effect(gradients: NamedTensors) -> NamedTensors:
    return {name: gradient for name, gradient in gradients.items() if name not in WITHOUT_EFFECT}


def _published(checkpointing: bool = False) -> Implementation:
    return Implementation(
        lambda ours: PublishedAlignment(ours, checkpointing), _loss, _published_inputs, published_names=_with_effect
    )


def _ours(precision: str) -> Implementation:
    """Under autocast as a recipe sets it up: each weight is used once, so no copies are kept."""
    dtype = TEACHER_DTYPE[precision]
    return Implementation(
        lambda ours: OurAlignment(ours, dtype), _loss, _our_inputs, autocast_cache=False, published_names=_with_effect
    )


IMPLEMENTATIONS = ("published", "published, checkpointed", "videomae_fast", "videomae_fast, checkpointed")


def make_align_step(name: str, batch: AlignBatch, precision: str = "fp32") -> ComparedStep:
    """The named implementation with the weights that seed 0 gives, on the batch's device; ValueError for others."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"name must be one of {IMPLEMENTATIONS}, got '{name}'")
    checkpointed, size = name.endswith("checkpointed"), batch.size
    if name.startswith("published"):
        return _published(checkpointed).make_step(name, batch, AlignWeights.of(size), precision)
    weights = AlignWeights.of(_checkpointed(size) if checkpointed else size)
    return _ours(precision).make_step(name, batch, weights, precision)


def _checkpointed(size: AlignSize) -> AlignSize:
    return replace(size, student=replace(size.student, activation_checkpointing=True))
