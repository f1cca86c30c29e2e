"""Markdown tables of steps: measured pre-training and fine-tuning, and what is predicted of both."""

from benchmarks.harness.markdown import Cell, markdown_table
from benchmarks.harness.results import Record, by_case
from benchmarks.harness.targets import PUBLISHED

FUSED = "published + SDPA"
EXPECTED = (
    "Every branch keeps the expected number of clips. FLOPs are those of matrix products and attention. Fused "
    "attention repeats a product in backward, which counts: FLOPs are also compared with the published code on the "
    "same attention."
)

ALIGNED = (
    "The teachers of 1b and 6b are InternVL-C's image encoder (5.9 billion parameters) and VideoMAE V2's ViT-g, whose "
    "weights are counted, too. An update is the gradient of one masked clip; FLOPs are those of matrix products and "
    "attention. No paths are dropped. The student's weights, gradients and optimizer state are float32 on one GPU in "
    "all; clips that fit on 80 GB are counted without that state, which the published scripts shard over all GPUs. "
    "Under DeepSpeed the published student has bf16 weights and gradients, 4 bytes a parameter less."
)


def format_steps(records: list[Record], step: str = "Training step", model: str = "ViT") -> str:
    """One table a case, with ratios to its first row."""
    parts = []
    for name, case, rows in by_case(records):
        errors = [row["error"] for row in rows if "error" in row]
        loss, gradient = (max((error[what] for error in errors), default=0.0) for what in ("loss", "gradient"))
        checked = f"Checked first: losses differ by {loss:.1e} at most, gradients by {gradient:.1e} (relative)."
        parts.append(f"{step}, {model}-{name}, {case}. {checked}\n\n{_step_table(rows)}")
    return "\n\n".join(parts)


def _step_table(rows: list[Record]) -> str:
    first = rows[0]
    columns: dict[str, Cell] = {
        "": lambda r: r["variant"],
        "s/step": lambda r: f"{r['p50_ms'] / 1e3:.3f}",
        "clips/s": lambda r: f"{r['clips_per_s']:,.2f}",
        "speed": lambda r: f"{first['p50_ms'] / r['p50_ms']:.2f}x",
        "peak MiB above weights, optimizer, inputs": lambda r: f"{r['peak_mib']:,.0f}",
        "memory": lambda r: f"{r['peak_mib'] / first['peak_mib']:.2f}x",
        "total peak MiB": lambda r: f"{r['total_mib']:,.0f}",
        "kernel launches": lambda r: f"{r['kernel_launches']:,}",
        "host syncs": lambda r: f"{r['syncs']:,}",
        "largest batch": lambda r: f"{r['largest_batch']:,}",
    }
    return markdown_table(columns, rows)


def format_finetuning(records: list[Record]) -> str:
    """Measured steps, or predictions with ratios to the first row of a case."""
    measured = [record for record in records if not record["predicted"]]
    parts = [format_steps(measured, "Fine-tuning step")] if measured else []
    predicted = [record for record in records if record["predicted"]]
    if predicted:
        parts.append(f"Predicted fine-tuning steps. {EXPECTED}")
    for name, case, rows in by_case(predicted):
        parts.append(f"Predicted fine-tuning step, ViT-{name}, {case}, memory in MiB:\n\n{_finetuning_table(rows)}")
    return "\n\n".join(parts)


def _finetuning_table(rows: list[Record]) -> str:
    flops = {row["variant"]: row["tflop_per_clip"] for row in rows}
    columns: dict[str, Cell] = {
        "predicted": lambda r: r["variant"],
        "TFLOP per clip": lambda r: f"{r['tflop_per_clip']:.3f}",
        "FLOPs": lambda r: f"{r['tflop_per_clip'] / flops[PUBLISHED]:.3f}x",
        f"FLOPs against {FUSED}": lambda r: f"{r['tflop_per_clip'] / flops[FUSED]:.3f}x",
        **_memory_columns(rows[0]),
        "kernel launches": lambda r: f"{r['kernel_launches']:,}",
        "host syncs": lambda r: f"{r['syncs']:,}",
    }
    return markdown_table(columns, rows)


def format_alignment(records: list[Record]) -> str:
    """Measured steps; predictions in one table a size, whatever the masks per clip, with ratios to its first row."""
    measured = [record for record in records if not record["predicted"]]
    parts = [format_steps(measured, "Alignment step", "InternVideo2")] if measured else []
    predicted = [record for record in records if record["predicted"]]
    if predicted:
        parts.append(f"Predicted alignment steps. {ALIGNED}")
    for name in dict.fromkeys(record["name"] for record in predicted):
        rows = [record for record in predicted if record["name"] == name]
        case = rows[0]["case"].rpartition(",")[0]
        table = _alignment_table(rows)
        parts.append(f"Predicted alignment step, InternVideo2-{name}, {case}, memory in MiB:\n\n{table}")
    return "\n\n".join(parts)


def _alignment_table(rows: list[Record]) -> str:
    first = rows[0]
    columns: dict[str, Cell] = {
        "predicted": lambda r: r["variant"],
        "masks per clip": lambda r: f"{r['masks']}",
        "TFLOP per masked clip": lambda r: f"{r['tflop_per_clip']:.2f}",
        "of teachers": lambda r: f"{r['teacher_tflop_per_clip']:.2f}",
        "updates per FLOP": lambda r: f"{first['tflop_per_clip'] / r['tflop_per_clip']:.2f}x",
        **_memory_columns(first),
        "kernel launches": lambda r: f"{r['kernel_launches']:,}",
        "host syncs": lambda r: f"{r['syncs']:,}",
        "masked clips that fit": lambda r: "" if r["largest_batch"] is None else f"{r['largest_batch']:,}",
    }
    return markdown_table(columns, rows)


def format_memory(records: list[Record]) -> str:
    """One table a case, predicted, with ratios to its first row."""
    return "\n\n".join(
        f"Predicted memory of a training step, ViT-{name}, {case}, MiB:\n\n" + _memory_table(rows)
        for name, case, rows in by_case(records)
    )


def _memory_table(rows: list[Record]) -> str:
    columns: dict[str, Cell] = {
        "predicted": lambda r: r["variant"],
        **_memory_columns(rows[0]),
        "bytes to the GPU per clip": lambda r: f"{r['bytes_to_device_per_clip']:,.0f}",
        "kernel launches": lambda r: f"{r['kernel_launches']:,}",
        "host syncs": lambda r: f"{r['syncs']:,}",
    }
    return markdown_table(columns, rows)


def _memory_columns(first: Record) -> dict[str, Cell]:
    """With ratios to `first`."""
    return {
        "peak above weights, optimizer, inputs": lambda r: f"{r['peak_mib']:,.0f}",
        "memory": lambda r: f"{r['peak_mib'] / first['peak_mib']:.2f}x",
        "total peak": lambda r: f"{r['total_mib']:,.0f}",
        "total memory": lambda r: f"{r['total_mib'] / first['total_mib']:.2f}x",
        "activations": lambda r: f"{r['activations_mib']:,.0f}",
        "temporaries": lambda r: f"{r['temporaries_mib']:,.0f}",
        "gradients": lambda r: f"{r['gradients_mib']:,.0f}",
        "weights, optimizer": lambda r: f"{r['parameters_mib'] + r['optimizer_mib']:,.0f}",
        "inputs": lambda r: f"{r['inputs_mib']:,.0f}",
    }
