"""`videomae-fast bench`: the plain published implementation against ours, same weights and inputs, on this machine.

Both run in one process, step by step in turn, so that whatever else the machine does hits both. Nothing is timed
before loss and gradients agree.
"""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..masks import make_masks
from ..models import VideoMAEForPretraining, get_config
from .measure import commit, device_name, peak_mib, time_step

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, where the baselines are
LOSS_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2}  # relative
GRADIENT_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}  # relative, of the norm of the difference


class DisagreementError(RuntimeError):
    """The implementations to be compared do not compute the same; nothing was timed."""


@dataclass(frozen=True)
class Result:
    """One implementation: seconds per step, clips per second, and peak MiB above what is allocated before the step."""

    name: str
    seconds: float
    clips_per_second: float
    peak_mib: float


def run_bench(model: str, batch_size: int, steps: int) -> dict[str, Any]:
    """Measure a training step (forward, loss, backward, AdamW) of both implementations; raises if they disagree."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = "bf16" if device.type == "cuda" else "fp32"
    variants = _make_variants(model, batch_size, device, precision)
    agreement = _check_agreement(variants, precision)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(steps):
        for name, variant in variants.items():
            seconds[name].append(time_step(variant.step, device))
    results = []
    for name, variant in variants.items():
        median = statistics.median(seconds[name])
        results.append(Result(name, median, batch_size / median, peak_mib(variant.step, device)))
    return {
        "model": model,
        "batch_size": batch_size,
        "steps": steps,
        "device": device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit(ROOT),
        "agreement": agreement,
        "results": [asdict(result) for result in results],
    }


def format_table(report: dict[str, Any]) -> str:
    """The report as a Markdown table with ratios to the first row."""
    first = report["results"][0]
    lines = [
        f"ViT-{report['model']}, {report['batch_size']} clips of 16x224x224, {report['precision']}, "
        f"{report['device']}, {report['threads']} threads, torch {report['torch']}, commit {report['commit']}. "
        f"Checked first: loss differs by {report['agreement']['loss']:.1e}, gradients by "
        f"{report['agreement']['gradient']:.1e} (relative).",
        "",
        "| | s/step | clips/s | speed | peak MiB above weights, optimizer, input | memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["results"]:
        lines.append(
            f"| {row['name']} | {row['seconds']:.3f} | {row['clips_per_second']:.2f} "
            f"| {first['seconds'] / row['seconds']:.2f}x | {row['peak_mib']:,.0f} "
            f"| {row['peak_mib'] / first['peak_mib']:.2f}x |"
        )
    return "\n".join(lines)


def save_report(report: dict[str, Any], path: Path) -> None:
    """Write the report as JSON."""
    path.write_text(json.dumps(report, indent=2) + "\n")


class _Variant:
    """A model, its optimizer and its loss on fixed inputs."""

    def __init__(self, model: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.model, self.loss = model, loss
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()


def _make_variants(size: str, batch: int, device: torch.device, precision: str) -> dict[str, _Variant]:
    baseline = _import_baseline()
    torch.manual_seed(0)
    config = get_config(size)
    ours = VideoMAEForPretraining(config).to(device)
    published = baseline.PublishedVideoMAE.from_config(config).to(device)
    published.load_state_dict(ours.state_dict())
    clip = torch.randn(batch, 3, config.num_frames, *config.image_size, device=device)
    plan = make_masks(torch.arange(batch, device=device), config.grid)
    full = torch.ones(batch, config.num_tokens, dtype=torch.bool, device=device)
    hidden, not_decoded = full.scatter(1, plan.visible, False), full.scatter(1, plan.decode, False)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def published_loss() -> Tensor:
        with autocast():
            predictions = published(clip, hidden, not_decoded)
        return baseline.published_loss(predictions, clip, hidden, not_decoded, config.patch)

    def our_loss() -> Tensor:
        with autocast():
            return ours(clip, plan)

    return {"published": _Variant(published, published_loss), "videomae_fast": _Variant(ours, our_loss)}


def _import_baseline() -> Any:
    """`benchmarks.baselines.published`, which lives in the repository and not in the wheel."""
    if not (ROOT / "benchmarks" / "baselines" / "published.py").is_file():
        raise FileNotFoundError("bench compares with benchmarks/baselines: run it from a checkout of the repository")
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    from benchmarks.baselines import published

    return published


def _check_agreement(variants: dict[str, _Variant], precision: str) -> dict[str, float]:
    """Relative differences of loss and gradient between the two; DisagreementError when they are not rounding."""
    losses, gradients = [], []
    for variant in variants.values():
        variant.optimizer.zero_grad(set_to_none=True)
        loss = variant.loss()
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: p.grad for name, p in variant.model.named_parameters() if p.grad is not None})
    worst = max(
        float((ours - gradients[0][name]).norm() / gradients[0][name].norm()) for name, ours in gradients[1].items()
    )
    found = {"loss": abs(losses[1] - losses[0]) / abs(losses[0]), "gradient": worst}
    if not (found["loss"] < LOSS_TOLERANCE[precision] and found["gradient"] < GRADIENT_TOLERANCE[precision]):
        raise DisagreementError(f"the two implementations disagree, so nothing was timed: {found}")
    for variant in variants.values():
        variant.step()  # allocates optimizer state and warms up
    return found
