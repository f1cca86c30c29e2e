"""Adapt a model to the device of a run, before it is built."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ..engine.precision import resolve_precision
from ..masks import MaskPlan
from ..models import choose_recompute
from ..models.attention import activate_flash_attention
from ..models.config import ClipConfig
from ..models.memory_budget import AlignmentTokens

C = TypeVar("C", bound=ClipConfig)


def fit_to_device(
    config: C,
    tokens: MaskPlan | AlignmentTokens | int,
    *,
    clips: int,
    accumulate: int,
    averaged: bool = False,
    teachers: int = 0,
    precision: str,
    device: torch.device,
    say: Callable[[str], None],
) -> C:
    """On a GPU, activate its fastest flash attention for "sdpa", and recompute only where memory is short.

    Args:
        config: the model of the run.
        tokens: as `choose_recompute` takes them.
        clips: clips of one forward pass on this device.
        accumulate: forward passes of a step.
        averaged: whether the run keeps an average of the weights.
        teachers: bytes of the teachers' weights on this device.
        precision: of the run, one of `PRECISIONS`.
        device: of the run.
        say: prints a line.

    Returns:
        The configuration, with another `recompute` if that was "auto".
    """
    use_fastest_attention(config.attention, device, say)
    if device.type != "cuda" or config.recompute != "auto":
        return config
    capacity = torch.cuda.get_device_properties(device).total_memory
    precision = resolve_precision(precision)
    known: Any = config  # of a family that the closed form covers
    recompute = choose_recompute(
        known,
        tokens,
        clips=clips,
        precision=precision,
        capacity_bytes=capacity,
        accumulate=accumulate,
        copies=averaged + (torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1),
        teachers=teachers,
    )
    fitted: C = replace(known, recompute=recompute)
    return fitted


def use_fastest_attention(attention: str, device: torch.device, say: Callable[[str], None]) -> None:
    """On a GPU, let "sdpa" run on the fastest flash attention that this PyTorch has for it.

    Args:
        attention: backend of the run.
        device: of the run.
        say: prints a line, if it is another than PyTorch's own.
    """
    if device.type == "cuda" and attention == "sdpa" and (found := activate_flash_attention(device)):
        say(f"attention runs on {found}")
