"""What followed allocations add up to: the live bytes over time, their peak, and what it consists of."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

CATEGORIES = ("parameters", "gradients", "optimizer state", "buffers", "inputs", "activations", "temporaries")


@dataclass(eq=False)
class Allocation:
    """One storage. Times are positions in `MemoryFigures.timeline`."""

    size: int  # bytes, in whole blocks
    born: int
    phase: str  # "before", "forward", "backward" or "optimizer"
    module: str
    op: str
    category: str
    died: int | None = None


class MemoryFigures:
    """The figures that `MemoryProfile` has after its block."""

    timeline: list[int]  # live bytes after each allocation and release
    peak_bytes: int
    peak: Allocation  # that reached the peak: where it was
    breakdown: dict[str, int]  # bytes at the peak by category
    activations: dict[str, int]  # those of them that are activations, by the path of the module that made them
    forward_end_bytes: int | None  # live when backward began, the most if it began more than once; None if never

    def _sum_up(self, allocations: Sequence[Allocation], clock: int, forward_ends: Sequence[int]) -> None:
        change = [0] * clock
        for allocation in allocations:
            change[allocation.born] += allocation.size
            if allocation.died is not None:
                change[allocation.died] -= allocation.size
        self.timeline = list(accumulate(change))
        self.peak_bytes = max(self.timeline)
        moment = self.timeline.index(self.peak_bytes)
        self.peak = next(a for a in reversed(allocations) if a.born == moment)
        self.forward_end_bytes = max((self.timeline[end] for end in forward_ends), default=None)
        self.breakdown, self.activations = dict.fromkeys(CATEGORIES, 0), {}
        for a in allocations:
            if a.born <= moment and (a.died is None or moment < a.died):
                self.breakdown[a.category] += a.size
                if a.category == "activations":
                    self.activations[a.module] = self.activations.get(a.module, 0) + a.size

    def table(self, depth: int = 2) -> str:
        """The peak as a Markdown table in MiB; activations by the first `depth` parts of the module path."""
        where = f"{self.peak.phase}, {self.peak.module}, {self.peak.op}" if self.peak.op else "before the block"
        lines = [f"Peak {_mib(self.peak_bytes)} MiB ({where})"]
        if self.forward_end_bytes is not None:
            lines[0] += f"; at the end of forward {_mib(self.forward_end_bytes)} MiB"
        lines += ["", "| | MiB at the peak |", "|---|---|"]
        lines += [f"| {category} | {_mib(size)} |" for category, size in self.breakdown.items()]
        by_path: dict[str, int] = {}
        for path, size in self.activations.items():
            short = ".".join(path.split(".")[:depth])
            by_path[short] = by_path.get(short, 0) + size
        lines += [f"| activations of {path} | {_mib(size)} |" for path, size in by_path.items()]
        return "\n".join(lines)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"
