"""Markdown tables of contrastive steps, measured and predicted."""

from benchmarks.harness.markdown import Cell, markdown_table
from benchmarks.harness.results import Record
from benchmarks.harness.step_tables import format_steps

ABOUT = (
    'LongViViT has no public code. "Naive" is its plain form, written by us: normalised float32 clips, all tokens '
    "embedded before boolean masks drop some, the blocks of the published VideoMAE V2 with PyTorch's fused attention, "
    "the logits of all pairs at once. The text tower, a BERT of transformers, is the same in all and is trained; ours "
    "could also keep the features of a frozen one, which is not counted. Where the last 4 blocks are trained, naive "
    "code trains all, or sets `requires_grad = False` for what is before them."
)
CHECKED = "On a CPU our towers look at the values of captions to check them, which counts as host syncs there only."
PREDICTED = (
    "Predicted contrastive steps. A further clip is what doubling the batch adds, per clip. Clips that fit are of an "
    "A100 with 80 GB, weights and optimizer included. FLOPs are of matrix products and attention. Host syncs leave "
    "out one of naive code: transformers asks the device in each step whether captions have padding."
)


def format_contrast(records: list[Record]) -> str:
    """Measured steps; predictions in one table for each number of frames, with ratios to its naive code."""
    measured = [record for record in records if not record["predicted"]]
    parts = [f"Contrastive steps of a video tower and a text tower. {ABOUT}"]
    parts += [CHECKED, format_steps(measured, "Contrastive step")] if measured else []
    predicted = [record for record in records if record["predicted"]]
    parts += [PREDICTED] if predicted else []
    for name, frames in dict.fromkeys((record["name"], record["frames"]) for record in predicted):
        rows = [record for record in predicted if (record["name"], record["frames"]) == (name, frames)]
        case = rows[0]["case"].rpartition(",")[0]
        parts.append(f"Predicted contrastive step, ViT-{name}, {case}:\n\n{_predicted_table(rows)}")
    return "\n\n".join(parts)


def _predicted_table(rows: list[Record]) -> str:
    """By mask ratio, each with ratios to its first row."""
    first: dict[float, Record] = {}
    for row in rows:
        first.setdefault(row["mask_ratio"], row)
    columns: dict[str, Cell] = {
        "predicted": lambda r: r["variant"],
        "mask ratio": lambda r: f"{r['mask_ratio']}",
        "MiB of a further clip": lambda r: f"{r['mib_per_clip']:,.0f}",
        "memory of a clip": lambda r: f"{r['mib_per_clip'] / first[r['mask_ratio']]['mib_per_clip']:.2f}x",
        "clips that fit": lambda r: f"{r['largest_batch']:,}",
        "total peak MiB": lambda r: f"{r['total_mib']:,.0f}",
        "peak above weights, optimizer, inputs": lambda r: f"{r['peak_mib']:,.0f}",
        "TFLOP per clip": lambda r: f"{r['tflop_per_clip']:.2f}",
        "kernel launches": lambda r: f"{r['kernel_launches']:,}",
        "host syncs": lambda r: f"{r['syncs']:,}",
    }
    return markdown_table(columns, sorted(rows, key=lambda row: row["mask_ratio"]))
