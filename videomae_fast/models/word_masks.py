"""Masked words of captions: which are hidden, what stands in their place, and the loss of predicting them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from videomae_kernels import philox_keys

IGNORED = -100  # label of a token that is not predicted
_CHOICE_STREAM, _FATE_STREAM, _WORD_STREAM = 5, 6, 7  # Philox streams; masks, depth and dropped tokens use 0 to 4
_KEY_BITS = 31
_MASKED, _REPLACED = 0.8, 0.9  # below the first a chosen token becomes [MASK], below the second a random one


def mask_words(
    ids: Tensor,
    sample: Tensor,
    *,
    seed: int,
    vocab_size: int,
    mask_id: int,
    kept_ids: tuple[int, ...],
    ratio: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Hide words as BERT does: of the chosen ones 80 % become [MASK], 10 % a random token, 10 % stay.

        chosen[b, l] = U₀(b, l) < ratio  and  ids[b, l] is none of kept_ids
        out[b, l] = ids[b, l] unless chosen;  mask_id if U₁ < 0.8;  ⌊vocab_size·U₂⌋ if U₁ < 0.9;  else ids[b, l]

    U are Philox numbers: a pure function of (seed, sample number, position), the same on every device and for any split
    of a batch. No host sync.

    Args:
        ids: (B, L) int64 token numbers.
        sample: (B,) int64 sample numbers, on the device of `ids`.
        seed: of the run, in [0, 2⁶³).
        vocab_size: tokens to replace by.
        mask_id: the token [MASK].
        kept_ids: tokens that are never chosen. Published: [PAD] and [CLS]; [SEP] is chosen as a word is.
        ratio: probability that a token is chosen, in [0, 1]; 0.5 in InternVideo2's second stage.

    Returns:
        (out, labels): (B, L) int64 each; `labels` are the ids of chosen tokens, and IGNORED elsewhere.

    Raises:
        ValueError: `ratio` or `seed` is out of range, or a shape is wrong.
        TypeError: `sample` is no int64 tensor.

    References:
        BERT, arXiv 1810.04805, section 3.1; `mask` in multi_modality/models/utils.py of OpenGVLab/InternVideo.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be in [0, 1], got {ratio}")
    if ids.ndim != 2 or tuple(sample.shape) != tuple(ids.shape[:1]):
        raise ValueError(f"ids and sample must be (B, L) and (B,), got {tuple(ids.shape)} and {tuple(sample.shape)}")
    streams = _CHOICE_STREAM, _FATE_STREAM, _WORD_STREAM
    choice, fate, word = (philox_keys(sample, seed, stream, ids.shape[1]) for stream in streams)
    chosen = choice < _threshold(ratio)
    for kept in kept_ids:
        chosen &= ids != kept
    masked, replaced = chosen & (fate < _threshold(_MASKED)), chosen & (fate < _threshold(_REPLACED))
    out = torch.where(replaced, (word * vocab_size) >> _KEY_BITS, ids)
    out = torch.where(masked, mask_id, out)
    return out, torch.where(chosen, ids, IGNORED)


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the hidden words, in float32.

        loss = −Σ log softmax(logits[b, l])[labels[b, l]] / max(1, rows),   over the rows that have a label

    Args:
        logits: (B, L, V) floating.
        labels: (B, L) int64, IGNORED where no word is predicted.

    Returns:
        Scalar float32 (float64 of float64): 0 if no word was chosen, as a short batch can have it.

    Raises:
        ValueError: the shapes differ.
    """
    if logits.ndim != 3 or tuple(labels.shape) != tuple(logits.shape[:2]):
        raise ValueError(
            f"logits and labels must be (B, L, V) and (B, L), got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    total = F.cross_entropy(wide, labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def _threshold(share: float) -> int:
    """Keys below it are a share of all."""
    return round(share * (1 << _KEY_BITS))
