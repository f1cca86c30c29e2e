"""Every suite runs here once, on tiny shapes, as `python -m benchmarks` runs it: nothing meets a GPU untested."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import videomae_kernels
from benchmarks.caption.captioners import LANGUAGE_MODEL_OF
from benchmarks.caption.losses import FULL as FULL_LOGITS
from benchmarks.contrast.sizes import CONTRAST_SIZES
from benchmarks.contrast.steps import ALL_TRAINED, IMPLEMENTATIONS, LAST_TRAINED
from benchmarks.harness.plots import save_plots
from benchmarks.harness.results import Record, Results, compare, load
from benchmarks.harness.run import SUITES, run_suites
from benchmarks.harness.tables import format_results
from benchmarks.ops.layers import RIVALS
from benchmarks.ops.workload import CLIPS, CROPS, OURS, REWRITE
from tests.data.files import write_video
from tests.kernels.cases import NOT_OPS
from videomae_fast.models.attention import BACKENDS

pytestmark = pytest.mark.slow
ROUNDS = 4
# Compiling takes most of the time: two that compile stand for all.
SELECTED = "not compile or (gather_tokens and not tube) or (videomae_fast and compile and round and no)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    videos = tmp_path_factory.mktemp("videos")
    write_video(videos / "one.mp4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_ADDOPTS", f"-k '{SELECTED}' --videos {videos}")
        yield run_suites(SUITES, size="tiny", batch_size=2, rounds=ROUNDS, folder=folder)


def of_suite(results: Results, suite: str) -> list[Record]:
    return [record for record in results["records"] if record["suite"] == suite]


def test_every_public_op_is_measured(results: Results) -> None:
    measured = {record["name"] for record in of_suite(results, "ops") if record["variant"] == OURS}
    assert measured == set(videomae_kernels.__all__) - NOT_OPS - {"crop_clips"}
    rivals = {record["name"] for record in of_suite(results, "ops") if record["variant"] == REWRITE}
    assert rivals == measured
    for name in ("tube_mask_gather", "embed_tokens", "patch_targets", "masked_patch_loss"):
        cases = " ".join(record["case"] for record in of_suite(results, "ops") if record["name"] == name)
        assert all(clip in cases for clip in (*CLIPS, *(CROPS if name == "masked_patch_loss" else CROPS[:1])))


def test_figures_of_ops(results: Results) -> None:
    for record in of_suite(results, "ops"):
        if "not_run" in record:
            assert record["variant"] in (*BACKENDS, *RIVALS)
            continue
        assert record["rounds"] == ROUNDS
        assert 0 < record["p20_ms"] <= record["p50_ms"] <= record["p80_ms"]
        assert record["gb_per_s"] == pytest.approx(record["bytes"] / record["p50_ms"] / 1e6)
        assert record["roofline"] == pytest.approx(record["gb_per_s"] / results["copy_gb_per_s"])
        assert 0 <= record["error"] < 0.1 and record["peak_mib"] >= 0
        if record["variant"] in (OURS, REWRITE):
            assert record["kernel_launches"] >= 1
        if record["variant"] == OURS:
            assert record["syncs"] == 0


def test_absent_attention_backends_are_listed(results: Results) -> None:
    for stack in ("encoder", "decoder"):
        found = {r["variant"]: r for r in of_suite(results, "ops") if r["name"] == f"attention, {stack}"}
        assert found.keys() == {"published", *BACKENDS}
        if not torch.cuda.is_available():
            assert all(found[name]["not_run"] for name in ("flash-attn", "xformers"))
            assert "not_run" not in found["sdpa"]


def test_figures_of_steps(results: Results) -> None:
    records = of_suite(results, "model")
    variants = {(record["variant"], "no decoder mask" in record["case"]) for record in records}
    assert {("published", False), ("videomae_fast", False), ("published", True), ("Hugging Face", True)} <= variants
    for record in records:
        assert record["rounds"] == ROUNDS  # of all rounds together
        assert record["clips_per_s"] == pytest.approx(2e3 / record["p50_ms"])
        assert 0 < record["peak_mib"] < record["total_mib"]
        assert record["error"]["gradient"] == 0 or record["variant"] != "published"
    first, ours = (
        next(r for r in records if r["variant"] == name and "ratio 0.5" in r["case"])
        for name in ("published", "videomae_fast")
    )
    assert ours["peak_mib"] < first["peak_mib"]
    assert (ours["syncs"], first["syncs"] > 0) == (0, True)


def test_figures_of_fine_tuning_steps(results: Results) -> None:
    measured = {r["variant"]: r for r in of_suite(results, "finetune") if not r["predicted"]}
    assert {"published", "videomae_fast"} <= measured.keys()
    for record in measured.values():
        assert record["rounds"] == ROUNDS and 0 < record["peak_mib"] < record["total_mib"]
    assert 0 < measured["videomae_fast"]["error"]["gradient"] < 1e-5
    predicted = {r["variant"]: r for r in of_suite(results, "finetune") if r["predicted"]}
    assert predicted["videomae_fast"]["tflop_per_clip"] < predicted["published"]["tflop_per_clip"]


def test_figures_of_alignment_steps(results: Results) -> None:
    measured = [r for r in of_suite(results, "align") if not r["predicted"]]
    assert {(r["variant"], r["case"].rsplit(", ")[-1]) for r in measured} == {
        (variant, masks)
        for variant in ("published, checkpointed", "videomae_fast")
        for masks in ("1 mask per clip", "2 masks per clip")
    }
    for record in measured:
        assert record["rounds"] == ROUNDS and 0 < record["peak_mib"] < record["total_mib"]
        assert record["error"]["gradient"] < 1e-5
        assert (record["syncs"] == 0) == (record["variant"] == "videomae_fast")
    published, *ours = (r for r in of_suite(results, "align") if r["predicted"])
    for record in ours:
        assert record["tflop_per_clip"] < published["tflop_per_clip"] and record["syncs"] == 0 < published["syncs"]
        searched = record["masks"] == 1 and record["variant"] == "videomae_fast"
        assert (record["largest_batch"] is not None) == searched and record["largest_batch"] != 0


def test_figures_of_contrastive_steps(results: Results) -> None:
    measured = [r for r in of_suite(results, "contrast") if not r["predicted"]]
    assert len(measured) == 2 * (len(ALL_TRAINED) + len(LAST_TRAINED))
    for record in measured:
        assert record["rounds"] == ROUNDS and 0 < record["peak_mib"] < record["total_mib"]
        assert record["error"]["gradient"] < 1e-5
    predicted = [r for r in of_suite(results, "contrast") if r["predicted"]]
    assert len(predicted) == 4 * len(IMPLEMENTATIONS) * len(CONTRAST_SIZES["tiny"].frames)
    assert all(r["mib_per_clip"] > 0 and r["largest_batch"] > 0 for r in predicted)


def test_figures_of_captioners(results: Results) -> None:
    records = of_suite(results, "caption")
    measured = {(r["case"], r["variant"]): r for r in records if not r["predicted"]}
    assert len(measured) == 2 * 2 * 2
    for (case, variant), record in measured.items():
        assert record["rounds"] == ROUNDS and record["error"] < 1e-5
        assert variant == FULL_LOGITS or record["peak_mib"] < measured[case, FULL_LOGITS]["peak_mib"]
    assert {r["name"] for r in records if "trained" in r} == set(LANGUAGE_MODEL_OF)
    (step,) = (r for r in records if "largest_batch" in r)
    assert step["largest_batch"] == 8 and step["variant"] == "LoRA of rank 16, all repeated in backward"


def test_figures_of_evaluation(results: Results) -> None:
    records = of_suite(results, "evaluate")
    assert [record["variant"] for record in records] == ["published", "videomae_fast"] * 2
    for published, ours in zip(records[::2], records[1::2], strict=True):
        assert ours["rounds"] == published["rounds"] == ROUNDS and ours["clips"] == published["clips"] > 0
        assert ours["frames_read"] < published["frames_read"]
        assert ours["bytes_to_device_per_clip"] < published["bytes_to_device_per_clip"] / 4
        assert ours["error"]


def test_predicted_records_are_apart(results: Results, folder: Path) -> None:
    files = {path.parent.name: load(path) for path in folder.glob("*/*.json")}
    assert len(files) == 2
    predicted = files.pop("predicted")["records"]
    assert {record["suite"] for record in predicted} == {
        "finetune",
        "align",
        "contrast",
        "caption",
        "memory",
        "roofline",
    }
    of_steps = [
        record
        for suite in ("finetune", "align", "contrast", "caption")
        for record in of_suite(results, suite)
        if record["predicted"]
    ]
    assert predicted == [*of_steps, *of_suite(results, "memory"), *of_suite(results, "roofline")]
    assert all(record["predicted"] for record in predicted)
    (measured,) = files.values()
    assert not any(record["predicted"] for record in measured["records"])
    assert measured["commit"] == results["commit"] and measured["device"] == results["device"]


def test_results_are_json_tables_and_pictures(results: Results, tmp_path: Path) -> None:
    assert json.loads(json.dumps(results)) == results
    assert compare(results, results) == []
    text = format_results(results)
    for record in of_suite(results, "model"):
        assert f"Training step, ViT-tiny, {record['case']}" in text
    pictures = save_plots([results], tmp_path)
    assert [path.name.split("-", 1)[1] for path in pictures]
    assert len(pictures) == 4 and all(path.read_text().startswith("<?xml") for path in pictures)
