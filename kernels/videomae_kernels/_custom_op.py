"""The one way an op of this package is registered with PyTorch: reference, output allocation, Triton launcher."""

import inspect
import os
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ._values import checks_values

# Of this package under the name it was imported by: a vendored copy has ops of its own.
NAMESPACE = __name__.rpartition(".")[0].replace(".", "__")


def runs_triton(device: torch.device) -> bool:
    """Whether ops on `device` run their Triton kernels rather than their references.

    CUDA devices run Triton. The CPU runs the references, unless TRITON_INTERPRET=1 was set before Triton was first
    imported: then it runs Triton's interpreter, for tests. There is no other fallback.

    Args:
        device: where an op's tensors are.

    Returns:
        True for Triton, False for the plain-torch references.

    Raises:
        NotImplementedError: `device` is neither a CPU nor a CUDA device.
    """
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1"
    if device.type == "cuda":
        return True
    raise NotImplementedError(f"{NAMESPACE} has CPU and CUDA implementations; got tensors on '{device}'")


def arithmetic_dtype(*tensors: Tensor) -> torch.dtype:
    """What references compute in: float64 if any input is (for checks against exact results), else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def define_op(
    name: str,
    reference: Callable[..., Any],
    allocate: Callable[..., Any],
    launcher: Callable[..., None],
    check: Callable[..., None] | None = None,
) -> Any:
    """Register the op `NAMESPACE::name`.

    Args:
        name: of the op.
        reference: the op in plain torch; the schema is read from its annotations.
        allocate: makes the outputs, unwritten. It is also the fake (shape-only) implementation, so what
            `torch.compile` believes and what a launch returns cannot differ.
        launcher: called with the op's arguments followed by the outputs; writes every element of them. It imports
            its kernels inside, so that Triton is imported with the first kernel that runs. Outputs without elements
            need no launch.
        check: called with the op's arguments; raises an error that names the argument whose values are not allowed.
            It runs where values may be looked at (`_values`), never while a graph is traced.

    Returns:
        The op, a `torch.library.CustomOpDef`: callable, and open for `register_autograd`.
    """

    def run(*args: Any) -> Any:
        device = _common_device(name, args)
        triton = runs_triton(device)
        if check is not None and checks_values(device):
            check(*args)
        if not triton:
            return reference(*args)
        outputs = allocate(*args)
        written = outputs if isinstance(outputs, tuple) else (outputs,)
        if not any(output.numel() for output in written):
            return outputs
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            try:
                launcher(*args, *written)
            except ImportError as error:
                raise ImportError(
                    f"the Triton kernels could not be imported ({error}); install Triton with: pip install triton"
                ) from error
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


def _common_device(name: str, args: Sequence[Any]) -> torch.device:
    devices = {tensor.device for tensor in _tensors(args)}
    if len(devices) != 1:
        found = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"{name}: all tensors must be on one device, got {found}")
    return devices.pop()


def _tensors(args: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among the arguments of an op, and in the lists of tensors among them."""
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, (list, tuple)):
            yield from (item for item in arg if isinstance(item, Tensor))
