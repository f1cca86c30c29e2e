"""Markdown tables of captioners: the loss of next tokens measured and predicted, parameters, and predicted steps."""

from benchmarks.harness.markdown import Cell, markdown_table
from benchmarks.harness.results import Record, by_case

LOSS = (
    "The loss of next tokens, with the gradients of the rows that the head reads and of its adapter, if it has one; "
    "the head is frozen. Half of each text of 512 tokens are answers. All logits are those of every token, in float32 "
    "as causal language models of Hugging Face compute them; ours are those of the answers, in tiles."
)
PARAMETERS = "Parameters of the settings in `examples/configs/caption`, in millions, and of these the trained ones:"
STEP = (
    "Clips that fit are of an A100 with 80 GB. All tokens of a text but the first count as answers. The language model "
    "is in bfloat16, all that is trained in float32, and the tower is trained. What is repeated are all blocks of the "
    "tower and all layers of the language model."
)
_PARTS = {
    "vision_encoder": "video tower",
    "connector": "connector",
    "cross_attention": "gated cross-attention",
    "language_model": "language model",
    "adapters": "adapters",
}


def format_caption(records: list[Record]) -> str:
    """Measured losses; predicted losses, parameters and steps."""
    measured = [record for record in records if not record["predicted"]]
    parameters = [record for record in records if "trained" in record]
    steps = [record for record in records if "largest_batch" in record]
    losses = [record for record in records if record["predicted"] and record not in (*parameters, *steps)]
    parts = [LOSS] if measured or losses else []
    for name, case, rows in by_case(measured):
        error = max((row["error"] for row in rows if "error" in row), default=0.0)
        checked = f"Checked first: loss and gradients differ from those in float32 by {error:.1e} at most (relative)."
        parts.append(f"Loss of {name}, {case}. {checked}\n\n{_loss_table(rows)}")
    if losses:
        parts.append(f"Predicted memory of the loss, MiB:\n\n{_predicted_loss_table(losses)}")
    if parameters:
        parts.append(f"{PARAMETERS}\n\n{_parameter_table(parameters)}")
    for _, case, rows in by_case(steps):
        parts.append(f"Predicted step of `caption`, {case}, memory in MiB. {STEP}\n\n{_step_table(rows)}")
    return "\n\n".join(parts)


def _loss_table(rows: list[Record]) -> str:
    first = rows[0]
    columns: dict[str, Cell] = {
        "": lambda r: r["variant"],
        "ms": lambda r: f"{r['p50_ms']:,.0f}",
        "speed": lambda r: f"{first['p50_ms'] / r['p50_ms']:.2f}x",
        "peak MiB": lambda r: f"{r['peak_mib']:,.0f}",
        "memory": lambda r: f"{r['peak_mib'] / first['peak_mib']:.3f}x",
    }
    return markdown_table(columns, rows)


def _predicted_loss_table(rows: list[Record]) -> str:
    """The peak above weights and rows, a row each case."""
    found = [{"name": name, "case": case, **{r["variant"]: r for r in of}} for name, case, of in by_case(rows)]
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    first, last = variants[0], variants[-1]
    columns: dict[str, Cell] = {"predicted": lambda r: r["name"], "loss": lambda r: r["case"]}
    for variant in variants:
        columns[variant] = lambda r, v=variant: f"{r[v]['peak_mib']:,.0f}"  # type: ignore[misc]
    columns["memory"] = lambda r: f"{r[last]['peak_mib'] / r[first]['peak_mib']:.3f}x"
    return markdown_table(columns, found)


def _parameter_table(rows: list[Record]) -> str:
    def cell(part: str) -> Cell:
        def of(record: Record) -> str:
            size, trained = record["parameters_of"][part], record["trained_of"][part]
            return f"{size / 1e6:,.1f}, trained {trained / 1e6:,.1f}" if size else ""

        return of

    columns: dict[str, Cell] = {
        "settings": lambda r: f"`{r['name']}`",
        "models": lambda r: r["case"],
        **{title: cell(part) for part, title in _PARTS.items()},
        "all": lambda r: f"{r['parameters'] / 1e6:,.1f}",
        "trained": lambda r: f"{r['trained'] / 1e6:,.1f}",
        "share": lambda r: f"{r['trained'] / r['parameters']:.1%}",
    }
    return markdown_table(columns, rows)


def _step_table(rows: list[Record]) -> str:
    columns: dict[str, Cell] = {
        "predicted": lambda r: r["variant"],
        "weights": lambda r: f"{r['parameters_mib']:,.0f}",
        "gradients": lambda r: f"{r['gradients_mib']:,.0f}",
        "optimizer": lambda r: f"{r['optimizer_mib']:,.0f}",
        "activations": lambda r: f"{r['activations_mib']:,.0f}",
        "total peak": lambda r: f"{r['total_mib']:,.0f}",
        "of a further clip": lambda r: f"{r['mib_per_clip']:,.0f}",
        "clips that fit": lambda r: f"{r['largest_batch']:,}",
    }
    return markdown_table(columns, rows)
