"""A user's own checkout of the published code (github.com/OpenGVLab/VideoMAEv2) as one more implementation.

The checkout is no part of this repository. Its models are built by its own code, get our weights, and must agree with
the plain implementation, as every timed implementation must.
"""

import importlib
import importlib.util
import sys
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from benchmarks.baselines.published.release_classes import build_published
from benchmarks.model.steps import IMPLEMENTATIONS, published_implementation

NAME = "published, your checkout"
_PACKAGE = "published_videomae_models"  # its own name, "models", may be taken


def load_published_models(checkout: Path) -> ModuleType:
    """Import `models/modeling_pretrain.py` of a checkout.

    FileNotFoundError if `checkout` is not one. ImportError if a package that it imports is missing, such as timm.
    """
    file = checkout / "models" / "modeling_pretrain.py"
    if not file.is_file():
        raise FileNotFoundError(f"{checkout} is no checkout of OpenGVLab/VideoMAEv2: it has no models/{file.name}")
    package = importlib.util.module_from_spec(ModuleSpec(_PACKAGE, None, is_package=True))
    package.__path__ = [str(file.parent)]
    sys.modules[_PACKAGE] = package
    try:
        return importlib.import_module(f"{_PACKAGE}.modeling_pretrain")
    except ImportError as error:
        raise ImportError(f"{file} could not be imported ({error}); the published code needs timm==0.4.12") from error


def register_published_repo(checkout: Path) -> None:
    """Make NAME an implementation."""
    models = load_published_models(checkout)
    IMPLEMENTATIONS[NAME] = published_implementation(partial(build_published, models.PretrainVisionTransformer))
