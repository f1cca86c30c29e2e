"""Norms by name and by implementation, and the addition of a residual branch, scaled, drawn or neither, before them."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videomae_kernels import add_drawn_norm, add_layer_norm, add_rms_norm, layer_norm, rms_norm

from .linear import Source
from .stochastic_depth import BranchDraw


class ScaledBranch(NamedTuple):
    """A residual branch that nobody has multiplied yet: factor · scale · value, for the samples that it ran on."""

    value: Tensor  # (B', n, D)
    scale: Tensor | None = None  # (D,), LayerScale's gamma; None is 1
    draw: BranchDraw | None = None  # of stochastic depth: the B' samples, and the factor; None is all, and 1

    def product(self) -> Tensor:
        """scale · value (B', n, D), in the wider dtype of both."""
        return self.value if self.scale is None else self.value * self.scale


Branch = Tensor | ScaledBranch  # what is added to the residual stream


def _apex_function(name: str = "FusedLayerNormAffineMixedDtypesFunction") -> Any:
    """A function of NVIDIA's Apex. PyPI's `apex` is another package, and Apex can be built without its kernels."""
    try:
        importlib.import_module("fused_layer_norm_cuda")
        return getattr(importlib.import_module("apex.normalization.fused_layer_norm"), name)
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


def _torch_rms(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    wide = torch.promote_types(x.dtype, weight.dtype)
    return F.rms_norm(x.to(wide), weight.shape, weight.to(wide), eps).to(dtype)


def _apex_rms(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return _apex_function("FusedRMSNormAffineMixedDtypesFunction").apply(x, weight, weight.shape, eps).to(dtype)


# Each computes LayerNorm of x (…, D) and returns (…, D) of `dtype`; the others RMSNorm.
IMPLEMENTATIONS: dict[str, Callable[[Tensor, Tensor, Tensor, float, torch.dtype], Tensor]] = {
    "triton": layer_norm,
    "torch": _torch,
    "apex": _apex,
}
RMS_IMPLEMENTATIONS: dict[str, Callable[[Tensor, Tensor, float, torch.dtype], Tensor]] = {
    "triton": rms_norm,
    "torch": _torch_rms,
    "apex": _apex_rms,
}


def check_elementwise(name: str) -> str:
    """Make sure that an implementation of the norms exists and is installed.

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


def add_branch(x: Tensor, branch: Branch | None) -> Tensor:
    """x + branch, where None is 0; a scaled one is rounded once, as the sum, to the dtype of x."""
    if isinstance(branch, ScaledBranch):
        product = branch.product()
        return (x + product).to(x.dtype) if branch.draw is None else branch.draw.add(x, product)
    return x if branch is None else x + branch


def drawn(branch: Branch, draw: BranchDraw | None) -> Branch:
    """A branch that ran on the samples of a draw. Where all samples ran, those dropped are zeroed at once."""
    if draw is None:
        return branch
    value, scale = branch[:2] if isinstance(branch, ScaledBranch) else (branch, None)
    if draw.keep is not None:
        return (ScaledBranch(value, scale).product() * draw.keep / draw.kept_share).to(value.dtype)
    return ScaledBranch(value, scale, draw)


def _again(function: Callable[..., Tensor], eps: float, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
    return function(*tensors, eps, dtype)


def _compiled_or(implementation: str) -> str:
    """Compiled code always takes "torch", which the compiler fuses."""
    return "torch" if torch.compiler.is_compiling() else implementation


class LayerNorm(nn.LayerNorm):
    """An nn.LayerNorm, with its parameters and names, that `add_norm` can compute together with an addition.

    Args:
        dim: size of the last dimension.
        eps: number added to the (biased) variance.
        implementation: a key of IMPLEMENTATIONS. "triton" is `videomae_kernels.add_layer_norm`, or `add_drawn_norm`
            within stochastic depth; their references in plain PyTorch run on a CPU. The former knows no LayerScale,
            which is then an operation of its own.
    """

    def __init__(self, dim: int, eps: float, implementation: str = "triton") -> None:
        super().__init__(dim, eps=eps)
        self.implementation = check_elementwise(implementation)

    def forward(
        self,
        x: Tensor,
        branch: Branch | None = None,
        dtype: torch.dtype | None = None,
        draw: BranchDraw | None = None,
    ) -> Any:
        """The norm of x, as an nn.LayerNorm; with `dtype`, the results of `add_norm`."""
        if dtype is None:
            return super().forward(x)
        name = _compiled_or(self.implementation)
        function, parameters = IMPLEMENTATIONS[name], (self.weight, self.bias)
        if branch is not None and name == "triton" and _some_samples(branch, draw):
            total, rows, y = _add_drawn_norm(x, branch, *parameters, self.eps, dtype, draw)
        elif isinstance(branch, Tensor) and name == "triton":
            total, y = add_layer_norm(x, branch, *parameters, self.eps, dtype)
            rows = total
        else:
            total, rows = _add_and_select(x, branch, draw)
            y = function(rows, *parameters, self.eps, dtype)
        return total, y, Source(partial(_again, function, self.eps, dtype), (rows, *parameters))


class RMSNorm(nn.RMSNorm):
    """An nn.RMSNorm, with its parameter and name, that `add_norm` can compute together with an addition.

    Args:
        dim: size of the last dimension.
        eps: number added to the mean square.
        implementation: a key of RMS_IMPLEMENTATIONS. "triton" is `videomae_kernels.add_rms_norm`, or `add_drawn_norm`
            within stochastic depth, which multiply a branch by its LayerScale, too; their references in plain PyTorch
            run on a CPU.
    """

    eps: float

    def __init__(self, dim: int, eps: float, implementation: str = "triton") -> None:
        super().__init__(dim, eps=eps)
        self.implementation = check_elementwise(implementation)

    def forward(
        self,
        x: Tensor,
        branch: Branch | None = None,
        dtype: torch.dtype | None = None,
        draw: BranchDraw | None = None,
    ) -> Any:
        """The norm of x, as an nn.RMSNorm; with `dtype`, the results of `add_norm`."""
        if dtype is None:
            return super().forward(x)
        name = _compiled_or(self.implementation)
        function = RMS_IMPLEMENTATIONS[name]
        if branch is not None and name == "triton" and _some_samples(branch, draw):
            total, rows, y = _add_drawn_norm(x, branch, self.weight, None, self.eps, dtype, draw)
        elif branch is not None and name == "triton":
            value, scale = branch[:2] if isinstance(branch, ScaledBranch) else (branch, None)
            total, y = add_rms_norm(x, value, self.weight, self.eps, dtype, scale)
            rows = total
        else:
            total, rows = _add_and_select(x, branch, draw)
            y = function(rows, self.weight, self.eps, dtype)
        return total, y, Source(partial(_again, function, self.eps, dtype), (rows, self.weight))


def _some_samples(branch: Branch, draw: BranchDraw | None) -> bool:
    """Whether stochastic depth scales the branch, or leaves out samples of the next one."""
    scales = isinstance(branch, ScaledBranch) and branch.draw is not None
    return scales or (draw is not None and draw.index is not None)


def _add_drawn_norm(
    x: Tensor,
    branch: Branch,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    draw: BranchDraw | None,
) -> tuple[Tensor, Tensor, Tensor]:
    value, scale, ran = branch if isinstance(branch, ScaledBranch) else ScaledBranch(branch)
    options: dict[str, Any] = dict(factor=ran.factor, ran=ran.place) if ran is not None else {}
    if draw is not None and draw.index is not None:
        options |= dict(runs=draw.place, count=len(draw.index))
    return add_drawn_norm(x, value, weight, bias, eps, dtype, scale=scale, **options)


def _add_and_select(x: Tensor, branch: Branch | None, draw: BranchDraw | None) -> tuple[Tensor, Tensor]:
    total = add_branch(x, branch)
    return total, total if draw is None else draw.select(total)


def add_norm(
    x: Tensor, branch: Branch | None, norm: nn.Module, draw: BranchDraw | None = None
) -> tuple[Tensor, Tensor, Source | None]:
    """Add a residual branch and compute the norm that follows, by calling the module of the norm.

        sum = x + branch        y = norm(sum[drawn samples])

    Args:
        x: (…, D) floating, the residual stream.
        branch: (…, D) floating; the factors of one, with the draw of the samples that it ran on; or None for 0.
        norm: a norm over D. One of another class than `LayerNorm` and `RMSNorm` is called with rows of the sum alone.
        draw: of the branch that reads y; None draws all samples.

    Returns:
        sum (…, D); y (…, D) of the drawn samples, in the dtype that the next matrix product reads if the norm is one
        of ours; and the source of y for `linear`, or None.
    """
    if isinstance(norm, (LayerNorm, RMSNorm)):
        autocast = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
        return norm(x, branch, torch.get_autocast_dtype(x.device.type) if autocast else x.dtype, draw)
    total, rows = _add_and_select(x, branch, draw)
    return total, norm(rows), None


NORMS: dict[str, Callable[..., nn.Module]] = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}


def make_norm(name: str, dim: int, eps: float, implementation: str = "triton") -> nn.Module:
    """Make a norm over the last dimension, by name.

        layernorm: (x − mean) / sqrt(var + eps) · weight + bias        rmsnorm: x / sqrt(mean(x²) + eps) · weight

    Args:
        name: a key of NORMS.
        dim: size of the last dimension.
        eps: number added to the (biased) variance or to the mean square.
        implementation: a key of IMPLEMENTATIONS.

    Returns:
        A module with the parameter `weight` (dim,), and `bias` (dim,) for a LayerNorm.

    Raises:
        ValueError: NORMS has no such name, or IMPLEMENTATIONS no such implementation.
        ImportError: NVIDIA's Apex is missing.
    """
    if name not in NORMS:
        raise ValueError(f"norm must be one of {tuple(NORMS)}, got '{name}'")
    return NORMS[name](dim, eps, implementation)
