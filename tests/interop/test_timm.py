"""timm's PatchDropout, fused, in a small ViT: the real layer where timm imports, else one of the same structure."""

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.interop.models import assert_close, gradients
from videomae_fast.interop import FusionError, fuse, unfuse

COMBINATIONS = [(0.75, 1, False), (0.5, 0, True), (0.9, 5, True), (0.0, 1, False), (0.99, 0, False)]


class PatchDropoutWithIndices(nn.Module):
    """The calls, attributes and random numbers of timm's; needs no torchvision."""

    def __init__(self, prob: float = 0.5, num_prefix_tokens: int = 1, ordered: bool = False) -> None:
        super().__init__()
        self.prob, self.num_prefix_tokens, self.ordered = prob, num_prefix_tokens, ordered

    def forward(self, x: Tensor) -> Any:
        if not self.training or self.prob == 0.0:
            return x, None
        prefix, patches = x.tensor_split([self.num_prefix_tokens], dim=1)
        noise = torch.randn(patches.shape[:2], device=x.device)
        kept = noise.argsort(-1)[:, : max(1, int(noise.shape[1] * (1.0 - self.prob)))]
        kept = kept.sort(-1).values if self.ordered else kept
        index = kept[..., None].expand(-1, -1, x.shape[2])
        return torch.cat([prefix, patches.gather(1, index)], dim=1), kept


class PatchDropout(PatchDropoutWithIndices):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


@pytest.fixture(scope="module")
def layers() -> ModuleType:
    """timm.layers, or the stand-ins, which pass for timm's by the name of their module."""
    try:
        return importlib.import_module("timm.layers")
    except ImportError:
        module = ModuleType("timm.layers")
        for cls in (PatchDropout, PatchDropoutWithIndices):
            setattr(module, cls.__name__, type(cls.__name__, (cls,), {"__module__": "timm.layers.patch_dropout"}))
        return module


class TinyViT(nn.Module):
    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 16, 4, stride=4)
        self.patch_drop = dropout
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_drop(self.patch_embed(images).flatten(2).mT)
        return self.block(x[0] if isinstance(x, tuple) else x).mean()


def run(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(3)
    loss = model(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double())
    loss.backward()
    return {"loss": loss.detach(), **gradients(model), "next": torch.rand(4)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", COMBINATIONS, ids=str)
@pytest.mark.parametrize("name", ["PatchDropout", "PatchDropoutWithIndices"])
def test_same_tokens_gradients_and_random_numbers(
    layers: ModuleType, name: str, options: tuple[float, int, bool], training: bool
) -> None:
    torch.manual_seed(0)
    model = TinyViT(getattr(layers, name)(*options)).double().train(training)
    expected = run(model)
    assert_close(run(fuse(model, verify=True)), expected, 1e-12)
    assert "forward" in model.patch_drop.__dict__
    assert_close(run(unfuse(model)), expected, 0)


def test_indices(layers: ModuleType) -> None:
    layer = layers.PatchDropoutWithIndices(0.75, num_prefix_tokens=2)
    x = torch.randn(3, 18, 8)
    torch.manual_seed(0)
    expected = layer(x)
    torch.manual_seed(0)
    assert_close(fuse(layer)(x), expected, 0)
    assert expected[1].shape == (3, 4)


def test_a_layer_that_drops_otherwise_is_found_out(layers: ModuleType) -> None:
    """`verify` notices what attributes do not show: here a layer that keeps one token more."""
    other = type("PatchDropout", (layers.PatchDropout,), {"forward": lambda self, x: x[:, :-1], "__module__": "timm.x"})
    layer = other()
    with pytest.raises(FusionError, match=r"PatchDropout .*output 0 is torch.float32 \(2, 9, 8\), the original's"):
        fuse(layer, verify=True)
    assert "forward" not in layer.__dict__


def test_same_name_in_another_package() -> None:
    with pytest.raises(TypeError, match=r"looked for .*PatchDropout \(timm 1.0.31\)"):
        fuse(PatchDropout())
