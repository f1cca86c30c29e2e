"""Tables and pictures say what was measured on what, compare within one run, and call predictions predictions."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.plots import save_plots
from benchmarks.harness.tables import NO_GPU, format_report, format_results, shown

ORIGIN = {
    "versions": {"torch": "9.9", "triton": "8.8"},
    "threads": 3,
    "commit": "c0ffee",
    "date": "2026-01-02T03:04:05",
}
GPU = {"device": "Some GPU", "driver": "555.1", "copy_gb_per_s": 2000.0, **ORIGIN}
CPU = {"device": "Some CPU", "driver": "none", "copy_gb_per_s": None, **ORIGIN}


def step(variant: str, ms: float, mib: float, **more: Any) -> dict[str, Any]:
    record = {"suite": "model", "name": "base", "case": "128 clips, bf16", "variant": variant, "predicted": False}
    return record | {"p50_ms": ms, "clips_per_s": 128e3 / ms, "peak_mib": mib, **more}


def op(variant: str, ms: float, size: str = "base", **more: Any) -> dict[str, Any]:
    record = {"suite": "ops", "name": "gather", "case": f"ViT-{size}, forward", "size": size, "variant": variant}
    figures = {
        "p50_ms": ms,
        "gb_per_s": 1000 / ms,
        "roofline": 0.5 / ms,
        "peak_mib": ms,
        "kernel_launches": 1,
        "syncs": 0,
    }
    return record | {"predicted": False} | figures | more


def loading(variant: str, ms: float, parts: tuple[float, float, float], sent: int, **more: Any) -> dict[str, Any]:
    record = {
        "suite": "loader",
        "name": "340x256",
        "case": "8 videos, 4 crops per video",
        "variant": variant,
        "clips": 32,
    }
    record |= {f"{part}_ms": value for part, value in zip(("decode", "augment", "collate"), parts, strict=True)}
    figures = {"p50_ms": ms, "clips_per_s": 32e3 / ms, "bytes_to_device_per_clip": sent, "processor": "Some processor"}
    return record | {"predicted": False} | figures | more


STEPS = [step("published", 300.0, 4000.0, largest_batch=64), step("videomae_fast", 100.0, 1000.0, total_mib=1500.0)]
LOADING = [
    loading("published", 1600.0, (10.0, 30.0, 10.0), 9_658_880),
    loading("videomae_fast", 400.0, (10.0, 2.0, 0.5), 965_888, error={"pillow": 3e-5, "antialias": 1.25}),
]
OPS = [op("published", 4.0), op("rewrite", 3.0), op("rewrite + compile", 2.0), op("videomae_kernels", 1.0)]


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_steps_are_compared_with_the_first_of_their_run() -> None:
    header, _, published, ours = rows(format_results({**GPU, "records": STEPS}))
    table = [dict(zip(header, row, strict=True)) for row in (published, ours)]
    assert [row["speed"] for row in table] == ["1.00x", "3.00x"]
    assert [row["memory"] for row in table] == ["1.00x", "0.25x"]
    assert [row["clips/s"] for row in table] == ["426.67", "1,280.00"]
    assert [row["largest batch"] for row in table] == ["64", ""]
    assert [row["total peak MiB"] for row in table] == ["", "1,500"]


def test_loading_shows_where_the_time_goes() -> None:
    text = format_results(shown({**GPU, "records": LOADING}))
    header, _, published, ours = rows(text)
    table = [dict(zip(header, row, strict=True)) for row in (published, ours)]
    assert [row["clips/s per core"] for row in table] == ["20.0", "80.0"]
    assert [row["speed"] for row in table] == ["1.00x", "4.00x"]
    assert [row["CPU ms per clip"] for row in table] == ["50.00", "12.50"]
    assert [table[1][part] for part in ("decode", "augment", "collate")] == ["10.00", "2.00", "0.50"]
    assert [row["bytes to the GPU per clip"] for row in table] == ["9,658,880", "965,888"]
    assert [row["share of published"] for row in table] == ["100.0%", "10.0%"]
    assert "one thread, Some processor" in text and "videos of 340x256, 8 videos, 4 crops per video" in text
    assert (
        "differ from the published pixels by at most 0.00 of 255 (resize pillow), 1.25 of 255 (resize antialias)"
        in text
    )


def test_what_is_equal_and_what_is_alike_in_fine_tuning() -> None:
    error = {"pillow": 0.0023, "device": 6.74, "other draws": 51.2}
    text = format_results({**GPU, "records": [LOADING[0], LOADING[1] | {"error": error}]})
    assert "pixels of `--augment pillow` equal the published ones (at most 0.002 of 255)" in text
    assert "6.7 of 255 in the mean, where published clips with other draws differ by 51.2" in text


def test_ops_are_compared_with_every_rival() -> None:
    header, _, row = rows(format_results({**GPU, "records": OPS}))
    found = dict(zip(header, row, strict=True))
    assert (found["against published"], found["against rewrite"], found["against rewrite + compile"]) == (
        "4.00x",
        "3.00x",
        "2.00x",
    )
    assert (found["GB/s"], found["share of copy"], found["ms"]) == ("1,000.0", "50%", "1.000")


def test_what_was_not_run_is_listed() -> None:
    out_of_memory = {k: v for k, v in step("published + SDPA", 1, 1).items() if not k.endswith(("_ms", "_mib", "_s"))}
    text = format_results({**GPU, "records": [*STEPS, out_of_memory | {"not_run": "out of memory"}]})
    assert rows(text)[-1][:2] == ["published + SDPA", "not run: out of memory"]
    backends = [op("sdpa", 1.0, name="attention, encoder"), {"name": "attention, encoder", "not_run": "not installed"}]
    backends[1] = {k: backends[0][k] for k in ("suite", "case", "size", "predicted")} | {"variant": "x"} | backends[1]
    assert rows(format_results({**GPU, "records": backends}))[-1][1:3] == ["x", "not run: not installed"]


def test_the_reference_may_be_what_was_not_run() -> None:
    out_of_memory = {k: v for k, v in STEPS[0].items() if k not in ("p50_ms", "clips_per_s", "peak_mib")}
    text = format_results({**GPU, "records": [out_of_memory | {"not_run": "out of memory"}, STEPS[1]]})
    assert "not run: out of memory" in text and "1,280.00" in text and "speed" not in text


def test_origin_is_stated() -> None:
    text = format_results({**GPU, "records": STEPS})
    for part in (
        "Some GPU",
        "555.1",
        "torch 9.9",
        "triton 8.8",
        "c0ffee",
        "2026-01-02",
        "2,000 GB/s",
        "128 clips, bf16",
    ):
        assert part in text
    assert "driver" not in format_results({**CPU, "records": STEPS})


def test_without_a_gpu_it_says_so() -> None:
    cpu, gpu = {**CPU, "records": STEPS}, {**GPU, "records": STEPS}
    assert format_report([cpu]).startswith(NO_GPU)
    assert NO_GPU not in format_report([cpu, gpu])
    assert format_report([]) == NO_GPU


def test_predictions_are_called_so() -> None:
    figures = {
        f"{name}_mib": 1.0 for name in ("peak", "activations", "temporaries", "gradients", "parameters", "optimizer")
    }
    record = {
        "suite": "memory",
        "name": "base",
        "case": "128 clips",
        "variant": "published",
        "predicted": True,
        **figures,
    }
    text = format_results({"device": "predicted", **ORIGIN, "records": [record]})
    assert text.startswith("### Predicted\n\nNot measured") and "Predicted memory" in text
    assert "easured with" not in text


def finetuning(variant: str, tflop: float, mib: float) -> dict[str, Any]:
    figures = {f"{name}_mib": mib for name in ("peak", "total", "activations", "temporaries", "gradients", "inputs")}
    record = {"suite": "finetune", "name": "base", "case": "32 clips, bf16", "variant": variant, "predicted": True}
    return record | {"tflop_per_clip": tflop, "kernel_launches": 5, "syncs": 0, **figures}


def test_fine_tuning_steps_are_compared_by_flops_and_memory() -> None:
    records = [
        finetuning("published", 1.0, 100.0),
        finetuning("published + SDPA", 1.05, 50.0),
        finetuning("videomae_fast", 0.945, 12.0),
    ]
    text = format_results(shown({"device": "predicted", **ORIGIN, "records": records}))
    assert text.count("Every branch keeps the expected number of clips") == 1
    assert "Predicted fine-tuning step, ViT-base, 32 clips, bf16, memory in MiB:" in text
    header, _, *table = rows(text)
    found = [dict(zip(header, row, strict=True)) for row in table]
    assert [row["FLOPs"] for row in found] == ["1.000x", "1.050x", "0.945x"]
    assert [row["FLOPs against published + SDPA"] for row in found] == ["0.952x", "1.000x", "0.900x"]
    assert [row["memory"] for row in found] == ["1.00x", "0.50x", "0.12x"]


def test_measured_fine_tuning_steps() -> None:
    records = [record | {"suite": "finetune", "name": "small"} for record in STEPS]
    text = format_results(shown({**GPU, "records": records}))
    assert "Fine-tuning step, ViT-small, 128 clips, bf16. Checked first" in text and "3.00x" in text


def evaluation(variant: str, ms: float, frames: int, sent: float, **more: Any) -> dict[str, Any]:
    record = {"suite": "evaluate", "name": "340x256", "case": "5x3 views", "variant": variant, "predicted": False}
    record |= {"p50_ms": ms, "clips": 30, "frames_read": frames, "bytes_to_device_per_clip": sent}
    return record | {"processor": "Some processor"} | more


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ({"pixels": 1.0, "logits": 2e-7}, "by 2.0e-07 (relative), and pixels by at most 1.00 of 255 where OpenCV"),
        ({"pixels": 0.51}, "differ by at most 0.51 of 255 from the published ones"),
    ],
)
def test_evaluation_counts_frames(error: dict[str, float], text: str) -> None:
    records = [
        evaluation("published", 1500.0, 1440, 9_633_792),
        evaluation("videomae_fast", 90.0, 96, 963_379.2, error=error),
    ]
    report = format_results(shown({**CPU, "records": records}))
    assert "Videos of 340x256, 5x3 views: processor time of one thread, Some processor. Checked first" in report
    assert text in report
    header, _, published, ours = rows(report)
    table = [dict(zip(header, row, strict=True)) for row in (published, ours)]
    assert [row["CPU ms per clip"] for row in table] == ["50.00", "3.00"]
    assert [row["CPU time"] for row in table] == ["1.000x", "0.060x"]
    assert [row["frames read"] for row in table] == ["1,440", "96"] and table[1]["frames"] == "0.067x"
    assert table[1]["share of published"] == "10.0%"


def test_a_report_shows_chosen_sizes_and_a_run_all() -> None:
    everything = {**GPU, "records": [*OPS, op("videomae_kernels", 1.0, "small"), *STEPS]}
    assert "shapes of ViT-small" in format_results(everything)
    assert "shapes of ViT-small" not in format_results(shown(everything))
    assert "shapes of ViT-base" in format_results(shown(everything))
    assert shown({**GPU, "records": [{**step, "name": "small"} for step in STEPS]})["records"] != []


def test_pictures(tmp_path: Path) -> None:
    predicted = {"suite": "memory", "name": "base", "case": "", "variant": "", "predicted": True}
    giant = [op("videomae_kernels", 1.0, "giant")]
    everything = {**GPU, "records": [*STEPS, *LOADING, *OPS, *giant, predicted]}
    written = save_plots([everything], tmp_path)
    names = ("ops-base", "ops-giant", "model", "loader")
    assert [path.name for path in written] == [f"some-gpu-{name}.svg" for name in names]
    first = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in save_plots([everything], tmp_path)] == first
    for path in written:
        processor = "Some processor" if "loader" in path.name else "Some GPU"
        assert f"{processor}, c0ffee" in path.read_text()
        assert path.name in re.findall(r"\]\(images/(.*?)\)", format_results(everything))


@pytest.mark.parametrize("records", [[], [op("sdpa", 1.0, name="attention, encoder")]])
def test_nothing_to_draw(records: list[dict[str, Any]], tmp_path: Path) -> None:
    assert save_plots([{**GPU, "records": records}], tmp_path) == []
