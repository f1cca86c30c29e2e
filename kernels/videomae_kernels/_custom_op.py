"""The one way an op of this package is registered with PyTorch: reference, output allocation, Triton launcher.

With `torch.library.Library` and an Autograd kernel of its own: an op made by `torch.library.custom_op` and its
`register_autograd` takes the host four times as long to call (`benchmarks/ops/host.py`).
"""

import inspect
import os
import typing
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ._values import checks_values

# Of this package under the name it was imported by: a vendored copy has ops of its own.
NAMESPACE = __name__.rpartition(".")[0].replace(".", "__")


def _open_library() -> torch.library.Library:
    try:
        return torch.library.Library(NAMESPACE, "DEF")
    except RuntimeError as error:
        raise ImportError(
            f"the ops of '{NAMESPACE}' are registered already: the package was imported before in this process. "
            "Start Python anew to load changed code; give a copy of the package a name of its own"
        ) from error


_LIBRARY = _open_library()


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
) -> "Op":
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
        The op: callable, and open for `register_autograd`.
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

    return Op(name, _read_schema(reference), run, allocate)


class Op:
    """A registered op. Call it with all its arguments, in the order of its schema."""

    def __init__(self, name: str, schema: str, run: Callable[..., Any], allocate: Callable[..., Any]) -> None:
        self.name = f"{NAMESPACE}::{name}"
        _LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
        # For every device that has no key below; `run` refuses it by name.
        for key in ("CPU", "CUDA", "CompositeExplicitAutograd"):
            _LIBRARY.impl(name, run, key)
        torch.library.register_fake(self.name, allocate, lib=_LIBRARY)
        self._overload = getattr(getattr(torch.ops, NAMESPACE), name).default
        arguments = self._overload._schema.arguments
        self._lists = [n for n, argument in enumerate(arguments) if str(argument.type) == "List[Tensor]"]
        self._count = len(arguments)
        self.register_autograd(self._no_derivative, setup_context=lambda ctx, inputs, output: None)
        _LIBRARY.impl(name, self._record, "Autograd")

    def __call__(self, *args: Any) -> Any:
        return self._overload(*args)

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        """The op's derivative, as of `torch.library.register_autograd`.

        Args:
            backward: called with a context and the outputs' gradients; returns one gradient for each argument of the
                op: None for what is no tensor, a list for a list of tensors.
            setup_context: called with the context, the op's arguments and its outputs, to keep what `backward` needs.
        """

        def forward(ctx: Any, *args: Any) -> Any:
            inputs = args[: self._count]
            with torch._C._AutoDispatchBelowAutograd():
                output = self._overload(*inputs)
            setup_context(ctx, inputs, output)
            return output

        def backward_of_all(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            found = list(backward(ctx, *grads))
            for n in self._lists:
                found += found[n]
                found[n] = None
            return tuple(found)

        members = {"forward": staticmethod(forward), "backward": staticmethod(backward_of_all)}
        self._function: Any = type(self.name.replace("::", "_"), (torch.autograd.Function,), members)

    def _record(self, *args: Any) -> Any:
        """The Autograd kernel. Autograd sees tensors among arguments only, so those of lists follow once more."""
        tensors = [tensor for n in self._lists for tensor in args[n]]
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in (*args, *tensors)):
            return self._function.apply(*args, *tensors)
        with torch._C._AutoDispatchBelowAutograd():
            return self._overload(*args)

    def _no_derivative(self, ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(
            f"{self.name} has no derivative: the op that it is the derivative of has no second one"
        )


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
    """The device of the tensors among the arguments of an op, and in the lists of tensors among them."""
    device = None
    for arg in args:
        for item in arg if isinstance(arg, list) else (arg,):
            if isinstance(item, Tensor) and item.device != device:
                if device is not None:
                    found = f"{device}, {item.device}"
                    raise ValueError(f"{name}: all tensors must be on one device, got {found}")
                device = item.device
    if device is None:
        raise ValueError(f"{name}: needs a tensor")
    return device
