"""What ops must reach, and which miss it: a kernel earns its place by a number."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.harness.results import Record, Results, by_case

OURS, REWRITE, COMPILED, PUBLISHED = "videomae_kernels", "rewrite", "rewrite + compile", "published"
COPY_SHARE = 0.85  # of the bandwidth of copying a large tensor on the same GPU, in the same run


@dataclass(frozen=True)
class Shortfall:
    """An op that misses its number.

    Attributes:
        name, case: of its records.
        reached: what it reached, as a share of what it must: below 1.
        reason: the number in words.
    """

    name: str
    case: str
    reached: float
    reason: str

    def __str__(self) -> str:
        return f"{self.name}, {self.case}: {self.reason}"


def shortfalls(results: Results) -> list[Shortfall]:
    """The ops of measured results that miss a number, the furthest first.

    Every device: no rival is faster. A GPU: also COPY_SHARE of the copy bandwidth. Each op and case is named once, with
    the number that it misses by most.
    """
    ops = [record for record in results["records"] if record["suite"] == "ops" and "not_run" not in record]
    on_gpu = results.get("driver", "none") != "none"
    found = []
    for name, case, rows in by_case(ops):
        variants = {row["variant"]: row for row in rows}
        if OURS in variants:
            reached = min(_numbers(variants, on_gpu), default=(1.0, ""))
            if reached[0] < 1:
                found.append(Shortfall(name, case, *reached))
    return sorted(found, key=lambda shortfall: shortfall.reached)


def _numbers(variants: dict[str, Record], on_gpu: bool) -> Iterable[tuple[float, str]]:
    """(share of the number that is reached, the number in words)."""
    ours = variants[OURS]
    for rival, record in variants.items():
        if rival != OURS:
            ratio = record["p50_ms"] / ours["p50_ms"]
            yield ratio, f"{ratio:.2f}x the speed of {rival}"
    if on_gpu and "roofline" in ours:
        yield ours["roofline"] / COPY_SHARE, f"{ours['roofline']:.0%} of the copy bandwidth, of {COPY_SHARE:.0%}"
