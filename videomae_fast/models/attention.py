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

# Every backend takes packed q, k, v as `attention` does and returns (B, n_q, h, d); scale d^-1/2, no mask.


def _sdpa(*qkv: Tensor) -> Tensor:
    # Flash attention's backward makes three gradients, whatever it was given: the packed gradient is a copy of them.
    q, k, v = (t.transpose(1, 2) for t in _unpack(qkv))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _flash_attn(*qkv: Tensor) -> Tensor:
    # By how many tensors came; those for packed tensors write packed gradients, which saves a copy.
    names = None, "flash_attn_qkvpacked_func", "flash_attn_kvpacked_func", "flash_attn_func"
    return _function("flash-attn", names[len(qkv)])(*qkv)


def _xformers(*qkv: Tensor) -> Tensor:
    return _function("xformers")(*_unpack(qkv))


def _unpack(qkv: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    *first, last = qkv
    return (*first, *last.unbind(2)) if last.ndim == 5 else qkv


BACKENDS: dict[str, Callable[..., Tensor]] = {
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


def _function(backend: str, name: str | None = None) -> Callable[..., Any]:
    """The function that a backend calls. Another or a broken installation may have the package without the function."""
    module, default = _FUNCTIONS[backend]
    name = name or default
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


def attention(*qkv: Tensor, backend: str) -> Tensor:
    """Scaled dot-product attention by the named backend.

        out[b, i, h] = Σ_j softmax_j(q[b, i, h] · k[b, j, h] / √d) v[b, j, h]

    Args:
        *qkv: queries (B, n_q, h, d), keys and values (B, n_k, h, d), floating, of one dtype and device; or queries and
            packed keys and values (B, n_k, 2, h, d); or all packed (B, n, 3, h, d).
        backend: a key of BACKENDS.

    Returns:
        (B, n_q, h, d), in the dtype of the queries.

    Raises:
        ValueError: no backend has this name, or the backend needs a GPU and the tensors are elsewhere.
        TypeError: "flash-attn" got another dtype than float16 or bfloat16.
        ImportError: the package of the backend is missing or broken; see `check_backend`.
    """
    if backend not in BACKENDS:
        check_backend(backend)
    if backend in _FUNCTIONS:
        device, dtype = qkv[0].device, qkv[0].dtype
        if device.type != "cuda":
            raise ValueError(f"attention='{backend}' runs on CUDA devices only, got tensors on {device}")
        if backend == "flash-attn" and dtype not in (torch.float16, torch.bfloat16):
            raise TypeError(f"attention='flash-attn' needs float16 or bfloat16, got {dtype}: use autocast")
    return BACKENDS[backend](*qkv)


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
