"""`videomae-fast profile`: where the memory of a pre-training step goes, here and in the published code, and why.

Predictions for a GPU (`report.predict`); where torch sees a GPU, its measured peaks stand beside them.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from videomae_fast._optional import require
from videomae_fast.memory.allocations import CATEGORIES
from videomae_fast.memory.predict import CARDS, largest_batch, measure_step, predict_step
from videomae_fast.memory.profile import MemoryProfile
from videomae_fast.models import get_config

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, where the published code's model is
PUBLISHED, OURS = "published", "videomae_fast"
COMPARED = (PUBLISHED, "published, checkpointed", "published + SDPA", OURS, "videomae_fast, checkpointed")
RESIDENT = ("parameters", "optimizer state", "buffers", "inputs")  # there before the step begins
MASK_RATIOS = (0.75, 0.9, 0.95)
DECODER_MASK_RATIOS = (0.0, 0.25, 0.5, 0.75)
Predict = Callable[..., MemoryProfile]  # of (implementation, batch size, encoder ratio, decoder ratio)


def profile_report(
    size: str,
    batch_size: int,
    mask_ratio: float,
    decoder_mask_ratio: float,  # 0: no decoder mask
    precision: str,  # "bf16" (autocast) or "fp32"
    picture: Path | None,  # also draw the step's memory, in the format of the suffix
) -> str:
    """The report as Markdown. FileNotFoundError outside a checkout of the repository."""
    steps = _import_steps()
    if picture is not None:
        require("matplotlib.figure")  # before the long part
    config = get_config(size)

    @cache
    def predict(name: str, batch: int, encoder: float, decoder: float) -> MemoryProfile:
        return predict_step(steps.make_predictable(name, config, batch, encoder, decoder, precision))

    profiles = {name: predict(name, batch_size, mask_ratio, decoder_mask_ratio) for name in COMPARED}
    clip = f"{config.num_frames}x{config.image_size[0]}x{config.image_size[1]}"
    sections = [
        f"ViT-{size}, {batch_size} clips of {clip}, {precision}, mask ratio {mask_ratio}, decoder mask ratio "
        f"{decoder_mask_ratio}: peak memory of a training step (forward, loss, backward, AdamW).",
        "Predicted for a GPU, torch " + torch.__version__ + ", except in rows that say measured. MiB.",
        _breakdown(profiles, _measured(steps, config, batch_size, mask_ratio, decoder_mask_ratio, precision)),
        "Largest batch, predicted (usable memory is an assumption):",
        _largest_batches(predict, mask_ratio, decoder_mask_ratio),
        "Effect of the masks on the peak, predicted:",
        _mask_effects(predict, batch_size, mask_ratio, decoder_mask_ratio),
    ]
    if picture is not None:
        _draw(profiles, sections[0], picture)
        sections.append(f"Picture: {picture}")
    return "\n\n".join(sections)


def _import_steps() -> Any:
    """`benchmarks.memory.predictable`, which lives in the repository and not in the wheel."""
    if not (ROOT / "benchmarks" / "memory" / "predictable.py").is_file():
        raise FileNotFoundError("profile compares with benchmarks/: run it from a checkout of the repository")
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    from benchmarks.memory import predictable

    return predictable


def _breakdown(profiles: dict[str, MemoryProfile], measured: dict[str, str]) -> str:
    first = next(iter(profiles.values()))
    rows = [[category, *(_mib(p.breakdown[category]) for p in profiles.values())] for category in CATEGORIES]
    for part in ("encoder", "decoder"):
        rows.append([f"- activations of the {part}", *(_mib(_activations(p, part)) for p in profiles.values())])
    rows.append(["**peak**", *(f"**{_mib(p.peak_bytes)}**" for p in profiles.values())])
    if measured:
        device = torch.cuda.get_device_name()
        rows.append([f"peak, measured on {device}", *(measured[name] for name in profiles)])
    rows.append(["of the published peak", *(f"{p.peak_bytes / first.peak_bytes:.3f}x" for p in profiles.values())])
    rows.append(["above weights, optimizer, input", *(_mib(_above(p)) for p in profiles.values())])
    rows.append(["of the published", *(f"{_above(p) / _above(first):.3f}x" for p in profiles.values())])
    rows.append(["the peak is in", *(f"{p.peak.phase}: {p.peak.module}" for p in profiles.values())])
    return _table(["", *profiles], rows)


def _measured(steps: Any, config: Any, *case: Any) -> dict[str, str]:
    """Peaks of the same steps on the GPU; empty without one."""
    if not torch.cuda.is_available():
        return {}
    found = {}
    for name in COMPARED:
        try:
            make = steps.make_predictable(name, config, *case, device=torch.device("cuda", 0))
            found[name] = _mib(measure_step(make(), torch.device("cuda", 0)))
        except torch.OutOfMemoryError:
            found[name] = "out of memory"
        torch.cuda.empty_cache()
    return found


def _largest_batches(predict: Predict, mask_ratio: float, decoder_mask_ratio: float) -> str:
    def largest(name: str, usable: int) -> int:
        return largest_batch(lambda batch: predict(name, batch, mask_ratio, decoder_mask_ratio).peak_bytes, usable)

    rows = [
        [f"{card}, {usable / 2**30:.1f} GiB usable", *(f"{largest(name, usable):,}" for name in COMPARED)]
        for card, usable in CARDS.items()
    ]
    return _table(["clips", *COMPARED], rows)


def _mask_effects(predict: Predict, batch_size: int, mask_ratio: float, decoder_mask_ratio: float) -> str:
    cases = [(f"mask ratio {ratio}", ratio, decoder_mask_ratio) for ratio in MASK_RATIOS]
    cases += [
        (f"decoder mask ratio {ratio}" if ratio else "no decoder mask", mask_ratio, ratio)
        for ratio in DECODER_MASK_RATIOS
    ]
    rows = []
    for label, encoder, decoder in cases:
        published, ours = (predict(name, batch_size, encoder, decoder).peak_bytes for name in (PUBLISHED, OURS))
        rows.append([label, _mib(published), _mib(ours), f"{ours / published:.3f}x"])
    return _table(["", PUBLISHED, OURS, "ratio"], rows)


def _activations(profile: MemoryProfile, part: str) -> int:
    return sum(size for path, size in profile.activations.items() if path.split(".")[0] == part)


def _above(profile: MemoryProfile) -> int:
    return profile.peak_bytes - sum(profile.breakdown[category] for category in RESIDENT)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows))


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}"


def _draw(profiles: dict[str, MemoryProfile], title: str, path: Path) -> None:
    """Stacked bars of the peaks, and the live memory over each step."""
    figure = require("matplotlib.figure").Figure(figsize=(12, 9), layout="constrained")
    bars, lines = figure.subplots(2, 1)
    floor = [0.0] * len(profiles)
    for category in CATEGORIES:
        heights = [p.breakdown[category] / 2**30 for p in profiles.values()]
        bars.bar(list(profiles), heights, bottom=floor, label=category)
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    for name, profile in profiles.items():
        moments = [moment / len(profile.timeline) for moment in range(len(profile.timeline))]
        lines.plot(moments, [live / 2**30 for live in profile.timeline], label=name)
    figure.suptitle(f"{title}\nPredicted", fontsize="medium")
    bars.set(ylabel="GiB at the peak")
    lines.set(xlabel="the step, in allocations and releases", ylabel="GiB", xlim=(0, 1))
    for axes in (bars, lines):
        axes.legend()
    figure.savefig(path)
