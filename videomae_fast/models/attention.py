"""Scaled dot-product attention by backend name. A backend that cannot run is an error, never another backend."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .._optional import require

# Every backend takes q (B, n_q, h, d) and k, v (B, n_k, h, d) and returns (B, n_q, h, d); scale d^-1/2, no mask.


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _flash_attn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return require("flash_attn").flash_attn_func(q, k, v)


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return require("xformers.ops").memory_efficient_attention(q, k, v)


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sdpa": _sdpa,
    "flash-attn": _flash_attn,
    "xformers": _xformers,
}
_MODULES = {"flash-attn": "flash_attn", "xformers": "xformers.ops"}


def check_backend(name: str) -> str:
    """`name` if it is a backend; ValueError otherwise, ImportError if its package is missing."""
    if name not in BACKENDS:
        raise ValueError(f"attention must be one of {tuple(BACKENDS)}, got '{name}'")
    if name in _MODULES:
        require(_MODULES[name])
    return name


def unavailable_reason(name: str, device: torch.device | str) -> str | None:
    """Why a backend cannot run on a device, or None if it can."""
    try:
        check_backend(name)
    except ImportError as error:
        return str(error)
    if name in _MODULES and torch.device(device).type != "cuda":
        return f"{name} runs on CUDA devices only"
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    """Attention of q (B, n_q, h, d) over k, v (B, n_k, h, d) by the named backend: (B, n_q, h, d)."""
    if backend in _MODULES:
        if q.device.type != "cuda":
            raise ValueError(f"attention='{backend}' runs on CUDA devices only, got tensors on {q.device}")
        if backend == "flash-attn" and q.dtype not in (torch.float16, torch.bfloat16):
            raise TypeError(f"attention='flash-attn' needs float16 or bfloat16, got {q.dtype}: use autocast")
    return BACKENDS[backend](q, k, v)
