"""Masks as index lists: what the encoder sees, what the decoder predicts, and which of those rows enter the loss.

Every plan is a pure function of (seed, sample numbers) and has the same counts for every sample, so shapes never
depend on data and nothing waits for the GPU. Semantics: VideoMAE V2, arXiv 2303.16727, section 3.2, and its
`dataset/masking_generator.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    decode: Tensor  # (B, M) int64: tokens the decoder predicts, overlap rows first, each part ascending
    n_overlap: int | Tensor  # leading rows of `decode` that the encoder also sees: one int, or (B,) int64

    @property
    def num_tokens(self) -> int:
        """N = T'·H'·W'."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def predicted(self) -> Tensor:
        """(B, R) tokens whose predictions are computed: the loss rows if they are a slice, else all of `decode`."""
        return self.decode[:, self.n_overlap :] if self._loss_is_slice() else self.decode

    @property
    def loss_weight(self) -> Tensor | None:
        """(B, R) 1 for rows of the loss and 0 for overlap rows among `predicted`; None when all rows count.

        ValueError if no row is left, because the encoder sees every decoded token.
        """
        if self._loss_is_slice():
            return None
        if isinstance(self.n_overlap, int):
            raise ValueError(f"no row is left for the loss: the encoder sees all {self.n_overlap} decoded tokens")
        row = torch.arange(self.decode.shape[1], device=self.decode.device)
        return (row >= self.n_overlap[:, None]).float()

    def _loss_is_slice(self) -> bool:
        return isinstance(self.n_overlap, int) and self.n_overlap < self.decode.shape[1]

    def to(self, device: torch.device | str) -> "MaskPlan":
        """The same plan with its tensors on `device`."""
        n_overlap = self.n_overlap if isinstance(self.n_overlap, int) else self.n_overlap.to(device)
        return MaskPlan(self.grid, self.visible.to(device), self.decode.to(device), n_overlap)


def make_masks(
    sample: Tensor,  # (B,) int64 sample numbers; their device is the plan's
    grid: Sequence[int],  # (T', H', W')
    *,
    encoder: str = "tube",  # one of ENCODER_MASKS
    encoder_ratio: float = 0.9,  # of tokens hidden from the encoder; unused by "none"
    decoder: str = "running_cell",  # one of DECODER_MASKS; "none" decodes exactly what the encoder does not see
    decoder_ratio: float = 0.5,  # of tokens not decoded; unused by "none"
    seed: int = 0,
) -> MaskPlan:
    """The masks of the given samples: the same on every device and for any split of the samples over ranks."""
    if len(grid) != 3:
        raise ValueError(f"grid must be (T', H', W'), got {tuple(grid)}")
    t, h, w = grid
    num_tokens = t * h * w
    if encoder == "tube":
        visible = tube_mask_index(sample, grid, encoder_ratio, seed=seed)
    elif encoder == "random":
        visible = random_mask_index(sample, num_tokens, encoder_ratio, seed=seed)
    elif encoder == "none":
        visible = torch.arange(num_tokens, device=sample.device).repeat(sample.shape[0], 1)
    else:
        raise ValueError(f"encoder mask must be one of {ENCODER_MASKS}, got '{encoder}'")

    n_overlap: int | Tensor
    if decoder == "running_cell":
        phase = random_mask_index(sample, 4, 0.75, seed=seed, stream=_PHASE_STREAM)[:, 0]
        decode, n_overlap = running_cell_select(visible, phase, grid, decoder_ratio)
        if encoder == "tube" and t % 4 == 0:
            # A visible position is visible in every frame, and decoded in 4 − k of any 4 consecutive frames.
            n_overlap = visible.shape[1] // 4 * (4 - int(4 * decoder_ratio))
    elif decoder == "random":
        decode = random_mask_index(sample, num_tokens, decoder_ratio, seed=seed, stream=_DECODER_STREAM)
        decode, n_overlap = overlap_first(decode, visible, num_tokens)
    elif decoder == "none":
        if visible.shape[1] == num_tokens:
            raise ValueError("decoder mask 'none' predicts what the encoder does not see, but it sees every token")
        hidden = torch.ones(visible.shape[0], num_tokens, dtype=torch.bool, device=visible.device)
        hidden.scatter_(1, visible, False)
        decode, n_overlap = mask_to_index(hidden, num_tokens - visible.shape[1]), 0
    else:
        raise ValueError(f"decoder mask must be one of {DECODER_MASKS}, got '{decoder}'")
    if encoder == "none":
        n_overlap = decode.shape[1]  # the encoder sees all of them: good for predictions, not for a loss
    return MaskPlan((t, h, w), visible, decode, n_overlap)


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
    decode, n_overlap = overlap_first(mask_to_index(~not_decoded, num_decoded), visible, t * h * w)
    return MaskPlan((t, h, w), visible, decode, n_overlap)


def overlap_first(decode: Tensor, visible: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Ascending `decode` (B, M) with the tokens also in `visible` (B, V) moved to the front, and their number (B,)."""
    seen = torch.zeros(visible.shape[0], num_tokens, dtype=torch.bool, device=visible.device)
    seen = seen.scatter_(1, visible.long(), True).gather(1, decode.long())
    order = seen.logical_not().to(torch.int8).argsort(dim=1, stable=True)
    return decode.gather(1, order), seen.sum(1)
