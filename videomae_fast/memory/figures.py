"""Memory figures of a step, summed from its allocations: live bytes over time, the peak, and its breakdown."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

CATEGORIES = ("parameters", "gradients", "optimizer state", "buffers", "inputs", "activations", "temporaries")
RESIDENT = ("parameters", "optimizer state", "buffers", "inputs")  # on the device before the step begins


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


@dataclass(frozen=True)
class Moment:
    """Where in a step the peak is reached."""

    phase: str  # "before", "forward", "backward" or "optimizer"
    module: str  # path of the module that runs
    op: str  # the operation that allocates; "" if the peak lies before the step begins


@dataclass(frozen=True)
class MemoryFigures:
    """Where the memory of a profiled block goes: `MemoryProfile.figures`.

    Attributes:
        timeline: live bytes after each allocation and each release.
        peak_bytes: the largest value of `timeline`.
        peak: the phase, module and operation that reach the peak.
        breakdown: bytes at the peak by category, one of `CATEGORIES`.
        activations: the bytes of category "activations", by the path of the module that made them.
        forward_end_bytes: live bytes when backward begins; the largest such value if it begins several times; None if
            it never begins.
    """

    timeline: list[int]
    peak_bytes: int
    peak: Moment
    breakdown: dict[str, int]
    activations: dict[str, int]
    forward_end_bytes: int | None

    @classmethod
    def of(cls, allocations: Sequence[Allocation], clock: int, forward_ends: Sequence[int]) -> "MemoryFigures":
        """Sum up the allocations of a block.

        Args:
            allocations: every storage that was followed.
            clock: number of moments, that is, of allocations and releases.
            forward_ends: the moments at which backward began.

        Returns:
            The figures of the block.
        """
        change = [0] * clock
        for allocation in allocations:
            change[allocation.born] += allocation.size
            if allocation.died is not None:
                change[allocation.died] -= allocation.size
        timeline = list(accumulate(change))
        moment = max(range(clock), key=timeline.__getitem__)
        breakdown, activations = dict.fromkeys(CATEGORIES, 0), dict[str, int]()
        for a in allocations:
            if a.born <= moment and (a.died is None or moment < a.died):
                breakdown[a.category] += a.size
                if a.category == "activations":
                    activations[a.module] = activations.get(a.module, 0) + a.size
        peak = next(a for a in reversed(allocations) if a.born == moment)
        return cls(
            timeline,
            timeline[moment],
            Moment(peak.phase, peak.module, peak.op),
            breakdown,
            activations,
            max((timeline[end] for end in forward_ends), default=None),
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "MemoryFigures":
        """Read what `to_json` gave.

        Args:
            values: the result of `to_json`.

        Returns:
            Equal figures.
        """
        return cls(**{**values, "peak": Moment(**values["peak"])})

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values.

        Returns:
            Numbers, strings, lists and dictionaries.
        """
        return asdict(self)

    @property
    def step_bytes(self) -> int:
        """The peak in bytes above weights, optimizer state, buffers and inputs, which exist before the step."""
        return self.peak_bytes - sum(self.breakdown[category] for category in RESIDENT)

    def table(self, depth: int = 2) -> str:
        """The peak as a Markdown table.

        Args:
            depth: activations are summed by this many parts of the module path; 1 tells "encoder" from "decoder".

        Returns:
            A line with the place of the peak, and a table in MiB: one row a category, then the activations by module.
        """
        where = f"{self.peak.phase}, {self.peak.module}, {self.peak.op}" if self.peak.op else "before the block"
        title = f"Peak {mib(self.peak_bytes, 1)} MiB ({where})"
        if self.forward_end_bytes is not None:
            title += f"; at the end of forward {mib(self.forward_end_bytes, 1)} MiB"
        by_path: dict[str, int] = {}
        for path, size in self.activations.items():
            short = ".".join(path.split(".")[:depth])
            by_path[short] = by_path.get(short, 0) + size
        rows = [*self.breakdown.items(), *((f"activations of {path}", size) for path, size in by_path.items())]
        return f"{title}\n\n" + markdown_table(["", "MiB at the peak"], ([label, mib(size, 1)] for label, size in rows))


def mib(size: int, decimals: int = 0) -> str:
    """Format bytes.

    Args:
        size: bytes.
        decimals: digits after the point.

    Returns:
        MiB, with separators of thousands.
    """
    return f"{size / 2**20:,.{decimals}f}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table.

    Args:
        header: titles of the columns.
        rows: cells as they are to be shown, as many as titles.

    Returns:
        A Markdown table.
    """
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows))
