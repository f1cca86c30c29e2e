"""The one way an op of this package is registered with PyTorch: reference, output allocation, Triton launcher.

With `torch.library.Library` and an Autograd kernel of its own: `torch.library.custom_op` and its `register_autograd`
give the host more to do in every call (`python -m benchmarks.host`).
"""

import inspect
import os
import typing
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

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
_WORKSPACES: dict[Any, Callable[..., int]] = {}  # by overload


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
    workspace: Callable[..., int] | None = None,
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
        workspace: called with the op's arguments; returns the bytes that a launch allocates besides its outputs and
            frees at its end, for `workspace_bytes`. None: too few to count.

    Returns:
        The op: callable, and open for `register_autograd`.
    """
    op = Op(name, _read_schema(reference), reference, allocate, launcher, check)
    if workspace is not None:
        _WORKSPACES[op.overload] = workspace
    return op


def workspace_bytes(overload: Any, args: Sequence[Any]) -> int:
    """What a launch on a GPU takes for itself, which nobody sees from outside of the op.

    Args:
        overload: any operation of PyTorch, as `__torch_dispatch__` is given it.
        args: its arguments.

    Returns:
        Bytes, as the `workspace` of `define_op` tells them; 0 for what is no op of this package.
    """
    workspace = _WORKSPACES.get(overload)
    return 0 if workspace is None else workspace(*args)


class Op:
    """A registered op. Call it with all its arguments, in the order of its schema."""

    def __init__(
        self,
        name: str,
        schema: str,
        reference: Callable[..., Any],
        allocate: Callable[..., Any],
        launcher: Callable[..., None],
        check: Callable[..., None] | None,
    ) -> None:
        self.name = f"{NAMESPACE}::{name}"
        self._reference, self._allocate, self._launcher, self._check = reference, allocate, launcher, check
        _LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
        for key in ("CPU", "CUDA", "CompositeExplicitAutograd"):  # the last is any other device, which is refused
            _LIBRARY.impl(name, self._run, key)
        torch.library.register_fake(self.name, allocate, lib=_LIBRARY)
        self.overload = getattr(getattr(torch.ops, NAMESPACE), name).default
        types = [str(argument.type) for argument in self.overload._schema.arguments]
        self._count = len(types)
        self._tensors = [n for n, kind in enumerate(types) if kind in ("Tensor", "Optional[Tensor]")]
        self._lists = [n for n, kind in enumerate(types) if kind == "List[Tensor]"]
        self.register_autograd(self._no_derivative, setup_context=lambda ctx, inputs, output: None)
        _LIBRARY.impl(name, self._record, "Autograd")

    def __call__(self, *args: Any) -> Any:
        return self.overload(*args)

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
                output = self.overload(*inputs)
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
        """The Autograd kernel. A Function sees tensors among its arguments only, so those of lists follow once more."""
        if self._wants_derivative(args):
            return self._function.apply(*args, *(x for n in self._lists for x in args[n]))
        with torch._C._AutoDispatchBelowAutograd():
            return self.overload(*args)

    def _wants_derivative(self, args: Sequence[Any]) -> bool:
        """In loops, because a generator would cost as much as the rest of a call."""
        if torch.is_grad_enabled():
            for n in self._tensors:
                if args[n] is not None and args[n].requires_grad:
                    return True
            for n in self._lists:
                for x in args[n]:
                    if x.requires_grad:
                        return True
        return forward_ad._current_level >= 0  # a Function without a forward derivative refuses dual tensors

    def _run(self, *args: Any) -> Any:
        """The kernel of every device."""
        device = self._common_device(args)
        triton = runs_triton(device)
        if self._check is not None and checks_values(device):
            self._check(*args)
        if not triton:
            return self._reference(*args)
        outputs = self._allocate(*args)
        written = outputs if isinstance(outputs, tuple) else (outputs,)
        if not any(output.numel() for output in written):
            return outputs
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            try:
                self._launcher(*args, *written)
            except ImportError as error:
                raise ImportError(
                    f"the Triton kernels could not be imported ({error}); install Triton with: pip install triton"
                ) from error
        return outputs

    def _common_device(self, args: Sequence[Any]) -> torch.device:
        """Of the tensors among the arguments, and in the lists of tensors among them."""
        device = None
        for n in (*self._tensors, *self._lists):
            for x in args[n] if n in self._lists else (args[n],):
                if x is None or x.device == device:
                    continue
                if device is not None:
                    raise ValueError(f"{self.name}: all tensors must be on one device, got {device} and {x.device}")
                device = x.device
        return device  # type: ignore[return-value]  # every op has a tensor

    def _no_derivative(self, ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(f"{self.name} has no derivative, nor has the op whose gradient it is a second one")


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
