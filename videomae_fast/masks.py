"""Masks as index lists: what the encoder sees, what the decoder predicts, and which of those rows enter the loss.

Every plan is a pure function of (seed, sample numbers) and has the same counts for every sample, so shapes never
depend on data and nothing waits for the GPU. Semantics: VideoMAE V2, arXiv 2303.16727, section 3.2, and its
`dataset/masking_generator.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from videomae_kernels import mask_to_index, random_mask_index, running_cell_select, tube_mask_index

ENCODER_MASKS = ("tube", "random", "none")
DECODER_MASKS = ("running_cell", "random", "none")
_PHASE_STREAM, _DECODER_STREAM = 1, 2  # Philox streams; the encoder's mask uses stream 0


@dataclass(frozen=True, eq=False)
class MaskPlan:
    """Which tokens of a (T', H', W') grid are used where. Tokens are numbered in (t, h, w) order, w fastest."""

    grid: tuple[int, int, int]
    visible: Tensor  # (B, V) int64, ascending: tokens the encoder sees
    decoded: Tensor  # (B, M) int64: tokens the decoder predicts, overlap rows first, each part ascending
    num_overlap: int | Tensor  # leading rows of `decoded` that the encoder also sees: one int, or (B,) int64

    @property
    def num_tokens(self) -> int:
        """N = T'·H'·W'."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def predicted(self) -> Tensor:
        """(B, R) tokens whose predictions are computed: the loss rows if they are a slice, else all of `decoded`."""
        return self.decoded[:, self.num_overlap :] if self._loss_is_slice() else self.decoded

    @property
    def loss_weight(self) -> Tensor | None:
        """(B, R) 1 for rows of the loss and 0 for overlap rows among `predicted`; None when all rows count.

        ValueError if no row is left, because the encoder sees every decoded token.
        """
        if self._loss_is_slice():
            return None
        if isinstance(self.num_overlap, int):
            raise ValueError(f"no row is left for the loss: the encoder sees all {self.num_overlap} decoded tokens")
        row = torch.arange(self.decoded.shape[1], device=self.decoded.device)
        return (row >= self.num_overlap[:, None]).float()

    def _loss_is_slice(self) -> bool:
        return isinstance(self.num_overlap, int) and self.num_overlap < self.decoded.shape[1]

    def to(self, device: torch.device | str) -> "MaskPlan":
        """The same plan with its tensors on `device`."""
        num_overlap = self.num_overlap if isinstance(self.num_overlap, int) else self.num_overlap.to(device)
        return MaskPlan(self.grid, self.visible.to(device), self.decoded.to(device), num_overlap)


def make_masks(
    sample: Tensor,  # (B,) int64 sample numbers; their device is the plan's
    grid: Sequence[int],  # (T', H', W')
    *,
    mask: str = "tube",  # one of ENCODER_MASKS
    mask_ratio: float = 0.9,  # of tokens hidden from the encoder; unused by "none"
    decoder_mask: str = "running_cell",  # one of DECODER_MASKS; "none" decodes exactly what the encoder does not see
    decoder_mask_ratio: float = 0.5,  # of tokens not decoded; unused by "none"
    seed: int = 0,
) -> MaskPlan:
    """The masks of the given samples: the same on every device and for any split of the samples over ranks."""
    if len(grid) != 3:
        raise ValueError(f"grid must be (T', H', W'), got {tuple(grid)}")
    t, h, w = grid
    num_tokens = t * h * w
    if mask == "tube":
        visible = tube_mask_index(sample, grid, mask_ratio, seed=seed)
    elif mask == "random":
        visible = random_mask_index(sample, num_tokens, mask_ratio, seed=seed)
    elif mask == "none":
        visible = torch.arange(num_tokens, device=sample.device).repeat(sample.shape[0], 1)
    else:
        raise ValueError(f"mask must be one of {ENCODER_MASKS}, got '{mask}'")

    num_overlap: int | Tensor
    if decoder_mask == "running_cell":
        phase = random_mask_index(sample, 4, 0.75, seed=seed, stream=_PHASE_STREAM)[:, 0]
        decode, num_overlap = running_cell_select(visible, phase, grid, decoder_mask_ratio)
        if mask == "tube" and t % 4 == 0:
            # A visible position is visible in every frame, and decoded in 4 − k of any 4 consecutive frames.
            num_overlap = visible.shape[1] // 4 * (4 - int(4 * decoder_mask_ratio))
    elif decoder_mask == "random":
        decode = random_mask_index(sample, num_tokens, decoder_mask_ratio, seed=seed, stream=_DECODER_STREAM)
        decode, num_overlap = overlap_first(decode, visible, num_tokens)
    elif decoder_mask == "none":
        if visible.shape[1] == num_tokens:
            raise ValueError("decoder mask 'none' predicts what the encoder does not see, but it sees every token")
        hidden = torch.ones(visible.shape[0], num_tokens, dtype=torch.bool, device=visible.device)
        hidden.scatter_(1, visible, False)
        decode, num_overlap = mask_to_index(hidden, num_tokens - visible.shape[1]), 0
    else:
        raise ValueError(f"decoder_mask must be one of {DECODER_MASKS}, got '{decoder_mask}'")
    if mask == "none":
        num_overlap = decode.shape[1]  # the encoder sees all of them: good for predictions, not for a loss
    return MaskPlan((t, h, w), visible, decode, num_overlap)


def masks_from_bool(
    grid: Sequence[int],  # (T', H', W')
    hidden: Tensor,  # (B, N) bool, True = hidden from the encoder (published `mask`)
    not_decoded: Tensor,  # (B, N) bool, True = not predicted (published `decode_mask`)
    *,
    num_visible: int,  # False entries of each row of `hidden`
    num_decoded: int,  # False entries of each row of `not_decoded`
) -> MaskPlan:
    """A plan from boolean masks made elsewhere; unequal counts are an error (see `mask_to_index`).

    How many tokens the two masks share is not looked at, since the host would have to wait: if the encoder sees every
    decoded token of the batch, the loss is NaN.
    """
    t, h, w = grid
    for mask, name in ((hidden, "hidden"), (not_decoded, "not_decoded")):
        if mask.dtype != torch.bool:
            raise TypeError(f"{name} must be a boolean tensor, got {mask.dtype}")
        if mask.shape != (hidden.shape[0], t * h * w):
            expected = (hidden.shape[0], t * h * w)
            raise ValueError(f"{name} must have shape {expected} for grid {(t, h, w)}, got {tuple(mask.shape)}")
    visible = mask_to_index(~hidden, num_visible)
    decode, num_overlap = overlap_first(mask_to_index(~not_decoded, num_decoded), visible, t * h * w)
    return MaskPlan((t, h, w), visible, decode, num_overlap)


def overlap_first(decode: Tensor, visible: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Ascending `decode` (B, M) with the tokens also in `visible` (B, V) moved to the front, and their number (B,)."""
    seen = torch.zeros(visible.shape[0], num_tokens, dtype=torch.bool, device=visible.device)
    seen = seen.scatter_(1, visible.long(), True).gather(1, decode.long())
    order = seen.logical_not().to(torch.int8).argsort(dim=1, stable=True)
    return decode.gather(1, order), seen.sum(1)


Mask = MaskPlan | Tensor  # what fused models take: a plan, boolean masks, or the indices of the visible tokens


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
        return MaskPlan(grid, *visible_and_decoded(hidden, None, num_tokens, device), num_overlap=0)
    hidden = check_mask(hidden, "the mask", num_tokens)
    not_decoded = check_mask(not_decoded, "the decoder mask", num_tokens).to(hidden.device)
    overlap = (~hidden & ~not_decoded).sum(1)
    counts = torch.stack([(~hidden)[0].sum(), (~not_decoded)[0].sum(), overlap.min(), overlap.max()])
    num_visible, num_decoded, fewest, most = counts.tolist()
    plan = masks_from_bool(
        grid, hidden.to(device), not_decoded.to(device), num_visible=num_visible, num_decoded=num_decoded
    )
    return replace(plan, num_overlap=most) if fewest == most else plan


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
