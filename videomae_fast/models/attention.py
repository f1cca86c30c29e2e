"""Scaled dot-product attention by backend name. A backend that cannot run is an error, never another backend.

"sdpa" is PyTorch's own attention. `activate_flash_attention` lets "sdpa" run an installed FlashAttention 3 or 4;
autograd and torch.compile work as before.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.attention
import torch.nn.functional as F
from torch import Tensor

from .._optional import EXTRAS, require

# Every backend takes q (B, n_q, h, d) and k, v (B, n_k, h, d) and returns (B, n_q, h, d); scale d^-1/2, no mask.


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _flash_attn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _function("flash-attn")(q, k, v)


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _function("xformers")(q, k, v)


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sdpa": _sdpa,
    "flash-attn": _flash_attn,
    "xformers": _xformers,
}
_FUNCTIONS = {
    "flash-attn": ("flash_attn", "flash_attn_func"),
    "xformers": ("xformers.ops", "memory_efficient_attention"),
}
# The implementations that PyTorch can activate, with the major compute capabilities that run them
# (torch/nn/attention/_fa3.py and _fa4.py). The first one that can run is activated.
_FLASH_IMPLEMENTATIONS = {"FA3": (9,), "FA4": (9, 10)}


def _function(backend: str) -> Callable[..., Any]:
    """The function that a backend calls. Another or a broken installation may have the package without the function."""
    module, name = _FUNCTIONS[backend]
    function = getattr(require(module), name, None)
    if not callable(function):
        raise ImportError(
            f"attention='{backend}' calls {module}.{name}, which the installed '{module}' does not have (another "
            "package, such as flash-attn-4, or a broken one, may own the name). "
            f"Install it with: pip install 'videomae-fast[{EXTRAS[module.partition('.')[0]]}]'"
        )
    return function


def check_backend(name: str) -> str:
    """Make sure that a backend exists and that its package has the function it calls.

    Args:
        name: a key of BACKENDS.

    Returns:
        `name`.

    Raises:
        ValueError: no backend has this name.
        ImportError: the package is missing, cannot be imported, or lacks the function; the message names the extra.
    """
    if name not in BACKENDS:
        raise ValueError(f"attention must be one of {tuple(BACKENDS)}, got '{name}'")
    if name in _FUNCTIONS:
        _function(name)
    return name


def unavailable_reason(name: str, device: torch.device | str) -> str | None:
    """Why a backend cannot run on a device, or None if it can.

    Args:
        name: a key of BACKENDS.
        device: the device of the tensors.

    Returns:
        The reason in words, or None.

    Raises:
        ValueError: no backend has this name.
    """
    try:
        check_backend(name)
    except ImportError as error:
        return str(error)
    if name in _FUNCTIONS and torch.device(device).type != "cuda":
        return f"{name} runs on CUDA devices only"
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    """Scaled dot-product attention by the named backend.

        out[b, i, h] = Σ_j softmax_j(q[b, i, h] · k[b, j, h] / √d) v[b, j, h]

    Args:
        q: (B, n_q, h, d) floating.
        k: (B, n_k, h, d), dtype and device of q.
        v: (B, n_k, h, d), dtype and device of q.
        backend: a key of BACKENDS.

    Returns:
        (B, n_q, h, d), in the dtype of q.

    Raises:
        ValueError: no backend has this name, or the backend needs a GPU and the tensors are elsewhere.
        TypeError: "flash-attn" got another dtype than float16 or bfloat16.
        ImportError: the package of the backend is missing or broken; see `check_backend`.
    """
    if backend not in BACKENDS:
        check_backend(backend)
    if backend in _FUNCTIONS:
        if q.device.type != "cuda":
            raise ValueError(f"attention='{backend}' runs on CUDA devices only, got tensors on {q.device}")
        if backend == "flash-attn" and q.dtype not in (torch.float16, torch.bfloat16):
            raise TypeError(f"attention='flash-attn' needs float16 or bfloat16, got {q.dtype}: use autocast")
    return BACKENDS[backend](q, k, v)


def active_flash_attention() -> str | None:
    """The FlashAttention that "sdpa" runs in place of PyTorch's own: "FA3", "FA4", or None."""
    current = getattr(torch.nn.attention, "current_flash_attention_impl", None)
    return None if current is None else current()


def activate_flash_attention(device: torch.device | str) -> str | None:
    """Let "sdpa" run FlashAttention 3 or 4 where PyTorch can activate it.

    This changes `F.scaled_dot_product_attention` in the whole process, so no model calls it: a program calls it once,
    before its first step. An implementation that is already active stays active. A package that is installed but
    cannot be activated gives a warning.

    Args:
        device: the device that the model runs on.

    Returns:
        The active implementation, "FA3" or "FA4". None if PyTorch's own flash attention stays: this version of PyTorch
        offers no activation, no package is installed, or no installed package runs on this device.

    References:
        `torch.nn.attention.activate_flash_attention_impl`.
    """
    activate = getattr(torch.nn.attention, "activate_flash_attention_impl", None)
    device = torch.device(device)
    if activate is None or device.type != "cuda" or active_flash_attention() is not None:
        return active_flash_attention()
    offered = torch.nn.attention.list_flash_attention_impls()
    major, _ = torch.cuda.get_device_capability(device)
    for name, majors in _FLASH_IMPLEMENTATIONS.items():
        if name not in offered or major not in majors:
            continue
        try:
            activate(name)
        except ModuleNotFoundError:
            continue  # not installed
        except (ImportError, OSError, RuntimeError) as error:
            warnings.warn(f"{name} is installed, but PyTorch cannot activate it: {error}", stacklevel=2)
            continue
        break
    return active_flash_attention()
