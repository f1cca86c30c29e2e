"""Markdown tables of predicted step times: beside measured ones, and beside those of an earlier commit."""

from collections.abc import Iterable, Sequence

from benchmarks.harness.markdown import Cell, markdown_table
from benchmarks.harness.results import Record, Results, by_case, key
from benchmarks.roofline.devices import ACHIEVED, DATASHEET, GPUS, HOST_SECONDS_PER_LAUNCH, MATRIX_SHARE, MEMORY_SHARE
from benchmarks.roofline.work import ATTENTION, MATRIX, PARTS

SHOWN_BY_PART = "H100"
ASSUMED = (
    "An operation takes the larger of FLOPs / rate and bytes / bandwidth; a step takes the sum of its operations. "
    "FLOPs are those of matrix products and attention. Each needed byte counts once. Not counted: caches, and the "
    "instructions that resize crops. "
    f"Assumed: {HOST_SECONDS_PER_LAUNCH * 1e6:.0f} µs of host time for a kernel launch; "
    f"*achieved* rates of {MATRIX_SHARE:.0%} of the datasheet for matrix products, {MEMORY_SHARE:.0%} for memory, and "
    "for attention as listed. Host and GPU work at the same time, so the larger of the two times counts. "
    "`published + SDPA` is not compiled: what a compiler fuses is unknown before it has, but matrix products and "
    "attention stay."
)


def format_rooflines(
    records: Sequence[Record], earlier: Results | None = None, measured: Iterable[Results] = ()
) -> str:
    """The tables of predicted times.

    Args:
        records: of the suite "roofline", at one commit.
        earlier: results of another commit; its records stand beside those of the same name where figures differ.
        measured: results of devices; steps of the same name, case and variant stand beside the prediction.
    """
    before = {key(record): record for record in earlier["records"]} if earlier else {}
    parts = [f"Predicted time of a training step. {ASSUMED}", _gpus()]
    for name, case, rows in by_case(records):
        shown = []
        for row in rows:
            then = before.get(key(row))
            if then and any(then[figure] != row[figure] for figure in ("tflop", "gb", "kernel_launches")):
                shown.append({**then, "variant": f"{row['variant']}, at {earlier['commit']}"})  # type: ignore[index]
            shown.append(row)
        columns = _COLUMNS | _measured_columns(rows[0], list(measured))
        parts.append(f"Predicted time, ViT-{name}, {case}:\n\n{markdown_table(columns, shown)}")
        parts.append(_by_part(name, case, shown))
    return "\n\n".join(parts)


def _gpus() -> str:
    columns: dict[str, Cell] = {
        "": lambda r: r["variant"],
        "bf16 TFLOP/s, datasheet (achieved)": lambda r: _pair(r, "matrix"),
        "attention TFLOP/s": lambda r: _pair(r, "attention"),
        "float32 TFLOP/s": lambda r: _pair(r, "float32"),
        "memory GB/s": lambda r: _pair(r, "memory"),
        "source": lambda r: r["sources"],
    }
    return markdown_table(columns, [{"variant": gpu.name, "sources": gpu.sources, **gpu.rates} for gpu in GPUS])


def _pair(record: Record, rate: str) -> str:
    return f"{getattr(record[DATASHEET], rate):,.1f} ({getattr(record[ACHIEVED], rate):,.1f})"


def gpu_ms(record: Record, gpu: str, kind: str) -> float:
    """Milliseconds of a GPU's work at a kind of rates."""
    return sum(record["parts"]["ms"][gpu][kind].values())


def _gpu_column(gpu: str) -> Cell:
    def cell(record: Record) -> str:
        times = [gpu_ms(record, gpu, kind) for kind in (DATASHEET, ACHIEVED)]
        bound = ", host-bound" if times[1] < record["host_ms"] else ""
        return f"{times[0]:.1f} ({times[1]:.1f}{bound})"

    return cell


_COLUMNS: dict[str, Cell] = {
    "predicted": lambda r: r["variant"],
    "TFLOP": lambda r: f"{r['tflop']:.2f}",
    "GB": lambda r: f"{r['gb']:,.1f}",
    "kernel launches": lambda r: f"{r['kernel_launches']:,}",
    "host ms": lambda r: f"{r['host_ms']:.1f}",
    **{f"{gpu.name} ms, datasheet (achieved)": _gpu_column(gpu.name) for gpu in GPUS},
}


def _measured_columns(record: Record, devices: list[Results]) -> dict[str, Cell]:
    """A column for each device with measured steps of the case: milliseconds, and clips per second."""
    columns: dict[str, Cell] = {}
    for results in devices:
        found = {
            r["variant"]: r
            for r in results["records"]
            if r["suite"] == "model" and (r["name"], r["case"]) == (record["name"], record["case"]) and "p50_ms" in r
        }
        if found:
            columns[f"measured on {results['device']} ms"] = lambda r, found=found: (  # type: ignore[misc]
                f"{found[r['variant']]['p50_ms']:.1f}"
            )
    return columns


def _by_part(name: str, case: str, rows: list[Record]) -> str:
    """Where the time goes: a row a part, a column a variant."""
    kinds = {row["variant"]: row["parts"]["ms"][SHOWN_BY_PART][DATASHEET] for row in rows}
    columns: dict[str, Cell] = {"part": lambda r: r["variant"]}
    for variant in kinds:
        columns[variant] = lambda r, variant=variant: f"{r[variant]:.1f}"  # type: ignore[misc]
    table = [
        {"variant": part, **{variant: ms[part] for variant, ms in kinds.items() if part in ms}}
        for part in PARTS
        if any(part in ms for ms in kinds.values())
    ]
    least = {variant: ms.get(MATRIX, 0.0) + ms.get(ATTENTION, 0.0) for variant, ms in kinds.items()}
    table.append({"variant": f"{MATRIX} and {ATTENTION} alone", **least})
    table.append({"variant": "**all**", **{variant: sum(ms.values()) for variant, ms in kinds.items()}})
    where = f"{SHOWN_BY_PART} at datasheet rates, ViT-{name}, {case.split(',')[0]}"
    return f"Predicted milliseconds by part, {where}:\n\n{markdown_table(columns, table)}"
