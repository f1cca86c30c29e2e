"""Small models of the published code; `--published-repo PATH` puts a real checkout in the stand-in's place."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks.baselines.published import PublishedVideoMAE, release_classes

TINY = dict(image_size=(16, 16), num_frames=4, patch_size=8, encoder_depth=2, encoder_heads=2, decoder_heads=2)
MODEL = dict(
    image_size=(32, 32),
    num_frames=4,
    patch_size=8,
    encoder_dim=24,
    encoder_depth=3,
    encoder_heads=3,
    decoder_dim=16,
    decoder_depth=2,
    decoder_heads=2,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--published-repo", type=Path, help="a checkout of OpenGVLab/VideoMAEv2 to test with")


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def published_class(pytestconfig: pytest.Config) -> Any:
    """PretrainVisionTransformer: the stand-in's, or that of the checkout given."""
    checkout = pytestconfig.getoption("--published-repo", default=None)
    if checkout is None:
        return release_classes.PretrainVisionTransformer
    from benchmarks.baselines.published.checkout import load_published_models

    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("timm") is None:
            for module in _timm_for_published_code():
                patch.setitem(sys.modules, module.__name__, module)
        return load_published_models(checkout).PretrainVisionTransformer


def _timm_for_published_code() -> list[ModuleType]:
    """The few names of timm that the published models import; timm itself needs torchvision."""
    names = ("timm", "timm.models", "timm.models.layers", "timm.models.registry")
    timm, models, layers, registry = modules = [ModuleType(name) for name in names]
    timm.__path__, models.__path__ = [], []
    layers.drop_path = lambda x, drop_prob, training: x  # every test's drop_prob is 0
    layers.to_2tuple = lambda x: (x, x)
    layers.trunc_normal_ = torch.nn.init.trunc_normal_
    registry.register_model = lambda function: function
    return modules


@pytest.fixture
def tiny() -> Callable[..., PublishedVideoMAE]:
    """tiny(dim=16, depth=1, seed=0): the published model at other widths and decoder depths."""

    def build(dim: int = 16, depth: int = 1, seed: int = 0) -> PublishedVideoMAE:
        torch.manual_seed(seed)
        return PublishedVideoMAE(**TINY, encoder_dim=dim, decoder_dim=dim // 2, decoder_depth=depth)

    return build


@pytest.fixture
def model() -> PublishedVideoMAE:
    torch.manual_seed(0)
    model = PublishedVideoMAE(**MODEL)
    with torch.no_grad():  # nothing may be zero or one, or a swap of two tensors would not show
        for parameter in model.parameters():
            if parameter.dim() != 2:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double()
