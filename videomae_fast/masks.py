"""Masks as index lists: the tokens that the encoder sees, the tokens that the decoder gets, and the rows of the loss.

`guided_masks` draws what an encoder sees by a teacher's attention. All ways to make a `MaskPlan` live here, too: from
sample numbers (`make_masks`), from boolean masks whose counts are known (`masks_from_bool`), and from the masks that a
fused model is called with (`as_plan`). A plan of `make_masks` is a pure function of (seed, sample numbers). All samples
of a plan have the same counts, so shapes never depend on data and `make_masks` needs no host sync. Semantics: VideoMAE
V2, arXiv 2303.16727, section 3.2, and its `dataset/masking_generator.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from videomae_kernels import (
    mask_to_index,
    random_mask_index,
    running_cell_select,
    tube_mask_index,
    weighted_mask_index,
)

ENCODER_MASKS = ("tube", "random", "none")
GUIDED = ("frame", "clip")  # what keeps an equal number of tokens
DECODER_MASKS = ("running_cell", "random", "none")
_PHASE_STREAM, _DECODER_STREAM = 1, 2  # Philox streams; the encoder's mask uses stream 0


@dataclass(frozen=True, eq=False)
class MaskPlan:
    """The visible and the decoded tokens of every clip, for a batch or a part of one.

    Tokens are numbered in (t, h, w) order, w fastest.

    Args:
        grid: (T', H', W') tokens of a clip.
        visible: (B, V) int64, ascending: tokens the encoder sees.
        decoded: (B, M) int64: tokens the decoder gets mask tokens for, overlap rows first, each part ascending.
        num_overlap: leading rows of `decoded` that the encoder also sees; the loss leaves them out. One int for all
            samples, or (B,) int64.
        share: loss rows of this part over the loss rows of the whole batch (`split`), a number or a scalar tensor;
            None for a whole batch.
    """

    grid: tuple[int, int, int]
    visible: Tensor
    decoded: Tensor
    num_overlap: int | Tensor
    share: float | Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """N = T'·H'·W'."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def predicted(self) -> Tensor:
        """(B, R) tokens that the model predicts: the loss rows if they are a slice of `decoded`, else all of it."""
        return self.decoded[:, self.num_overlap :] if self._loss_is_slice() else self.decoded

    @property
    def loss_weight(self) -> Tensor | None:
        """The weight of each predicted row in the loss: loss = share · Σ weight·error / Σ weight.

        Returns:
            (B, R) float32: 1 for rows of the loss, 0 for overlap rows among `predicted`. None if all rows count.

        Raises:
            ValueError: no row is left, because the encoder sees every decoded token.
        """
        if self._loss_is_slice():
            return None
        if isinstance(self.num_overlap, int):
            raise ValueError(f"no row is left for the loss: the encoder sees all {self.num_overlap} decoded tokens")
        row = torch.arange(self.decoded.shape[1], device=self.decoded.device)
        weight = (row >= self.num_overlap[:, None]).float()
        if self.share is None:
            return weight
        # A part without any row has the share 0. Its mean must be finite, so that 0 times it is 0.
        return weight + (weight.sum() == 0)

    def to(self, device: torch.device | str) -> "MaskPlan":
        """The same plan with its tensors on `device`."""
        num_overlap = self.num_overlap.to(device) if isinstance(self.num_overlap, Tensor) else self.num_overlap
        share = self.share.to(device) if isinstance(self.share, Tensor) else self.share
        return MaskPlan(self.grid, self.visible.to(device), self.decoded.to(device), num_overlap, share)

    def split(self, parts: int | Sequence[int]) -> "list[MaskPlan]":
        """Cut the plan along the batch, for gradient accumulation.

        The losses of the parts add up to the loss of the whole batch, and so do the gradients. This holds also where
        samples have different numbers of loss rows, because each part knows its `share` of the loss rows.

        Args:
            parts: number of parts, as equal as possible; or the sizes of the parts, which add up to B.

        Returns:
            The parts, in order. This needs no host sync.

        Raises:
            ValueError: more parts than samples, an empty part, or sizes that do not add up to B.
        """
        batch = self.visible.shape[0]
        if isinstance(parts, int):
            if not 1 <= parts <= batch:
                raise ValueError(f"parts must be between 1 and the batch size {batch}, got {parts}")
            sizes = [batch // parts + (number < batch % parts) for number in range(parts)]
        else:
            sizes = [int(size) for size in parts]
            if sum(sizes) != batch or min(sizes, default=0) < 1:
                raise ValueError(f"parts must be positive sizes that add up to the batch size {batch}, got {sizes}")
        visible, decoded = self.visible.split(sizes), self.decoded.split(sizes)
        overlaps: Sequence[int | Tensor]
        shares: Sequence[float | Tensor]
        if isinstance(self.num_overlap, Tensor):
            overlaps = self.num_overlap.split(sizes)
            rows = (self.decoded.shape[1] - self.num_overlap).double()
            shares = [part.sum() / rows.sum() for part in rows.split(sizes)]
        else:
            overlaps = [self.num_overlap] * len(sizes)
            shares = [size / batch for size in sizes]
        whole = 1.0 if self.share is None else self.share
        cut = zip(visible, decoded, overlaps, shares, strict=True)
        return [MaskPlan(self.grid, v, d, overlap, share * whole) for v, d, overlap, share in cut]

    def _loss_is_slice(self) -> bool:
        return isinstance(self.num_overlap, int) and self.num_overlap < self.decoded.shape[1]


def make_masks(
    sample: Tensor,
    grid: Sequence[int],
    *,
    mask: str = "tube",
    mask_ratio: float = 0.9,
    decoder_mask: str = "running_cell",
    decoder_mask_ratio: float = 0.5,
    seed: int = 0,
) -> MaskPlan:
    """Make the masks of the given samples: the same on every device and for any split of the samples over ranks.

    Args:
        sample: (B,) int64 sample numbers; the plan is on their device.
        grid: (T', H', W') tokens of a clip, such as a model's `config.grid`.
        mask: "tube" hides the same positions in every frame, "random" any tokens, "none" nothing.
        mask_ratio: share of tokens hidden from the encoder, in [0, 1). Of n tokens, int(mask_ratio·n) are hidden.
            "none" does not use it.
        decoder_mask: "running_cell" decodes a part of each 2 × 2 cell, which moves from frame to frame; "random" any
            tokens; "none" exactly the tokens that the encoder does not see.
        decoder_mask_ratio: share of tokens that are not decoded, in [0, 1). "none" does not use it.
        seed: seed of all masks, in [0, 2⁶³).

    Returns:
        The plan. `num_overlap` is an int where every draw gives every sample the same number.

    Raises:
        ValueError: an unknown mask, a ratio, seed or grid out of range, or masks that decode nothing.
        TypeError: sample is not an int64 vector.

    References:
        VideoMAE V2, arXiv 2303.16727, section 3.2; `TubeMaskingGenerator` and `RunningCellMaskingGenerator` of its
        dataset/masking_generator.py.
    """
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
        decoded, num_overlap = running_cell_select(visible, phase, grid, decoder_mask_ratio)
        if mask == "tube" and t % 4 == 0:
            # A visible position is visible in every frame, and decoded in 4 − k of any 4 consecutive frames.
            num_overlap = visible.shape[1] // 4 * (4 - int(4 * decoder_mask_ratio))
    elif decoder_mask == "random":
        decoded = random_mask_index(sample, num_tokens, decoder_mask_ratio, seed=seed, stream=_DECODER_STREAM)
        decoded, num_overlap = overlap_first(decoded, visible, num_tokens)
    elif decoder_mask == "none":
        if visible.shape[1] == num_tokens:
            raise ValueError("decoder_mask 'none' predicts what the encoder does not see, but it sees every token")
        hidden = torch.ones(visible.shape[0], num_tokens, dtype=torch.bool, device=visible.device)
        hidden.scatter_(1, visible, False)
        decoded, num_overlap = mask_to_index(hidden, num_tokens - visible.shape[1]), 0
    else:
        raise ValueError(f"decoder_mask must be one of {DECODER_MASKS}, got '{decoder_mask}'")
    if mask == "none":
        num_overlap = decoded.shape[1]  # the encoder sees every token: the plan serves predictions, not a loss
    return MaskPlan((t, h, w), visible, decoded, num_overlap)


def masks_from_bool(
    grid: Sequence[int], hidden: Tensor, not_decoded: Tensor, *, num_visible: int, num_decoded: int
) -> MaskPlan:
    """Make a plan from boolean masks whose counts are known.

    The number of tokens that the two masks share stays on the device, because reading it would be a host sync. If the
    encoder sees every decoded token of the batch, the loss is therefore NaN, not an error.

    Args:
        grid: (T', H', W') tokens of a clip.
        hidden: (B, N) bool, True where the encoder does not see a token (the published code calls it `mask`).
        not_decoded: (B, N) bool, True where a token is not decoded (the published code calls it `decode_mask`).
        num_visible: False entries in each row of `hidden`.
        num_decoded: False entries in each row of `not_decoded`.

    Returns:
        The plan, with one `num_overlap` for each sample.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: a mask has another shape, a count is out of range, or a row has another count
            (`videomae_kernels.mask_to_index`).
    """
    t, h, w = grid
    for mask, name in ((hidden, "hidden"), (not_decoded, "not_decoded")):
        if mask.dtype != torch.bool:
            raise TypeError(f"{name} must be a boolean tensor, got {mask.dtype}")
        if mask.shape != (hidden.shape[0], t * h * w):
            expected = (hidden.shape[0], t * h * w)
            raise ValueError(f"{name} must have shape {expected} for grid {(t, h, w)}, got {tuple(mask.shape)}")
    for count, name in ((num_visible, "num_visible"), (num_decoded, "num_decoded")):
        if not 0 < count <= t * h * w:
            raise ValueError(f"{name} must be in [1, {t * h * w}], got {count}")
    visible = mask_to_index(~hidden, num_visible)
    decoded, num_overlap = overlap_first(mask_to_index(~not_decoded, num_decoded), visible, t * h * w)
    return MaskPlan((t, h, w), visible, decoded, num_overlap)


def guided_masks(
    weights: Tensor,
    ratio: float,
    sample: Tensor,
    *,
    per: str = "frame",
    masks_per_clip: int = 1,
    seed: int,
) -> Tensor:
    """Draw the tokens that an encoder sees, each with a probability proportional to its weight, without replacement.

    Several masks of a clip differ, so that one pass of a teacher, whose attention the weights are, serves all of them.
    A mask is a pure function of (seed, sample number, the clip's weights): `videomae_kernels.weighted_mask_index`
    draws it, of mask m of sample s, for sample number s·M + m. For masks without a guide, weights may be equal:
    `torch.ones(()).expand(B, *grid)` takes no memory.

    Args:
        weights: (B, T', H', W') floating, finite and not negative; only their ratios count.
        ratio: share of tokens hidden, in [0, 1). Of the n tokens of a frame, or of a clip, int(ratio·n) are hidden.
        sample: (B,) int64 sample numbers, on the device of `weights`.
        per: "frame" keeps the same number of tokens in every frame, "clip" in every clip.
        masks_per_clip: M.
        seed: seed of all masks, in [0, 2⁶³).

    Returns:
        (B·M, K) int64 token numbers, ascending. The M masks of a clip follow each other.

    Raises:
        ValueError: `per` is unknown, a number is out of range, `weights` has another shape, or (on a CPU) it has
            negative or infinite numbers or NaN, or fewer positive ones than are kept.
        TypeError: `weights` is not floating, `sample` is not an int64 vector, or `masks_per_clip` is no integer.

    References:
        InternVideo2, arXiv 2403.15377: stage 1 masks per frame, the distillation of small models per clip.
    """
    if per not in GUIDED:
        raise ValueError(f"per must be one of {GUIDED}, got '{per}'")
    if sample.ndim != 1 or sample.dtype != torch.int64:
        raise TypeError(f"sample must be an int64 vector of sample numbers, got {sample.dtype} {tuple(sample.shape)}")
    if weights.ndim != 4 or sample.shape != weights.shape[:1]:
        raise ValueError(
            f"weights must have shape (B, T', H', W') for the B sample numbers of {tuple(sample.shape)}, "
            f"got {tuple(weights.shape)}"
        )
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio must be in [0, 1), got {ratio}")
    if isinstance(masks_per_clip, bool) or not isinstance(masks_per_clip, int):
        raise TypeError(f"masks_per_clip must be an integer, got {masks_per_clip!r}")
    if masks_per_clip < 1:
        raise ValueError(f"masks_per_clip must be at least 1, got {masks_per_clip}")
    groups = weights.flatten(2) if per == "frame" else weights.flatten(1)[:, None]
    keep = groups.shape[2] - int(ratio * groups.shape[2])
    if masks_per_clip > 1:
        groups = groups.repeat_interleave(masks_per_clip, dim=0)
    return weighted_mask_index(groups, keep, mask_numbers(sample, masks_per_clip), seed=seed)


def mask_numbers(sample: Tensor, masks_per_clip: int) -> Tensor:
    """The sample numbers that the masks of clips draw with: s·M + m of mask m of sample s.

    Args:
        sample: (B,) int64 sample numbers.
        masks_per_clip: M.

    Returns:
        (B·M,) int64; the masks of a clip follow each other.
    """
    mask = torch.arange(masks_per_clip, device=sample.device)
    return (sample[:, None] * masks_per_clip + mask).flatten()


def overlap_first(decoded: Tensor, visible: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Order decoded tokens as a plan needs them: the tokens that the encoder also sees come first.

    Args:
        decoded: (B, M) ascending tokens.
        visible: (B, V) tokens the encoder sees.
        num_tokens: N, tokens of a clip.

    Returns:
        `decoded` with the tokens that are also in `visible` moved to the front, and their number (B,) int64.
    """
    seen = torch.zeros(visible.shape[0], num_tokens, dtype=torch.bool, device=visible.device)
    seen = seen.scatter_(1, visible.long(), True).gather(1, decoded.long())
    order = seen.logical_not().to(torch.int8).argsort(dim=1, stable=True)
    return decoded.gather(1, order), seen.sum(1)


# ---- The forms of masks that fused models are called with ----

Mask = MaskPlan | Tensor  # a plan, a boolean mask, or the index of the visible tokens


def visible_tokens(mask: Mask, num_tokens: int, device: torch.device) -> Tensor:
    """The tokens that an encoder sees, from any form of a mask.

    Args:
        mask: a plan; a boolean mask (B, N) with True = hidden, which costs a host sync on a GPU; or the index (B, V),
            int32 or int64.
        num_tokens: N, tokens of a clip.
        device: the device of the result.

    Returns:
        (B, V) int64; an index keeps its dtype.

    Raises:
        TypeError: `mask` is of another type.
        ValueError: a boolean mask has another shape, or its rows have different counts.
    """
    if isinstance(mask, MaskPlan):
        return mask.visible.to(device)
    if isinstance(mask, Tensor) and mask.dtype in (torch.int32, torch.int64):
        return mask.to(device)
    (visible,) = _to_index(device, ~check_mask(mask, "the mask", num_tokens))
    return visible


def visible_and_decoded(
    hidden: Tensor, not_decoded: Tensor | None, num_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Turn two boolean masks into indices. Masks on a GPU cost one host sync, which reads the counts of both.

    Args:
        hidden: (B, N) bool, True = hidden from the encoder.
        not_decoded: (B, N) bool, True = not decoded; None decodes every hidden token.
        num_tokens: N, tokens of a clip.
        device: the device of the result.

    Returns:
        Visible (B, V) and decoded (B, M) tokens, int64, ascending.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: a mask has another shape, or its rows have different counts.
    """
    hidden = check_mask(hidden, "the mask", num_tokens)
    decoded = hidden if not_decoded is None else ~check_mask(not_decoded, "the decoder mask", num_tokens)
    visible, decoded = _to_index(device, ~hidden, decoded.to(hidden.device))
    return visible, decoded


def as_plan(hidden: Mask, not_decoded: Tensor | None, grid: tuple[int, int, int], device: torch.device) -> MaskPlan:
    """Make a plan from the masks that a fused model was called with.

    Args:
        hidden: a plan, which only moves to `device`; or (B, N) bool, True = hidden from the encoder.
        not_decoded: (B, N) bool, True = not decoded; None decodes every hidden token.
        grid: (T', H', W') tokens of a clip.
        device: the device of the result.

    Returns:
        The plan. Boolean masks on a GPU cost one host sync, which reads their counts.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: a decoder mask comes beside a plan, a mask has another shape, or its rows have different counts.
    """
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
    """The mask in the form that an encoder takes.

    Args:
        visible: (B, V) int32 or int64 tokens that the encoder sees.
        num_tokens: N, tokens of a clip.
        fused: whether the encoder is fused itself.

    Returns:
        `visible` for a fused encoder, else (B, N) bool, True = hidden.
    """
    if fused:
        return visible
    hidden = torch.ones(visible.shape[0], num_tokens, dtype=torch.bool, device=visible.device)
    return hidden.scatter_(1, visible, False)


def check_mask(mask: Tensor, name: str, num_tokens: int) -> Tensor:
    """Make sure that a mask is a boolean tensor (B, N).

    Args:
        mask: the mask.
        name: what the error calls it.
        num_tokens: N, tokens of a clip.

    Returns:
        `mask`.

    Raises:
        TypeError: `mask` is not a boolean tensor.
        ValueError: `mask` has another shape.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        came = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name} must be a boolean tensor (or both masks one MaskPlan), got {came}")
    if mask.ndim != 2 or mask.shape[1] != num_tokens:
        raise ValueError(f"{name} must have shape (B, {num_tokens}), got {tuple(mask.shape)}")
    return mask


def no_decoder_mask(not_decoded: Tensor | None) -> None:
    """Raise ValueError if a decoder mask came beside a MaskPlan."""
    if not_decoded is not None:
        raise ValueError("the decoder mask is part of the MaskPlan: give one or the other")


def _to_index(device: torch.device, *masks: Tensor) -> list[Tensor]:
    """Positions of the True entries. The first sample gives the count, and `mask_to_index` checks the other samples."""
    counts = torch.stack([mask[0].sum() for mask in masks]).tolist()
    # Not zip(strict=True): torch 2.6 breaks a compiled graph at tolist, and cannot carry that over the break.
    return [mask_to_index(mask.to(device), counts[number]) for number, mask in enumerate(masks)]
