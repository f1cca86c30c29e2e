"""Run the ops' Triton kernels as compiled PTX on CPU tensors (tests/ptx), in a process that can interpret them, too.

Triton decides at import whether its library functions, such as `tl.sum`, are interpreted or compiled, and so does
`@triton.jit` for ours. Here both exist: what was decorated for the interpreter is exchanged for compiled counterparts
as long as `emulated(...)` lasts, and what the interpreter has patched in `triton.language` for its own use is put back.
"""

import functools
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import triton
import triton.language.core
from triton.runtime.jit import JITFunction

import videomae_kernels
from tests.ptx import Launch, emulate

try:
    from triton.runtime.interpreter import InterpretedFunction
except ImportError:  # pragma: no cover
    InterpretedFunction = None

_Names = list[tuple[Any, dict[str, Any]]]  # modules and classes, with their attributes


def _import_kernels() -> None:
    """Before the exchange: a kernel that is decorated later would be compiled, or interpreted, for good."""
    for module in pkgutil.walk_packages(videomae_kernels.__path__, f"{videomae_kernels.__name__}."):
        importlib.import_module(module.name)


def _owners() -> list[Any]:
    """What holds interpreted functions, or is patched by the interpreter."""
    ours = (videomae_kernels.__name__, "triton.language")
    modules = [m for name, m in list(sys.modules.items()) if name.startswith(ours) and isinstance(m, ModuleType)]
    classes = [c for c in vars(triton.language.core).values() if inspect.isclass(c)]
    return [*modules, *dict.fromkeys(classes)]


def _attributes(owners: list[Any]) -> _Names:
    return [(owner, dict(vars(owner))) for owner in owners]


def _restore(names: _Names) -> None:
    for owner, wanted in names:
        now = vars(owner)
        if inspect.isclass(owner):  # what is new in a module is a submodule that was imported since
            for name in [name for name in now if name not in wanted]:
                delattr(owner, name)
        for name, value in wanted.items():
            if now.get(name) is not value:
                setattr(owner, name, value)


@functools.cache
def _compiled(function: Any) -> JITFunction:
    return JITFunction(function.fn, **function.rewriter.kwargs)


_import_kernels()
_pristine = _attributes(_owners())  # nothing has been interpreted yet


@functools.cache
def _exchanged() -> _Names:
    return [
        (owner, {k: _compiled(v) if isinstance(v, InterpretedFunction) else v for k, v in names.items()})
        for owner, names in _pristine
    ]


@contextmanager
def compiled() -> Iterator[None]:
    """`@triton.jit` functions of the ops and of Triton's library are compiled ones."""
    before = _attributes([owner for owner, _ in _pristine])
    interpret = getattr(triton, "knobs", None) and triton.knobs.runtime.interpret
    with mock.patch.dict(os.environ):  # Triton's knob sets a variable, too
        _restore(_exchanged())
        if interpret:
            triton.knobs.runtime.interpret = False
        try:
            yield
        finally:
            if interpret:
                triton.knobs.runtime.interpret = True
            _restore(before)


@contextmanager
def emulated(target: str) -> Iterator[list[Launch]]:
    """Ops on CPU tensors run their kernels as PTX for `target`; gives the list of launches, with their counts."""
    with compiled(), emulate(target) as launches:
        os.environ["TRITON_INTERPRET"] = "1"  # ops run Triton on a CPU; set last, since Triton's knob sets it, too
        yield launches
