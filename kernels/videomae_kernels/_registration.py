"""The one way an op of this package is registered with PyTorch.

An op has a plain-torch `reference`, an `allocate` function that makes its outputs, and a Triton launcher that
fills them. CPU tensors run the reference and CUDA tensors run Triton; `TRITON_INTERPRET=1` (set before Triton
is first imported) runs the Triton kernels on CPU tensors, for tests. There is no other fallback.

`allocate` is also the fake (shape-only) implementation, so what `torch.compile` believes and what a launch
returns cannot differ. Launchers live in `videomae_kernels.triton` and are imported on first use only.
"""

import importlib
import inspect
import os
import typing
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "videomae_kernels"


def runs_triton(device: torch.device) -> bool:
    """Whether ops on `device` run their Triton kernels; raises for devices that have no implementation."""
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1"
    if device.type == "cuda":
        return True
    raise NotImplementedError(f"{NAMESPACE} has CPU and CUDA implementations; got tensors on '{device}'")


def define_op(name: str, reference: Callable[..., Any], allocate: Callable[..., Any], launcher: str) -> Any:
    """Register `videomae_kernels::<name>`; its schema is read from the annotations of `reference`.

    `launcher` is "<file>:<function>" inside `videomae_kernels.triton`; it is called with the op's arguments
    followed by the tensors that `allocate` returned, and writes every element of them.
    """

    def run(*args: Any) -> Any:
        tensors = [a for a in args if isinstance(a, Tensor)]
        device = _common_device(name, tensors)
        if not runs_triton(device):
            return reference(*args)
        outputs = allocate(*args)
        launch = _load_launcher(launcher)
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            launch(*args, *(outputs if isinstance(outputs, tuple) else (outputs,)))
        return outputs

    schema = _read_schema(reference)
    op = torch.library.custom_op(f"{NAMESPACE}::{name}", run, mutates_args=(), schema=schema)
    op.register_fake(allocate)
    return op


def _read_schema(reference: Callable[..., Any]) -> str:
    """The schema of a function's annotations. Torch 2.6 knows sequences by their name in `typing` only."""

    def prototype() -> None: ...

    signature = inspect.signature(reference)
    parameters = signature.parameters.values()
    known = [p.replace(annotation=_in_typing(p.annotation)) for p in parameters]
    prototype.__signature__ = signature.replace(parameters=known)  # type: ignore[attr-defined]
    return torch.library.infer_schema(prototype, mutates_args=())


def _in_typing(annotation: Any) -> Any:
    if typing.get_origin(annotation) is not Sequence:
        return annotation
    in_typing: Any = typing.Sequence
    return in_typing[typing.get_args(annotation)]


def _common_device(name: str, tensors: list[Tensor]) -> torch.device:
    devices = {t.device for t in tensors}
    if len(devices) != 1:
        found = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"{name}: all tensors must be on one device, got {found}")
    return devices.pop()


def _load_launcher(launcher: str) -> Callable[..., None]:
    file, function = launcher.split(":")
    try:
        module = importlib.import_module(f"{NAMESPACE}.triton.{file}")
    except ImportError as error:
        raise ImportError(
            f"the Triton kernels could not be imported ({error}); install Triton with: "
            "pip install 'videomae-fast[triton]'"
        ) from error
    return getattr(module, function)
