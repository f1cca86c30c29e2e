"""One op on one set of inputs in several implementations: checked against float64, then measured.

forward: the call without gradients. backward: the gradient of a call made before the clock starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.counts import count
from benchmarks.harness.measure import chill, host_seconds, peak_mib, run_ahead
from benchmarks.harness.targets import COMPILED, OURS, PUBLISHED, REWRITE
from benchmarks.inputs import Inputs
from benchmarks.model.agreement import without_tf32
from benchmarks.settings import SIZES, Settings
from videomae_kernels.testing import assert_within_error_budget

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLIPS = ("uint8 BTHWC", "float BCTHW")
CROPS = ("crops antialias", "crops bilinear", "crops pillow")  # not resized yet; the first is training's default
OUR_ULPS = 4  # roundings that ours may be off beyond the error of the rewrite
THEIR_ULPS = {torch.float32: 64, torch.bfloat16: 8}  # roundings that anything else may be off


@dataclass(frozen=True)
class OpCase:
    """What an op runs on; the inputs are made once for all implementations."""

    op: str
    direction: str  # "forward" or "backward"
    size: str
    clip: str  # one of CLIPS or CROPS; "" for ops that see no clip; of losses of pairs, their kind and ranks
    precision: str  # a key of DTYPES; "" for ops on integers
    batch_size: int
    device: torch.device

    @property
    def inputs(self) -> Inputs:
        """Clips and masks, the same for every op."""
        return _inputs(self.size, self.batch_size, self.device)

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A random leaf, which requires a gradient in a backward case."""
        x = torch.randn(shape, device=self.device).to(dtype or self.dtype)
        return x.requires_grad_(self.direction == "backward")

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.direction, f"{self.batch_size} clips", self.clip, self.precision)))


@lru_cache(maxsize=1)
def _inputs(size: str, batch_size: int, device: torch.device) -> Inputs:
    return Inputs(SIZES[size], batch_size, device)


@dataclass(frozen=True)
class Variant:
    """An implementation: `call()` on its own inputs, gradients of all its results to `leaves`."""

    call: Callable[[], Tensor | tuple[Tensor, ...]]
    leaves: Sequence[Tensor] = ()
    comparable: Callable[[Tensor], Tensor] = lambda result: result  # brings results into the order of ours
    unavailable: str | None = None  # why it cannot run here
    inexact: float = 0.0  # relative error it may have beyond rounding its result

    def prepare(self, case: OpCase) -> Callable[[], tuple[Tensor, ...]]:
        """Returns the call to measure. For a backward case, forward runs before."""
        if case.direction == "forward":
            return lambda: _tuple(self.call())
        outputs = _tuple(self.call())
        generator = torch.Generator(case.device).manual_seed(1)
        gradients = [
            torch.randn(x.shape, device=case.device, generator=generator).to(case.dtype).to(x.dtype) for x in outputs
        ]
        return lambda: torch.autograd.grad(outputs, self.leaves, gradients)

    def setup(self, case: OpCase) -> Callable[[], Callable[[], tuple[Tensor, ...]]]:
        """Returns the setup of a sample: prepare the call, chill the cache, keep a GPU busy during launches."""
        launching = host_seconds(self.prepare(case), case.device)

        def ready() -> Callable[[], tuple[Tensor, ...]]:
            call = self.prepare(case)
            chill(case.device)
            run_ahead(case.device, 2 * launching)
            return call

        return ready

    def results(self, case: OpCase) -> list[Tensor]:
        """Detached results, in the order of ours, in full precision."""
        with without_tf32():
            return [self.comparable(result.detach()) for result in self.prepare(case)()]


def _tuple(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


@dataclass(frozen=True)
class Workload:
    """The implementations of a case. `truth` computes in float64; `check`, if given, replaces it."""

    variants: dict[str, Variant]
    bytes: int  # every needed byte of inputs and outputs once
    truth: Variant | None = None
    check: Callable[[Tensor], None] = lambda result: None
    _known: list[list[Tensor]] = field(default_factory=list)

    def _truths(self, truth: Variant, case: OpCase) -> list[Tensor]:
        """The same for every implementation, and for every tile that is tried: computed once."""
        if not self._known:
            self._known.append(truth.results(case))
        return self._known[0]

    def error(self, name: str, case: OpCase) -> float:
        """Largest error relative to the largest value; AssertionError if it is more than rounding."""
        found = self.variants[name].results(case)
        if self.truth is None:
            self.check(found[0])
            return 0.0
        truths = self._truths(self.truth, case)
        if name == OURS and truths[0].is_floating_point():
            for tensors in zip(found, self.variants[REWRITE].results(case), truths, strict=True):
                assert_within_error_budget(*tensors, ulps=OUR_ULPS)
        inexact = self.variants[name].inexact
        return max(_error(name, *tensors, inexact) for tensors in zip(found, truths, strict=True))


def _error(name: str, found: Tensor, truth: Tensor, inexact: float) -> float:
    if not truth.is_floating_point():
        assert torch.equal(found, truth), f"{name} gives other indices"
        return 0.0
    error = float((found - truth).abs().max() / truth.abs().max())
    limit = THEIR_ULPS[found.dtype] * torch.finfo(found.dtype).eps + inexact
    assert error <= limit, f"{name} is wrong: its relative error {error:.3g} is more than {limit:.3g}"
    return error


@dataclass(frozen=True)
class Op:
    """An op and the cases it is measured in."""

    name: str
    build: Callable[[OpCase], Workload]
    directions: tuple[str, ...] = ("forward",)
    clips: tuple[str, ...] = ("",)
    floating: bool = True
    variants: tuple[str, ...] = (PUBLISHED, REWRITE, COMPILED, OURS)


def rows(ops: Sequence[Op], settings: Settings) -> tuple[str, list[tuple[Op, OpCase, str]], list[str]]:
    """What a test module's `parametrize` returns."""
    found = []
    batch_size = settings.batch_size(cpu=4)
    for op in ops:
        for size in settings.sizes(gpu=["base", "giant"], cpu=["base"]):
            for precision in settings.precisions(gpu=["bf16", "fp32"]) if op.floating else [""]:
                for clip in op.clips:
                    for direction in op.directions:
                        case = OpCase(op.name, direction, size, clip, precision, batch_size, settings.device)
                        found += [(op, case, variant) for variant in op.variants]
    return "op, case, variant", found, [f"{case.op}-{case.size}-{case}-{variant}" for _, case, variant in found]


@lru_cache(maxsize=1)
def build(op: Op, case: OpCase) -> Workload:
    """The workload of a case; the last one is kept."""
    torch.manual_seed(0)
    return op.build(case)


def run(benchmark: Any, settings: Settings, op: Op, case: OpCase, name: str) -> None:
    """Check one implementation, measure it, and hand pytest-benchmark the record."""
    workload, device = build(op, case), case.device
    if name == COMPILED:
        plain = workload.variants[REWRITE]
        workload.variants[COMPILED] = replace(plain, call=torch.compile(plain.call, dynamic=False))
    variant = workload.variants[name]
    record: dict[str, Any] = {
        "suite": "ops",
        "name": case.op,
        "case": f"ViT-{case.size}, {case}",
        "size": case.size,
        "variant": name,
        "predicted": False,
    }
    benchmark.group = f"{case.op}: {record['case']}"
    benchmark.extra_info["record"] = record
    if variant.unavailable:
        record["not_run"] = variant.unavailable
        benchmark.pedantic(lambda: None)
        return
    record |= {"bytes": workload.bytes, "error": workload.error(name, case)}
    record["peak_mib"] = peak_mib(variant.prepare(case), device)
    if device.type == "cuda" or name != COMPILED:  # on a CPU nobody sees into compiled code
        counts = count(variant.prepare(case), device)
        record |= {"kernel_launches": counts.kernel_launches, "syncs": counts.syncs}
    ready = variant.setup(case)
    benchmark.pedantic(lambda call: call(), setup=lambda: ((ready(),), {}), rounds=settings.rounds(gpu=50, cpu=7))
