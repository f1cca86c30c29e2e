"""The loss of next tokens with the logits of all tokens, as causal language models of Hugging Face compute it."""

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


def full_logits_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, adapter: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The mean cross-entropy of all tokens with a label, each predicted by the row before it.

        logits = hidden · Wᵀ (+ adapter[0] · adapter[1]ᵀ), all of them, in the dtype of hidden and W, then in float32

    Args:
        hidden: (B, L, D) of the last layer.
        weight: W (V, D) of the head.
        labels: (B, L) int64 tokens, IGNORED where nothing is to be predicted.
        adapter: (B, L, R) and (V, R), what LoRA adds to the head; None: nothing.

    Returns:
        Scalar float32.

    References:
        `ForCausalLMLoss` of transformers: logits.float(), shifted labels, cross_entropy with ignore_index.
    """
    logits = F.linear(hidden, weight)
    if adapter is not None:
        logits = logits + F.linear(*adapter)
    shifted = F.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    return F.cross_entropy(logits.float().flatten(0, 1), shifted.flatten(), ignore_index=IGNORED)
