"""How many kernels a step launches, and how many host syncs it makes: how often the host waits for the device."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness.profiler import profile

aten = torch.ops.aten
# The host needs the size or the value of the results of these operations.
_SYNCHRONISING = {
    aten.nonzero,
    aten._local_scalar_dense,
    aten.item,
    aten.masked_select,
    aten.equal,
    aten.is_nonzero,
    aten.unique_dim,
    aten._unique2,
    aten.repeat_interleave,
    aten.multinomial,  # checks the weights
}
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
_ALLOCATING = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
_LAUNCH = re.compile(r"cu(da)?(LaunchKernel|LaunchCooperativeKernel|MemcpyAsync|MemsetAsync|GraphLaunch)")


@dataclass(frozen=True)
class Counts:
    """Kernel launches (copies and fills included) and host syncs of one call."""

    kernel_launches: int
    syncs: int


def count(step: Callable[[], Any], device: torch.device) -> Counts:
    """Count during one call of `step`, which has run before (a first call compiles and allocates).

    On a GPU both are measured: kernel launches by the profiler, host syncs by PyTorch's sync debug mode. On a CPU they
    are predicted from the dispatched operations: one launch for each operation that is neither a view nor an
    allocation, one sync for each whose result has a size or a value that the host needs. Not visible there: copies
    from host memory, which also sync, and compiled code.
    """
    if device.type == "cuda":
        return Counts(_launches_on_gpu(step), _syncs_on_gpu(step))
    with _Dispatched() as dispatched:
        step()
    return Counts(dispatched.kernel_launches, dispatched.syncs)


def _synchronises(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation, as a TorchDispatchMode gets it, makes the host wait; boolean indexing does."""
    if func.overloadpacket in _SYNCHRONISING:
        return True
    if func.overloadpacket not in _INDEXING:
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def launches_kernel(func: Any) -> bool:
    """Whether an operation, as a TorchDispatchMode gets it, is counted as a kernel launch: it writes to memory."""
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    is_view = is_view or func is aten._unsafe_view.default  # its schema does not say so
    asks = func.namespace in ("prim", "profiler")  # fake tensors ask for their device as an operation
    return not (is_view or asks or func.overloadpacket in _ALLOCATING)


class _Dispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.kernel_launches = self.syncs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.syncs += _synchronises(func, args)
        self.kernel_launches += launches_kernel(func)
        return func(*args, **(kwargs or {}))


def _launches_on_gpu(step: Callable[[], Any]) -> int:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as run:
        step()
        torch.cuda.synchronize()
    return sum(1 for event in run.profiler.kineto_results.events() if _LAUNCH.match(event.name()))


def _syncs_on_gpu(step: Callable[[], Any]) -> int:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
