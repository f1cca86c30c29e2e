"""Implementations that make training steps of one case, round by round.

Taking turns spreads other load on the machine over all implementations. On a GPU only the measured implementation has
its weights there; the others wait on the host, so each has the device's memory to itself.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Protocol

import torch

from benchmarks.baselines.published.checkout import NAME as PUBLISHED_REPO
from benchmarks.harness.counts import count
from benchmarks.harness.measure import peak_mib
from benchmarks.inputs import Inputs
from benchmarks.model.agreement import Outcome, check_same_gradients
from benchmarks.model.steps import IMPLEMENTATIONS, ComparedStep, make_step
from benchmarks.settings import SIZES, Settings

ROUNDS = 3
RESOLUTION = 32  # the largest batch is found to 1/32, because each try compiles again


class ComparedCase(Protocol):
    """What `StepContenders` needs of a case, which is a dataclass; its string is the case of the records."""

    @property
    def suite(self) -> str:
        """The suite of the records."""

    @property
    def size(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def reference(self) -> str:
        """The implementation that the others must agree with."""

    def inputs(self) -> Any: ...

    def make_step(self, name: str, inputs: Any) -> ComparedStep: ...


@dataclass(frozen=True)
class StepCase:
    """A training step that several implementations make."""

    size: str
    precision: str
    mask_ratio: float
    decoder_mask_ratio: float
    batch_size: int
    device: torch.device

    @property
    def suite(self) -> str:
        return "model"

    def make_step(self, name: str, inputs: Inputs) -> ComparedStep:
        return make_step(name, inputs, self.precision)

    def inputs(self) -> Inputs:
        return Inputs(SIZES[self.size], self.batch_size, self.device, self.mask_ratio, self.decoder_mask_ratio)

    @property
    def reference(self) -> str:
        """The implementation that the others must agree with. The published scripts checkpoint ViT-H and ViT-g."""
        return "published, checkpointed" if self.size in ("huge", "giant") else "published"

    @property
    def implementations(self) -> tuple[str, ...]:
        """The implementations of dual masking, or of VideoMAE V1 with Hugging Face; and a user's checkout."""
        own = tuple(name for name in IMPLEMENTATIONS if name == PUBLISHED_REPO)
        if not self.decoder_mask_ratio:
            return (self.reference, *own, "Hugging Face", "Hugging Face, fused", "videomae_fast")
        strong = "published + SDPA + compile"
        return (self.reference, *own, strong, "published, fused", "videomae_fast", "videomae_fast + compile")

    def __str__(self) -> str:
        config = SIZES[self.size]
        clip = f"{config.num_frames}x{config.image_size[0]}x{config.image_size[1]}"
        decoder = f"decoder mask ratio {self.decoder_mask_ratio}" if self.decoder_mask_ratio else "no decoder mask"
        return f"{self.batch_size} clips of {clip}, {self.precision}, mask ratio {self.mask_ratio}, {decoder}"


class StepContenders:
    """Steps of one case at a time, made when first asked for: checked, warmed up, their memory measured."""

    def __init__(self, memory_budget: float | None) -> None:
        self.memory_budget = memory_budget  # GiB
        self.case: ComparedCase | None = None
        self.steps: dict[str, tuple[ComparedStep | None, dict[str, Any]]] = {}
        self.reference: Outcome | None = None

    def ready(self, case: ComparedCase, name: str) -> tuple[ComparedStep | None, dict[str, Any]]:
        """The named implementation, ready on the device, and its record; None if it cannot run here."""
        if case != self.case:
            self.close()
            self.case, self.inputs = case, case.inputs()
        for step, _ in self.steps.values():
            if step is not None and step.name != name and case.device.type == "cuda":
                step.move("cpu")
        _release(case.device)
        if name not in self.steps:
            self.steps[name] = self._prepare(case, name)
        step, record = self.steps[name]
        if step is not None:
            step.move(case.device)
        return step, record

    def time(self, benchmark: Any, case: ComparedCase, name: str, samples: int) -> None:
        """Take samples of the named implementation with pytest-benchmark."""
        step, record = self.ready(case, name)
        benchmark.group = f"ViT-{case.size}: {case}"
        benchmark.extra_info["record"] = record
        if step is None:
            benchmark.pedantic(lambda: None)
        else:
            # A step nobody times moves a GPU's clocks up again and fills its allocator; a CPU needs none.
            warmup = 1 if case.device.type == "cuda" else 0
            benchmark.pedantic(step, setup=step.forget_gradients, rounds=samples, warmup_rounds=warmup)

    def close(self) -> None:
        """Forget the case."""
        self.case, self.reference = None, None
        self.steps.clear()
        torch._dynamo.reset()
        gc.collect()

    def _prepare(self, case: ComparedCase, name: str) -> tuple[ComparedStep | None, dict[str, Any]]:
        record: dict[str, Any] = {
            "suite": case.suite,
            "name": case.size,
            "case": str(case),
            "variant": name,
            "predicted": False,
            "clips": case.batch_size,
        }
        if (name == "Hugging Face" or case.suite == "contrast") and find_spec("transformers") is None:
            return None, record | {"not_run": "not installed"}
        try:
            step = case.make_step(name, self.inputs)
            agreement = self._check(case, step)
            step()  # makes optimizer state and compiles what is not compiled yet
            step.forget_gradients()
            record |= {"error": agreement, "peak_mib": peak_mib(step, case.device)}
        except torch.OutOfMemoryError:
            return None, record | {"not_run": "out of memory"}
        record["total_mib"] = record["peak_mib"] + step.resident_mib()
        if case.device.type == "cuda" or not step.implementation.compiled:  # on a CPU nobody sees into compiled code
            counts = count(step, case.device)
            record |= {"kernel_launches": counts.kernel_launches, "syncs": counts.syncs}
        if self.memory_budget is not None:
            record |= {"memory_budget_gib": self.memory_budget}
            record["largest_batch"] = largest_batch_within(step, case, self.memory_budget)
        return step, record

    def _check(self, case: ComparedCase, step: ComparedStep) -> dict[str, float]:
        found = Outcome.of(step)
        if self.reference is None:
            self.reference = found if step.name == case.reference else self._run_reference(case)
        return check_same_gradients(step.name, found, self.reference, case.precision)

    def _run_reference(self, case: ComparedCase) -> Outcome:
        try:
            return Outcome.of(case.make_step(case.reference, self.inputs))
        except torch.OutOfMemoryError as error:
            raise RuntimeError(f"'{case.reference}' needs more memory than there is: nothing can be checked") from error


def in_turns(
    cases: Sequence[tuple[ComparedCase, Sequence[str]]], settings: Settings
) -> tuple[str, list[tuple[ComparedCase, str, int]], list[str]]:
    """Parameters of a test: cases with their implementations, which take turns.

    A sample is a step; rounds share the samples, and the first rounds take the remainder.
    """
    samples = settings.rounds(gpu=30, cpu=3)
    shares = [share for number in range(ROUNDS) if (share := len(range(number, samples, ROUNDS)))]
    found = [
        (case, name, share, number)
        for case, names in cases
        for number, share in enumerate(shares, start=1)
        for name in names
    ]
    ids = [f"{case.size}, {case}-{name}-round {number}" for case, name, _, number in found]
    return "case, name, samples", [row[:3] for row in found], ids


def largest_batch_within(step: ComparedStep, case: ComparedCase, gib: float) -> int:
    """Clips of the largest batch whose step a GPU can make within a budget of memory, by trying."""
    own_loss, own_inputs = step.loss, step.inputs
    total = torch.cuda.get_device_properties(case.device).total_memory

    def fits(batch_size: int) -> bool:
        inputs = replace(case, batch_size=batch_size).inputs()  # type: ignore[type-var]
        torch._dynamo.reset()  # which otherwise stops compiling after a few batch sizes
        try:
            step.loss = step.implementation.make_loss(inputs, step.model, case.precision)
            step()
            step.forget_gradients()
        except torch.OutOfMemoryError:
            return False
        finally:
            step.loss = own_loss
            step.forget_gradients()
            _release(case.device)
        return True

    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / total), case.device)
    try:
        return search_largest(fits, case.batch_size)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, case.device)
        step.loss, step.inputs = own_loss, own_inputs


def search_largest(fits: Callable[[int], bool], start: int) -> int:
    """An n for which `fits(n)`, at most 1/32 below the largest; 0 if there is none. Doubles first, then halves."""
    low, high = 0, start
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // RESOLUTION):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
