"""Markdown tables of benchmark results. Ratios are within one run; every table says what it was measured on."""

from collections.abc import Iterable, Sequence

from benchmarks.align.sizes import PUBLISHED_SIZES
from benchmarks.caption.tables import format_caption
from benchmarks.contrast.tables import format_contrast
from benchmarks.harness.markdown import Cell, markdown_table
from benchmarks.harness.results import PREDICTED, Record, Results, by_case, pictures, size_of
from benchmarks.harness.step_tables import format_alignment, format_finetuning, format_memory, format_steps
from benchmarks.harness.targets import COMPILED, OURS, PUBLISHED, REWRITE, shortfalls
from benchmarks.roofline.tables import format_rooflines

NO_GPU = (
    "**No figure has been measured on a GPU yet.** All figures for GPUs below are predictions and are marked as such."
)
LEFT_TO_THE_OPS = "Our loader leaves the resize to the ops of the training step, except for very large frames."
LEFT_TO_THE_DEVICE = "Our loader leaves resampling, colour ops, normalising and erasing to the device."
IMAGES = "images"  # of docs/, beside the page that shows them
# In a report, of ops and predictions; the result files have whatever was run.
SHOWN_SIZES = ("base", "giant", *PUBLISHED_SIZES)


def format_report(devices: Iterable[Results], earlier: Results | None = None) -> str:
    """All results, device by device, predicted ones last. `earlier`: predictions to show beside those of now."""
    devices = list(devices)
    measured = [results for results in devices if on_gpu(results)]
    parts = [] if measured else [NO_GPU]
    return "\n\n".join(parts + [format_results(results, earlier, measured) for results in devices])


def shown(results: Results) -> Results:
    """The part of results that a report shows: all steps and loading, but only SHOWN_SIZES of ops and predictions.

    Predictions of captioners are not of these sizes, and all are shown.
    """
    records = [r for r in results["records"] if _is_shown(r)]
    return {**results, "records": records}


def _is_shown(record: Record) -> bool:
    every = record["suite"] == "caption" or (record["suite"] != "ops" and not record["predicted"])
    return every or size_of(record) in SHOWN_SIZES


def on_gpu(results: Results) -> bool:
    """Whether results were measured on a GPU."""
    return results.get("driver", "none") != "none"


def format_results(results: Results, earlier: Results | None = None, measured: Sequence[Results] = ()) -> str:
    """The tables of one device. For predicted times: those of `earlier`, and the times of `measured`, stand beside."""

    def rooflines(records: list[Record]) -> str:
        return format_rooflines(records, earlier, measured)

    suites = {
        "model": format_steps,
        "finetune": format_finetuning,
        "align": format_alignment,
        "contrast": format_contrast,
        "caption": format_caption,
        "loader": _loading,
        "evaluate": _evaluation,
        "ops": _ops,
        "roofline": rooflines,
        "memory": format_memory,
    }
    parts = [_origin(results)]
    for suite, table in suites.items():
        records = [record for record in results["records"] if record["suite"] == suite]
        if records:
            parts.append(table(records))
    missed = shortfalls(results)
    if missed:
        parts.append("Ops that miss their number, the furthest first:\n\n" + "\n".join(f"* {op}" for op in missed))
    parts += [f"![{name}]({IMAGES}/{name})" for name in pictures(results)]
    return "\n\n".join(parts)


def _origin(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    if results["device"] == PREDICTED:
        others = "".join(f", {suite} at {commit}" for suite, commit in results.get("commits", {}).items())
        return (
            "### Predicted\n\nNot measured: computed from shapes, for any GPU. "
            f"{versions}, commit {results['commit']}{others}."
        )
    parts = [versions, f"{results['threads']} CPU threads", f"commit {results['commit']}", results["date"][:10]]
    if on_gpu(results):
        parts.insert(0, f"driver {results['driver']}")
    if results.get("copy_gb_per_s"):
        parts.append(f"copy bandwidth {results['copy_gb_per_s']:,.0f} GB/s")
    return f"### {results['device']}\n\nMeasured with {', '.join(parts)}."


def _loading(records: list[Record]) -> str:
    """One table a case, with ratios to its first row."""
    parts = []
    for name, case, rows in by_case(records):
        about = f"Loading, videos of {name}, {case}: processor time of one thread, {rows[0]['processor']}."
        error = {what: value for row in rows for what, value in row.get("error", {}).items()}
        parts.append(f"{about} {_pixels_checked(error)}\n\n{_loading_table(rows)}")
    return "\n\n".join(parts)


def _pixels_checked(error: dict[str, float]) -> str:
    if "other draws" not in error:
        errors = [f"{e:.2f} of 255 (resize {resize})" for resize, e in error.items()]
        checked = f"Checked first: pixels differ from the published pixels by at most {', '.join(errors)}."
        return f"{checked} {LEFT_TO_THE_OPS}"
    return (
        f"Checked first: with the same draws, pixels of `--augment pillow` equal the published ones (at most "
        f"{error['pillow']:.3f} of 255). Those of the default are only alike: it resamples once and takes colour "
        f"statistics of the crop: {error['device']:.1f} of 255 in the mean, where published clips with other draws "
        f"differ by {error['other draws']:.1f}. {LEFT_TO_THE_DEVICE}"
    )


def _loading_table(rows: list[Record]) -> str:
    first = rows[0]
    columns: dict[str, Cell] = {
        "": lambda r: r["variant"],
        "clips/s per core": lambda r: f"{r['clips_per_s']:,.1f}",
        "speed": lambda r: f"{first['p50_ms'] / r['p50_ms']:.2f}x",
        "CPU ms per clip": lambda r: f"{r['p50_ms'] / r['clips']:.2f}",
        "decode": lambda r: f"{r['decode_ms']:.2f}",
        "augment": lambda r: f"{r['augment_ms']:.2f}",
        "collate": lambda r: f"{r['collate_ms']:.2f}",
        "bytes to the GPU per clip": lambda r: f"{r['bytes_to_device_per_clip']:,.0f}",
        "share of published": lambda r: f"{r['bytes_to_device_per_clip'] / first['bytes_to_device_per_clip']:.1%}",
    }
    return markdown_table(columns, rows)


def _evaluation(records: list[Record]) -> str:
    """One table a case, with ratios to its first row."""
    parts = []
    for name, case, rows in by_case(records):
        error = {what: value for row in rows for what, value in row.get("error", {}).items()}
        about = f"Videos of {name}, {case}: processor time of one thread, {rows[0]['processor']}."
        parts.append(f"{about} {_evaluation_checked(error)}\n\n{_evaluation_table(rows)}")
    return "\n\n".join(parts)


def _evaluation_checked(error: dict[str, float]) -> str:
    if "logits" in error:
        return (
            f"Checked first: logits of a small classifier differ from those of the published procedure by "
            f"{error['logits']:.1e} (relative), and pixels by at most {error['pixels']:.2f} of 255 where OpenCV "
            "resizes. Both are timed with the same resize. Ours leaves normalising to the model."
        )
    return (
        f"Checked first: our windows, rounded, differ by at most {error['pixels']:.2f} of 255 from the published ones."
    )


def _evaluation_table(rows: list[Record]) -> str:
    first = rows[0]
    columns: dict[str, Cell] = {
        "": lambda r: r["variant"],
        "CPU ms per clip": lambda r: f"{r['p50_ms'] / r['clips']:.2f}",
        "CPU time": lambda r: f"{r['p50_ms'] / first['p50_ms']:.3f}x",
        "frames read": lambda r: f"{r['frames_read']:,}",
        "frames": lambda r: f"{r['frames_read'] / first['frames_read']:.3f}x",
        "bytes to the GPU per clip": lambda r: f"{r['bytes_to_device_per_clip']:,.0f}",
        "share of published": lambda r: f"{r['bytes_to_device_per_clip'] / first['bytes_to_device_per_clip']:.1%}",
    }
    return markdown_table(columns, rows)


def _ops(records: list[Record]) -> str:
    """One table a size, a row for each case of an op: our figures, and how they compare."""
    parts = []
    for size in dict.fromkeys(r["size"] for r in records):
        cases = by_case(r for r in records if r["size"] == size)
        rows = [_op_row(variants) for _, _, variants in cases]
        attention = [r for r in records if r["size"] == size and r["name"].startswith("attention")]
        ours = [row for row in rows if row]
        if ours:
            parts.append(
                f"Ops at the shapes of ViT-{size}, cold caches, medians:\n\n" + markdown_table(_OP_COLUMNS, ours)
            )
        if attention:
            parts.append(f"Attention at the shapes of ViT-{size}:\n\n" + markdown_table(_ATTENTION_COLUMNS, attention))
    return "\n\n".join(parts)


def _op_row(variants: list[Record]) -> Record | None:
    by_name = {record["variant"]: record for record in variants if "not_run" not in record}
    if OURS not in by_name:
        return None
    return {**by_name[OURS], "others": by_name}


def _faster(record: Record, other: str) -> str:
    return f"{record['others'][other]['p50_ms'] / record['p50_ms']:.2f}x"


_OP_COLUMNS: dict[str, Cell] = {
    "op": lambda r: r["name"],
    "": lambda r: r["case"].removeprefix(f"ViT-{r['size']}, "),
    "ms": lambda r: f"{r['p50_ms']:.3f}",
    "GB/s": lambda r: f"{r['gb_per_s']:,.1f}",
    "share of copy": lambda r: f"{r['roofline']:.0%}",
    "against published": lambda r: _faster(r, PUBLISHED),
    "against rewrite": lambda r: _faster(r, REWRITE),
    "against rewrite + compile": lambda r: _faster(r, COMPILED),
    "peak MiB": lambda r: f"{r['peak_mib']:,.1f}",
    "published peak MiB": lambda r: f"{r['others'][PUBLISHED]['peak_mib']:,.1f}",
    "kernel launches": lambda r: f"{r['kernel_launches']:,}",
    "host syncs": lambda r: f"{r['syncs']:,}",
}
_ATTENTION_COLUMNS: dict[str, Cell] = {
    "": lambda r: f"{r['name'].removeprefix('attention, ')}, {r['case'].removeprefix('ViT-' + r['size'] + ', ')}",
    "backend": lambda r: r["variant"],
    "ms": lambda r: f"{r['p50_ms']:.3f}",
    "peak MiB": lambda r: f"{r['peak_mib']:,.1f}",
}
