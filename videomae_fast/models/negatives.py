"""Hard negatives of video-text matching: captions that are near a video, and not of it."""

import torch
from torch import Tensor

from videomae_kernels import weighted_mask_index

from .values import can_be_read

TEXT_STREAM, VIDEO_STREAM = 8, 9  # Philox streams of negative captions and negative videos; words use 5 to 7
SOUND_STREAMS = 10, 11  # of both, where videos are compared with their sound


def hard_negatives(
    similarity: Tensor, own: Tensor, others: Tensor, sample: Tensor, *, seed: int, stream: int
) -> Tensor:
    """For each row draw one column that is no positive of it, the nearer the likelier.

        p(j | i) ∝ exp(similarity[i, j])  where  own[i] ≠ others[j],  else 0

    This is the published law, softmax over all columns with positives then set to 0; here they are left out before it,
    so that rows whose positive takes all of float32's softmax keep their law. A pure function of (seed, stream, sample
    number, row). No host sync, no gradient.

    Args:
        similarity: (b, n) floating, already multiplied by the learned scale.
        own: (b,) int64 id of each row.
        others: (n,) int64 id of each column; equal ids are positives of each other.
        sample: (b,) int64 sample numbers.
        seed: of the run, in [0, 2⁶³).
        stream: TEXT_STREAM or VIDEO_STREAM, or one of SOUND_STREAMS.

    Returns:
        (b,) int64 column numbers.

    Raises:
        ValueError: a shape is wrong; or, on a CPU, a row has no negative, because all ids agree with its own or there
            is one pair only. On a GPU, where that would be a host sync, such a row gets column 0.
        TypeError: `sample` is no int64 tensor.

    References:
        `vtm_loss`, multi_modality/models/criterions.py of OpenGVLab/InternVideo, which adds 1e-4 inside of the softmax,
        where it changes nothing.
    """
    if similarity.ndim != 2 or tuple(own.shape) != similarity.shape[:1] or tuple(others.shape) != similarity.shape[1:]:
        raise ValueError(
            f"similarity, own and others must be (b, n), (b,) and (n,), got {tuple(similarity.shape)}, "
            f"{tuple(own.shape)} and {tuple(others.shape)}"
        )
    positive = own[:, None] == others
    if can_be_read(positive) and bool(positive.all(1).any()):
        raise ValueError(
            f"pair {int(positive.all(1).nonzero()[0, 0])} has no negative among {similarity.shape[1]}: matching needs "
            "pairs of at least two ids in a batch"
        )
    logits = similarity.detach().to(torch.promote_types(similarity.dtype, torch.float32))
    weights = logits.masked_fill(positive, -torch.inf).softmax(1)
    return weighted_mask_index(weights[:, None], 1, sample, seed=seed, stream=stream)[:, 0]
