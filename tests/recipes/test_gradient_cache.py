"""Gradient caching: the loss and gradients of one large batch, part by part, in float64."""

import pytest
import torch
from torch import Tensor, nn

from videomae_fast.models.dual_encoder import PairFeatures
from videomae_fast.recipes.gradient_cache import part_gradients
from videomae_kernels import contrastive_loss


class Towers(nn.Module):
    """Two small towers that are no linear functions, a scale and, for SigLIP, a bias."""

    def __init__(self, biased: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.video, self.text = (nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 6)) for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor(1.5))
        self.bias = nn.Parameter(torch.tensor(-2.0)) if biased else None
        self.double()

    def forward(self, x: Tensor, y: Tensor) -> PairFeatures:
        video, text = (nn.functional.normalize(rows, dim=1) for rows in (self.video(x), self.text(y)))
        return PairFeatures(video, text, self.log_scale.exp(), self.bias)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("size", [12, 4, 5, 1])
def test_parts_have_the_gradient_of_the_batch(kind: str, size: int) -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(12, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    ids = torch.arange(12) // 3

    def loss(features: PairFeatures) -> Tensor:
        return contrastive_loss(*features, kind, y_ids=ids)

    whole, divided = Towers(kind == "siglip"), Towers(kind == "siglip")
    expected = loss(whole(x, y))
    expected.backward()
    pieces = list(zip(x.split(size), y.split(size), strict=True))
    with torch.no_grad():
        features = [divided(*piece) for piece in pieces]
    value, gradients = part_gradients(features, loss)
    total = torch.zeros((), dtype=torch.float64)
    for piece, gradient in zip(pieces, gradients, strict=True):
        share = gradient.apply(divided(*piece))
        total += share.detach()
        share.backward()
    assert not value.requires_grad
    torch.testing.assert_close(torch.stack([value, total]), expected.detach().expand(2), rtol=1e-12, atol=0)
    for (name, one), many in zip(whole.named_parameters(), divided.parameters(), strict=True):
        torch.testing.assert_close(many.grad, one.grad, rtol=1e-10, atol=1e-13, msg=lambda text, name=name: name + text)
