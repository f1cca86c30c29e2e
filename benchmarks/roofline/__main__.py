"""`python -m benchmarks.roofline`: where the predicted time of a step on this GPU is wrong, part by part.

The rates of this GPU are measured first: a large matrix product, attention, a large copy. A step is then predicted at
those rates, timed, and profiled; the profiler's time of each operation on the GPU is summed over the same parts.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from benchmarks.harness.counts import count
from benchmarks.harness.markdown import markdown_table
from benchmarks.harness.measure import host_seconds, machine, median_seconds
from benchmarks.harness.profiler import profile
from benchmarks.harness.run import ROOT
from benchmarks.model.contenders import StepCase
from benchmarks.model.steps import make_step
from benchmarks.roofline.devices import Rates, measure_rates
from benchmarks.roofline.test_predicted import count_work, figures
from benchmarks.roofline.traffic import OURS
from benchmarks.roofline.work import CASTS, PARTS, WEIGHTS, part_named
from benchmarks.settings import SIZES
from videomae_fast.memory.fake_cuda import DEVICE
from videomae_kernels._custom_op import NAMESPACE

VARIANTS = ("published + SDPA", "videomae_fast")
ROUNDS = 10


def main(argv: list[str] | None = None) -> None:
    """Predict, measure and print, one step after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("--size", action="append", choices=tuple(SIZES), help="may be repeated (default: base)")
    parser.add_argument("--batch-size", type=int, default=128, help="clips (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the figures as JSON")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = measure_rates(device, 8192 if device.type == "cuda" else 512)
    about = {**machine(ROOT, device), "rates": asdict(rates)}
    print(f"{about['device']}, measured: " + ", ".join(f"{name} {rate:,.4g}" for name, rate in asdict(rates).items()))
    records = []
    for size in args.size or ["base"]:
        for variant in VARIANTS:
            case = StepCase(size, "bf16", 0.9, 0.5, args.batch_size, device)
            records.append(compare(case, variant, rates))
            print(f"\n{variant}, ViT-{size}, {case}\n\n{table(records[-1])}", flush=True)
            if args.output:
                args.output.write_text(json.dumps({**about, "records": records}, indent=1) + "\n", encoding="utf-8")


def compare(case: StepCase, variant: str, rates: Rates) -> dict[str, Any]:
    """Predicted and measured milliseconds of a step, and of its parts."""
    found = figures(count_work(replace(case, device=DEVICE), variant), {"here": {"measured": rates}})
    predicted = _with_copies_together(found["parts"]["ms"]["here"]["measured"])
    step = make_step(variant, case.inputs(), case.precision)
    for _ in range(2):  # makes optimizer state
        step()
    return {
        "name": case.size,
        "case": str(case),
        "variant": variant,
        "predicted_ms": sum(predicted.values()),
        "measured_ms": median_seconds(step, case.device, ROUNDS) * 1e3,
        "host_ms": host_seconds(step, case.device) * 1e3,
        "kernel_launches": found["kernel_launches"],
        "measured_kernel_launches": count(step, case.device).kernel_launches,
        "parts": {"predicted": predicted, "measured": _with_copies_together(profiled_parts(step, case.device))},
    }


def profiled_parts(step: Any, device: torch.device) -> dict[str, float]:
    """Milliseconds of a step's parts by the profiler: time on the GPU, or of a CPU where there is none."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as run:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return sum_parts(run.key_averages(), device.type == "cuda")


def sum_parts(events: Iterable[Any], on_gpu: bool) -> dict[str, float]:
    """Milliseconds by part, of the profiler's averages of operations. Kernels have rows of their own: left out."""
    parts: dict[str, float] = {}
    for event in events:
        space, _, name = event.key.rpartition("::")
        if event.device_type == DeviceType.CPU and space:
            spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            part = OURS[name].part if space == NAMESPACE and name in OURS else part_named(name)
            parts[part] = parts.get(part, 0.0) + spent / 1e3
    return parts


def _with_copies_together(parts: dict[str, float]) -> dict[str, float]:
    """A profiler does not tell copies of weights from other casts."""
    together = sum(parts.get(part, 0.0) for part in (CASTS, WEIGHTS))
    return {part: ms for part, ms in parts.items() if part not in (CASTS, WEIGHTS)} | {CASTS: together}


def table(record: dict[str, Any]) -> str:
    """Parts in Markdown, and the step."""
    predicted, measured = record["parts"]["predicted"], record["parts"]["measured"]
    rows = [
        {"part": part, "predicted": predicted.get(part, 0.0), "measured": measured.get(part, 0.0)}
        for part in PARTS
        if part in predicted or part in measured
    ]
    rows.append({"part": "**step**", "predicted": record["predicted_ms"], "measured": record["measured_ms"]})
    columns = {
        "": lambda r: r["part"],
        "predicted ms": lambda r: f"{r['predicted']:.2f}",
        "measured ms": lambda r: f"{r['measured']:.2f}",
        "measured / predicted": lambda r: f"{r['measured'] / r['predicted']:.2f}" if r["predicted"] else "",
    }
    launches = f"{record['kernel_launches']:,} predicted, {record['measured_kernel_launches']:,} measured"
    return f"{markdown_table(columns, rows)}\n\nHost {record['host_ms']:.1f} ms; kernel launches: {launches}."


if __name__ == "__main__":
    main()
