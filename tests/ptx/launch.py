"""`emulate(target)`: every `kernel[grid](…)` compiles for an NVIDIA GPU that need not be here, and its PTX runs here.

The only file that knows how Triton binds a launch. Arguments may be anything with `data_ptr()`: of PyTorch's tensors
the whole storage may be accessed, as on a GPU, where it is one allocation.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from .count import Launch
from .memory import Memory
from .run import load

TARGETS = {name: GPUTarget("cuda", int(name[3:]), 32) for name in ("sm_80", "sm_90")}


class CompileOnlyDriver:
    """What Triton asks of a driver in order to compile for `target`."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int = 0) -> int:
        return 0


@contextmanager
def emulate(target: str) -> Iterator[list[Launch]]:
    """Compile for `target` ("sm_80", "sm_90") and execute, instead of launching; gives the list of launches to come.

    Raises (from the launch):
        Trap: see the package.
    """
    launches: list[Launch] = []
    state, run = dict(vars(driver)), JITFunction.run

    def execute(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> Any:
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        if not warmup:
            bound = dict(zip((p.name for p in self.params), args, strict=False)) | kwargs
            launches.append(
                _execute(compiled, target, grid(bound) if callable(grid) else grid, self, bound, len(launches))
            )
        return compiled

    driver.set_active(CompileOnlyDriver(TARGETS[target]))
    JITFunction.run = execute
    try:
        yield launches
    finally:
        JITFunction.run = run
        vars(driver).update(state)


def _execute(
    compiled: Any, target: str, grid: Sequence[int], function: Any, bound: dict[str, Any], seed: int
) -> Launch:
    names = [p.name for p in function.params]
    memory, values = Memory(), []
    for key, kind in compiled.src.signature.items():
        if kind == "constexpr":
            continue
        name = key if isinstance(key, str) else names[key]
        values.append(_bind(memory, name, bound[name]))
    kernel = load(compiled.asm["ptx"])
    x, y, z = (*grid, 1, 1)[:3]
    launch = Launch(function.fn.__name__, target, (x, y, z), kernel.program.threads, compiled.metadata.shared)
    if math.prod(launch.grid):
        kernel.run(launch.grid, values, memory, launch, seed)
    return launch


def _bind(memory: Memory, name: str, value: Any) -> int | float:
    """An argument as the kernel receives it; the memory that a tensor lies in becomes accessible."""
    if not hasattr(value, "data_ptr"):
        return value
    storage = value.untyped_storage() if hasattr(value, "untyped_storage") else value
    memory.add(storage.data_ptr(), storage.nbytes() if callable(storage.nbytes) else storage.nbytes, name)
    return int(value.data_ptr())
