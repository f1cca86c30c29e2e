"""Simulates CUDA memory use on a machine without a GPU.

`fake_cuda()` is a FakeTensorMode whose device "cpu" stands for the GPU. It imitates where CUDA differs from a CPU:
* `F.scaled_dot_product_attention` runs the flash operation (bf16, fp16) or the memory-efficient one (fp32, or a mask);
* autocast runs in float32 what CUDA's autocast runs in float32, such as layer norms and softmax;
* boolean masks index although their contents are unknown: `known_true` declares how many elements are True;
* device "meta" stands for host memory; `to_host` moves tensors there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
DEVICE = torch.device("cpu")  # stands for the GPU

# CUDA's autocast runs these in float32, the CPU's autocast does not (aten/src/ATen/autocast_mode.h: policies fp32 and
# fp32_set_opt_dtype). An operation that the installed PyTorch lists otherwise is left alone.
FLOAT32_INPUTS = (
    *("acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log1p", "log2", "reciprocal", "rsqrt"),
    *("sinh", "tan", "pow.Scalar", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "softplus", "logsumexp"),
    *("layer_norm", "native_layer_norm", "group_norm", "rms_norm"),
    *("dist", "pdist", "renorm", "cosine_similarity", "frobenius_norm.dim", "nuclear_norm", "nuclear_norm.dim"),
)
FLOAT32_RESULT = (
    *("softmax.int", "log_softmax.int", "sum", "sum.dim_IntList", "cumsum", "cumprod"),
    *("linalg_vector_norm", "linalg_matrix_norm", "linalg_matrix_norm.str_ord"),
)


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Fake tensors with CUDA's memory use. Real tensors may not be used within the block.

    Yields:
        The FakeTensorMode that is active in the block.
    """
    with torch.library._scoped_library("aten", "IMPL") as library:
        for names, make_kernel in ((FLOAT32_INPUTS, _float32_inputs), (FLOAT32_RESULT, _float32_result)):
            for name in filter(_differs_under_autocast, names):
                packet, _, overload = name.partition(".")
                library.impl(name, make_kernel(getattr(getattr(aten, packet), overload or "default")), "AutocastCPU")
        library.impl("scaled_dot_product_attention", _fused_attention, "AutogradCPU")  # instead of its decomposition
        with FakeTensorMode() as fake, _BooleanIndexing():
            yield fake


def known_true(mask: Tensor, count: int) -> Tensor:
    """Declare how many elements of a boolean mask are True, so that it can index among fake tensors.

    Args:
        mask: any bool tensor.
        count: number of its True elements. `~mask` is then declared too.

    Returns:
        `mask` itself.

    Raises:
        ValueError: `mask` is not bool, or cannot have `count` True elements.
    """
    if mask.dtype != torch.bool or not 0 <= count <= mask.numel():
        raise ValueError(f"count must be the number of True elements of a bool mask, got {count} for {mask}")
    mask._num_true = count  # type: ignore[attr-defined]
    return mask


def to_host(tensor: Tensor) -> Tensor:
    """Replace a tensor by a stand-in in host memory.

    Args:
        tensor: any tensor.

    Returns:
        A tensor of the same shape and dtype on device "meta", which stands for the host.
    """
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _differs_under_autocast(name: str) -> bool:
    registered = torch._C._dispatch_has_kernel_for_dispatch_key
    return registered(f"aten::{name}", "AutocastCUDA") and not registered(f"aten::{name}", "AutocastCPU")


def _without_autocast() -> Any:
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU))


def _is_cast(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float64


def _float32_inputs(op: Callable[..., Any]) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _without_autocast():
            args, kwargs = tree_map_only(Tensor, lambda t: t.float() if _is_cast(t) else t, (args, kwargs))
            return op(*args, **kwargs)

    return kernel


def _float32_result(op: Callable[..., Any]) -> Callable[..., Any]:
    def kernel(x: Tensor, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
        with _without_autocast():
            return op(x, *args, dtype=dtype or (torch.float32 if _is_cast(x) else None), **kwargs)

    return kernel


class ZeroValues(TorchDispatchMode):
    """Python code that reads a value from a tensor gets 0, for initialisers that draw until values are good."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return 0 if func is aten._local_scalar_dense.default else func(*args, **(kwargs or {}))


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        raise NotImplementedError("attention with enable_gqa cannot be predicted")
    if attn_mask is None and query.dtype in (torch.float16, torch.bfloat16):
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    keep = query.requires_grad or key.requires_grad or value.requires_grad
    bias = None if attn_mask is None else _attention_bias(attn_mask, query, key)
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, keep, dropout_p, is_causal, scale=scale
    )[0]


def _attention_bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """What CUDA makes of a mask before the operation: a boolean one becomes floating, and lines of another length than
    a multiple of 8 are padded (aten/src/ATen/native/transformers/attention.cpp)."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
    if beyond := -mask.shape[-1] % 8:
        mask = F.pad(mask, (0, beyond))[..., : mask.shape[-1]]
    return mask.expand(*query.shape[:3], key.shape[2])


class _BooleanIndexing(TorchDispatchMode):
    """Indexing by a boolean mask as PyTorch does it: by the int64 positions of its True elements."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # asked by autograd, more often than there are operations
            return args[0].device
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            args = args[0], self._positions(args[1]), *args[2:]
        out = func(*args, **(kwargs or {}))
        if func is aten.bitwise_not.default and hasattr(args[0], "_num_true"):
            known_true(out, out.numel() - args[0]._num_true)
        return out

    @staticmethod
    def _positions(indices: list[Tensor | None]) -> list[Tensor | None]:
        positions: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype != torch.bool:
                positions.append(index)
            elif hasattr(index, "_num_true"):
                nonzero = torch.empty(index._num_true, index.ndim, dtype=torch.int64, device=index.device)
                positions += nonzero.unbind(1)
            else:
                raise ValueError(
                    f"a bool mask {tuple(index.shape)} indexes, but how many of its elements are True is unknown: "
                    "declare the mask with known_true(mask, count)"
                )
        return positions
