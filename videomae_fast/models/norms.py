"""Norms by name, LayerNorm by implementation, and the residual addition before a norm."""

import importlib
from collections.abc import Callable
from functools import partial
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
            f"elementwise='apex' needs NVIDIA's Apex with its CUDA extensions ({error}). "
            "Build it from https://github.com/NVIDIA/apex; the package 'apex' on PyPI is another one"
        ) from error


def _torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    wide = torch.promote_types(x.dtype, weight.dtype)  # what autocast computes in
    return F.layer_norm(x.to(wide), weight.shape, weight.to(wide), bias.to(wide), eps).to(dtype)


def _apex(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return _apex_function().apply(x, weight, bias, weight.shape, eps).to(dtype)


# Each computes LayerNorm of x (…, D) and returns (…, D) of `dtype`.
IMPLEMENTATIONS: dict[str, Callable[[Tensor, Tensor, Tensor, float, torch.dtype], Tensor]] = {
    "triton": layer_norm,
    "torch": _torch,
    "apex": _apex,
}


def check_elementwise(name: str) -> str:
    """Make sure that an implementation of LayerNorm exists and is installed.

    Args:
        name: a key of IMPLEMENTATIONS.

    Returns:
        `name`.

    Raises:
        ValueError: no implementation has this name.
        ImportError: NVIDIA's Apex is missing.
    """
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"elementwise must be one of {tuple(IMPLEMENTATIONS)}, got '{name}'")
    if name == "apex":
        _apex_function()
    return name


def add_branch(x: Tensor, branch: Tensor | None) -> Tensor:
    """x + branch, where None is 0."""
    return x if branch is None else x + branch


def _again(function: Callable[..., Tensor], eps: float, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
    return function(*tensors, eps, dtype)


class LayerNorm(nn.LayerNorm):
    """An nn.LayerNorm, with its parameters and names, that `add_norm` can compute together with an addition.

    Args:
        dim: size of the last dimension.
        eps: number added to the (biased) variance.
        implementation: a key of IMPLEMENTATIONS. "triton" is `videomae_kernels.add_layer_norm`, whose reference in
            plain PyTorch runs on a CPU. Compiled code always takes "torch", which the compiler fuses.
    """

    def __init__(self, dim: int, eps: float, implementation: str = "triton") -> None:
        super().__init__(dim, eps=eps)
        self.implementation = check_elementwise(implementation)

    def forward(self, x: Tensor, branch: Tensor | None = None, dtype: torch.dtype | None = None) -> Any:
        """The norm of x, as an nn.LayerNorm; with `dtype`, the results of `add_norm`."""
        if dtype is None:
            return super().forward(x)
        name = "torch" if torch.compiler.is_compiling() else self.implementation
        function, parameters = IMPLEMENTATIONS[name], (self.weight, self.bias)
        if branch is not None and name == "triton":
            total, y = add_layer_norm(x, branch, *parameters, self.eps, dtype)
        else:
            total = add_branch(x, branch)
            y = function(total, *parameters, self.eps, dtype)
        return total, y, Source(partial(_again, function, self.eps, dtype), (total, *parameters))


def add_norm(x: Tensor, branch: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor, Source | None]:
    """Add a residual branch and compute the norm that follows, by calling the module of the norm.

        sum = x + branch        y = norm(sum)

    Args:
        x: (…, D) floating, the residual stream.
        branch: (…, D) floating, or None for 0.
        norm: a norm over D. One of another class than `LayerNorm` is called with the sum alone.

    Returns:
        sum (…, D); y (…, D), in the dtype that the next matrix product reads if the norm is a `LayerNorm`; and the
        source of y for `linear`, or None.
    """
    if isinstance(norm, LayerNorm):
        autocast = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
        return norm(x, branch, torch.get_autocast_dtype(x.device.type) if autocast else x.dtype)
    total = add_branch(x, branch)
    return total, norm(total), None


NORMS: dict[str, Callable[..., nn.Module]] = {"layernorm": LayerNorm, "rmsnorm": nn.RMSNorm}


def make_norm(name: str, dim: int, eps: float, **options: Any) -> nn.Module:
    """Make a norm over the last dimension, by name.

        layernorm: (x − mean) / sqrt(var + eps) · weight + bias        rmsnorm: x / sqrt(mean(x²) + eps) · weight

    Args:
        name: a key of NORMS.
        dim: size of the last dimension.
        eps: number added to the (biased) variance or to the mean square.
        **options: of the class.

    Returns:
        A module with the parameter `weight` (dim,), and `bias` (dim,) for a LayerNorm.

    Raises:
        ValueError: NORMS has no such name.
    """
    if name not in NORMS:
        raise ValueError(f"norm must be one of {tuple(NORMS)}, got '{name}'")
    return NORMS[name](dim, eps=eps, **options)
