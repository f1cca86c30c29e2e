"""Masks, targets and losses of stage 1, as the published training loop makes them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import selection


def attention_mask(attention: Tensor, ratio: float, batch: int) -> Tensor:
    """The boolean mask (B, 1 + N), True = hidden, of weights (B·G, n): of each group n - int(n·ratio) tokens are kept.

    They are drawn without replacement, with chances that the weights give; the whole permutation is drawn. The mask is
    made on the host, so the host waits for it. The cls token is always kept.
    """
    groups, tokens = attention.shape
    order = torch.multinomial(attention, tokens)
    kept = order[:, : tokens - int(tokens * ratio)].cpu()
    hidden = torch.ones(groups, tokens)
    hidden[torch.arange(groups)[:, None].expand_as(kept), kept] = 0
    return torch.cat([torch.zeros(batch, 1), hidden.view(batch, -1)], dim=1).to(torch.bool).to(attention.device)


def kept_targets(features: Tensor, hidden: Tensor) -> Tensor:
    """The rows (K, B, V, D) of features (K, B, N, D) where a mask (B, N), repeated K times, is False."""
    return selection.kept_rows(features, hidden[None].repeat(len(features), 1, 1))


def alignment_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """(K,): the mean over clips and rows of 2 - 2·<output, target>, unit vectors (K, …, D), for each layer.

    The published loss of a part is the mean of the K values.
    """
    return (2 - 2 * (outputs * targets).sum(dim=-1)).flatten(1).mean(1)


def total_loss(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of the published losses of parts (K_i,), weighted."""
    return torch.stack([weight * part.mean() for part, weight in zip(parts, weights, strict=True)]).sum()
