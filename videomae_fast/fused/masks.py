"""What fused models take as masks: a MaskPlan, boolean masks, or the indices of the visible tokens."""

from dataclasses import replace

import torch
from torch import Tensor

from videomae_kernels import mask_to_index

from ..masks import MaskPlan, masks_from_bool

Mask = MaskPlan | Tensor


def visible_tokens(mask: Mask, num_tokens: int, device: torch.device) -> Tensor:
    """(B, V) int64 from a plan, a boolean mask (B, N) with True = hidden, or the index itself."""
    if isinstance(mask, MaskPlan):
        return mask.visible.to(device)
    if isinstance(mask, Tensor) and mask.dtype in (torch.int32, torch.int64):
        return mask.to(device)
    (visible,) = _to_index(device, ~check_mask(mask, "the mask", num_tokens))
    return visible


def visible_and_decoded(
    hidden: Tensor,  # (B, N) bool, True = hidden from the encoder
    not_decoded: Tensor | None,  # (B, N) bool, True = not predicted; None predicts all that is hidden
    num_tokens: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Both as ascending indices (B, V) and (B, M); masks that lie on a GPU cost one wait, for their counts."""
    hidden = check_mask(hidden, "the mask", num_tokens)
    decoded = hidden if not_decoded is None else ~check_mask(not_decoded, "the decoder mask", num_tokens)
    visible, decode = _to_index(device, ~hidden, decoded.to(hidden.device))
    return visible, decode


def as_plan(hidden: Mask, not_decoded: Tensor | None, grid: tuple[int, int, int], device: torch.device) -> MaskPlan:
    """The masks of `visible_and_decoded` as a plan, at the same cost; a plan as it is, without a wait."""
    if isinstance(hidden, MaskPlan):
        no_decoder_mask(not_decoded)
        return hidden.to(device)
    num_tokens = grid[0] * grid[1] * grid[2]
    if not_decoded is None:
        return MaskPlan(grid, *visible_and_decoded(hidden, None, num_tokens, device), n_overlap=0)
    hidden = check_mask(hidden, "the mask", num_tokens)
    not_decoded = check_mask(not_decoded, "the decoder mask", num_tokens).to(hidden.device)
    overlap = (~hidden & ~not_decoded).sum(1)
    counts = torch.stack([(~hidden)[0].sum(), (~not_decoded)[0].sum(), overlap.min(), overlap.max()])
    num_visible, num_decoded, fewest, most = counts.tolist()
    plan = masks_from_bool(
        grid, hidden.to(device), not_decoded.to(device), num_visible=num_visible, num_decoded=num_decoded
    )
    return replace(plan, n_overlap=most) if fewest == most else plan


def encoder_mask(visible: Tensor, num_tokens: int, fused: bool) -> Tensor:
    """What an encoder takes: the index (B, V) where its own seam is fused too, else the boolean mask (B, N)."""
    if fused:
        return visible
    hidden = torch.ones(visible.shape[0], num_tokens, dtype=torch.bool, device=visible.device)
    return hidden.scatter_(1, visible, False)


def check_mask(mask: Tensor, name: str, num_tokens: int) -> Tensor:
    """`mask` if it is a boolean (B, N) tensor; TypeError or ValueError if not."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        came = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name} must be a boolean tensor (or both masks one MaskPlan), got {came}")
    if mask.ndim != 2 or mask.shape[1] != num_tokens:
        raise ValueError(f"{name} must have shape (B, {num_tokens}), got {tuple(mask.shape)}")
    return mask


def no_decoder_mask(not_decoded: Tensor | None) -> None:
    """ValueError if there is one beside a MaskPlan."""
    if not_decoded is not None:
        raise ValueError("the decoder mask is part of the MaskPlan: give one or the other")


def _to_index(device: torch.device, *masks: Tensor) -> list[Tensor]:
    """Positions of the True entries, as many as the first sample has; `mask_to_index` checks the others."""
    counts = torch.stack([mask[0].sum() for mask in masks]).tolist()
    # Not zip(strict=True): torch 2.6 breaks a compiled graph at tolist, and cannot carry that over the break.
    return [mask_to_index(mask.to(device), counts[number]) for number, mask in enumerate(masks)]
