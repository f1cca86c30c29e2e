"""The gradient of a loss over all pairs of a batch, with the towers' activations of one part of it at a time.

A contrastive loss compares every row of a batch with every other, so it is no sum over parts. But it is a function of
few numbers, the features X = towers(batch):

    dloss/dweights = Σ over parts p of (dloss/dX)[p] · dX[p]/dweights

The towers run twice: without a graph, to know dloss/dX, and part by part, each with its rows of dloss/dX. Activations
are those of a part. Gradients are those of the whole batch, not an approximation.

References:
    Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv 2101.06983.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.dual_encoder import PairFeatures


@dataclass(frozen=True)
class PartGradient:
    """What a part contributes to the loss of its batch.

    Attributes:
        loss: (), its share of the loss.
        slopes: dloss/dfeatures at the part's rows; of scale and bias, its share.
    """

    loss: Tensor
    slopes: PairFeatures

    def apply(self, features: PairFeatures) -> Tensor:
        """A scalar with the value of the loss's share, whose gradient is that of the part.

        Args:
            features: of the part, with a graph.

        Returns:
            loss + Σ slope · (feature − value of the feature).
        """
        pairs = [(x, slope) for x, slope in zip(features, self.slopes, strict=True) if x is not None]
        linear = torch.stack([(x * slope.to(x.dtype)).sum() for x, slope in pairs if slope is not None]).sum()
        return linear - linear.detach() + self.loss.to(linear.dtype)


def part_gradients(
    parts: Sequence[PairFeatures], loss: Callable[[PairFeatures], Tensor]
) -> tuple[Tensor, list[PartGradient]]:
    """The loss of a batch, and what each of its parts contributes.

    Args:
        parts: features of the parts, without a graph; their scale and bias are the same.
        loss: the loss of the features of a batch, a scalar.

    Returns:
        The loss, and a contribution for each part. Losses and gradients of the parts add up
        to those of the batch.
    """
    first = parts[0]
    batch = PairFeatures(
        torch.cat([part.video for part in parts]).detach().requires_grad_(),
        torch.cat([part.text for part in parts]).detach().requires_grad_(),
        first.scale.detach().clone().requires_grad_(),
        None if first.bias is None else first.bias.detach().clone().requires_grad_(),
    )
    inputs = [x for x in batch if x is not None]
    with torch.enable_grad():
        value = loss(batch)
        video, text, *others = torch.autograd.grad(value, inputs)
    shares = [x / len(parts) for x in (value.detach(), *others)]
    sizes = [len(part.video) for part in parts]
    bias = shares[2] if batch.bias is not None else None
    gradients = [
        PartGradient(shares[0], PairFeatures(of_video, of_text, shares[1], bias))
        for of_video, of_text in zip(video.split(sizes), text.split(sizes), strict=True)
    ]
    return value.detach(), gradients
