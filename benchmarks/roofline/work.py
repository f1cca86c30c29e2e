"""Count the work of a step: every operation's FLOPs, bytes and kernel launches, and the time they take at given rates.

    time of an operation = max(FLOPs / rate, bytes / bandwidth)

FLOPs are those of matrix products, convolutions and fused attention; other arithmetic is not counted, nor are the
instructions that resize crops. Caches are not modelled: what one operation writes, the next reads from memory.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.harness.counts import launches_kernel
from benchmarks.roofline.devices import Rates
from benchmarks.roofline.traffic import CropBytes, needed_bytes, own

MATRIX, ATTENTION, OTHER = "matrix products", "attention", "other"
CASTS, WEIGHTS, ADDS = "casts and copies", "weight copies", "adds, sums, concatenations"
# Parts of a step by the names of operations: the first entry with a name that an operation's begins with.
_PARTS = {
    "optimizer": ("_fused_adam", "_foreach_add_"),  # the latter counts the steps
    WEIGHTS: ("_foreach_copy_",),
    # Linear layers use mm and addmm. A profiler names what runs within: the kernels of attention and convolution.
    ATTENTION: ("_scaled_dot_product", "bmm", "baddbmm", "_softmax", "_flash_att", "_efficient_att", "_cudnn_att"),
    MATRIX: ("mm", "addmm", "convolution", "cudnn_convolution", "_slow_conv"),
    "norms": ("native_layer_norm", "_fused_rms_norm"),
    "GELU": ("gelu",),
    CASTS: ("_to_copy", "copy_", "clone"),
    ADDS: ("add", "sum", "stack", "cat", "zeros_like"),
}
PARTS = (
    MATRIX,
    ATTENTION,
    "norms",
    "GELU",
    CASTS,
    "adds, sums, concatenations",
    WEIGHTS,
    "our kernels",
    "optimizer",
    OTHER,
)


@dataclass(frozen=True)
class Operation:
    """The work of one operation. `rate` is the field of `Rates` that its FLOPs are divided by."""

    part: str
    rate: str
    flops: int
    bytes: int

    def seconds(self, rates: Rates) -> float:
        """At the roofline."""
        return max(self.flops / (getattr(rates, self.rate) * 1e12), self.bytes / (rates.memory * 1e9))


def part_named(name: str) -> str:
    """The part of a step that an operation of PyTorch belongs to, by its name without the namespace."""
    return next((part for part, names in _PARTS.items() if name.startswith(names)), OTHER)


class Work(TorchDispatchMode):
    """Counts the operations that run within the block, by their work.

    Args:
        model: whose parameters tell copies of weights, and of their gradients, from casts of activations.
        crop_bytes: see `needed_bytes`.
    """

    def __init__(self, model: nn.Module, crop_bytes: CropBytes | None = None) -> None:
        super().__init__()
        self.operations: Counter[Operation] = Counter()
        self._weights = {parameter.shape for parameter in model.parameters()}
        self._crop_bytes = crop_bytes or {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if launches_kernel(func):
            self.operations[self._operation(func, args, kwargs or {}, out)] += 1
        return out

    def _operation(self, func: Any, args: Any, kwargs: Any, out: Any) -> Operation:
        formula = flop_registry.get(func.overloadpacket)
        flops = formula(*args, **kwargs, out_val=out) if formula else 0
        part, inputs = self._part(func, args), [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        rate = "matrix" if not flops or inputs[0].dtype in (torch.bfloat16, torch.float16) else "float32"
        if func._schema.name.startswith("aten::_scaled_dot_product") and rate == "matrix":
            rate = "attention"
        return Operation(part, rate, flops, needed_bytes(func, args, kwargs, out, self._crop_bytes))

    def _part(self, func: Any, args: Any) -> str:
        ours = own(func)
        if ours is not None:
            return ours.part
        found = part_named(func._schema.name.split("::")[1])
        return WEIGHTS if found == CASTS and args[0].shape in self._weights else found

    def of_part(self, part: str) -> "list[tuple[Operation, int]]":
        """The operations of a part, each with how often it runs."""
        return [(operation, n) for operation, n in self.operations.items() if operation.part == part]


def totals(operations: Iterable[tuple[Operation, int]]) -> dict[str, float]:
    """TFLOP, GB and kernel launches of operations."""
    rows = list(operations)
    return {
        "tflop": sum(n * operation.flops for operation, n in rows) / 1e12,
        "gb": sum(n * operation.bytes for operation, n in rows) / 1e9,
        "kernel_launches": sum(n for _, n in rows),
    }


def milliseconds(operations: Iterable[tuple[Operation, int]], rates: Rates) -> float:
    """Time of operations one after the other, each at its roofline."""
    return sum(n * operation.seconds(rates) for operation, n in operations) * 1e3
