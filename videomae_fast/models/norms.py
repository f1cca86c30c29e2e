"""Norms by name, LayerNorm by implementation, and the residual addition before a norm."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videomae_kernels import add_layer_norm, layer_norm

from .linear import Source


def _apex_function() -> Any:
    """The function of NVIDIA's Apex. PyPI's `apex` is another package, and Apex can be built without its kernels."""
    try:
        importlib.import_module("fused_layer_norm_cuda")
        return importlib.import_module("apex.normalization.fused_layer_norm").FusedLayerNormAffineMixedDtypesFunction
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise ImportError(
            f"layer_norm='apex' needs NVIDIA's Apex with its CUDA extensions ({error}). "
            "Build it from https://github.com/NVIDIA/apex; the package 'apex' on PyPI is another one"
        ) from error


def _triton(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return layer_norm(x, weight, bias, eps, dtype)


def _torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    wide = torch.promote_types(x.dtype, weight.dtype)  # what autocast computes in
    return F.layer_norm(x.to(wide), weight.shape, weight.to(wide), bias.to(wide), eps).to(dtype)


def _apex(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return _apex_function().apply(x, weight, bias, weight.shape, eps).to(dtype)


# Each computes LayerNorm of x (…, D) and returns (…, D) of `dtype`.
IMPLEMENTATIONS: dict[str, Callable[[Tensor, Tensor, Tensor, float, torch.dtype], Tensor]] = {
    "triton": _triton,
    "torch": _torch,
    "apex": _apex,
}
