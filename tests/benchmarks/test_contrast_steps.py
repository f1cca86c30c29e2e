"""Contrastive steps: all compute the same, FLOPs counted by hand, memory and host syncs predicted."""

from argparse import Namespace
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.contrast import test_predicted as predicted
from benchmarks.contrast import test_step as timed
from benchmarks.contrast.contenders import ContrastCase
from benchmarks.contrast.sizes import CONTRAST_SIZES, LAST
from benchmarks.contrast.steps import (
    ALL_TRAINED,
    IMPLEMENTATIONS,
    LAST_TRAINED,
    NAIVE,
    NAIVE_LAST,
    OURS,
    OURS_LAST,
    compared,
    make_contrast_step,
    of_blocks,
)
from benchmarks.contrast.tables import format_contrast
from benchmarks.harness.plots import save_plots
from benchmarks.harness.run import DisagreementError
from benchmarks.model.agreement import Outcome, check_same_gradients
from benchmarks.model.contenders import StepContenders
from benchmarks.settings import Settings
from videomae_fast.memory.batches import CARDS

pytest.importorskip("transformers")

CASE = ContrastCase("tiny", "fp32", 16, 0.75, False, 4, torch.device("cpu"))
SIZE = CONTRAST_SIZES["tiny"]


def settings(**options: object) -> Settings:
    defaults = {"size": None, "precision": None, "rounds": None, "batch_size": None, "mask_ratio": None}
    return Settings(Namespace(**(defaults | options)))


def outcome(case: ContrastCase, name: str) -> Outcome:
    return Outcome.of(case.make_step(name, case.inputs()))


def test_cases() -> None:
    _, rows, ids = predicted.parametrize(settings())
    assert len(set(ids)) == len(rows) == 4 * 4 * len(IMPLEMENTATIONS)
    assert {row[1] for row in rows} == {16, 64, 128, 256} and {row[3] for row in rows} == {0.0, 0.5, 0.75, 0.9}
    _, rows, _ = timed.parametrize(settings(rounds=1))
    assert {str(row[0]) for row in rows} == {
        f"4 clips of 16x224x224, fp32, mask ratio {ratio}, {trained} trained"
        for ratio in (0.0, 0.75)
        for trained in ("all", "last 4 blocks")
    }
    assert {row[1] for row in rows} == set(IMPLEMENTATIONS)
    assert CONTRAST_SIZES["base"].config(256).num_tokens == 25088 and CONTRAST_SIZES["base"].usable == CARDS["A100-80"]


@pytest.mark.parametrize("ratio", [0.75, pytest.param(0.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_all_agree_on_loss_and_gradients(ratio: float, precision: str) -> None:
    case = replace(CASE, mask_ratio=ratio, precision=precision)
    expected = outcome(case, NAIVE)
    assert check_same_gradients(OURS, outcome(case, OURS), expected, precision)["gradient"] > 0
    last = replace(case, last_only=True)
    expected = outcome(last, NAIVE)
    for name in LAST_TRAINED[1:]:
        check_same_gradients(name, outcome(last, name), expected, precision)


def test_other_masks_are_no_agreement() -> None:
    other = CASE.inputs()
    assert other.hidden is not None
    vars(other)["hidden"] = other.hidden.flip(0)
    expected = Outcome.of(CASE.make_step(NAIVE, other))
    with pytest.raises(DisagreementError, match="disagree"):
        check_same_gradients(OURS, outcome(CASE, OURS), expected, "fp32")


def test_what_is_compared() -> None:
    """All that is trained in both forms, and in bfloat16 a vector for each block."""
    names = ["pos_embed", "image_embed.proj.bias", *(f"blocks.{n}.norm1.{p}" for n in range(6) for p in ("bias", "w"))]
    gradients = {f"vision_encoder.{name}": torch.ones(2) for name in names}
    gradients |= {f"text_encoder.model.encoder.layer.0.{name}.bias": torch.ones(3) for name in ("key", "query")}
    gradients |= {"text_proj.bias": torch.ones(5)}
    everything, last = (compared(gradients, 6, only) for only in (False, True))
    assert gradients.keys() - everything.keys() == {
        "vision_encoder.image_embed.proj.bias",
        "text_encoder.model.encoder.layer.0.key.bias",
    }
    assert everything.keys() - last.keys() == {
        "vision_encoder.pos_embed",
        *(f"vision_encoder.blocks.{n}.norm1.{p}" for n in (0, 1) for p in ("bias", "w")),
    }
    sizes = {name: len(vector) for name, vector in of_blocks(last).items()}
    blocks = {f"vision_encoder.blocks.{n}": 4 for n in range(2, 6)}
    assert sizes == blocks | {"text_encoder.model.encoder.layer.0": 3, "text_proj": 5}


def test_a_case_for_the_contenders() -> None:
    contenders = StepContenders(memory_budget=None)
    case = replace(CASE, last_only=True)
    records = {}
    for name in case.implementations:
        step, records[name] = contenders.ready(case, name)
        assert step is not None and (records[name]["suite"], records[name]["clips"]) == ("contrast", 4)
        assert records[name]["error"]["gradient"] < 1e-5
    assert records[OURS_LAST]["case"] == "4 clips of 16x32x32, fp32, mask ratio 0.75, last 4 blocks trained"
    memory = [records[name]["peak_mib"] for name in LAST_TRAINED]
    assert memory == sorted(memory, reverse=True)
    assert records[NAIVE_LAST]["kernel_launches"] < records[NAIVE]["kernel_launches"]


def test_without_transformers_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.model.contenders.find_spec", lambda name: None)
    step, found = StepContenders(memory_budget=None).ready(CASE, NAIVE)
    assert step is None and found["not_run"] == "not installed"


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"name must be one of \('naive', .*, got 'ours'"):
        make_contrast_step("ours", CASE.inputs())


def linear(rows: int, *widths: int) -> int:
    """FLOPs of products one after the other: (rows, a) x (a, b) x (b, c) ..."""
    return sum(2 * rows * a * b for a, b in pairwise(widths))


def block(rows: int, dim: int, hidden: int) -> int:
    """q, k, v, proj, fc1, fc2."""
    return linear(rows, dim, 3 * dim) + linear(rows, dim, dim) + linear(rows, dim, hidden, dim)


TOKENS, KEPT, DIM = 128, 32, 24  # of a clip of 16 frames; of them, visible; width
FORWARD, TRAINED = 1, 3  # products: with their two backward
FUSED = {FORWARD: 1.0, TRAINED: 3.5}  # attention: backward has five products for two
EMBED = linear(1, 3 * 2 * 8 * 8, DIM)  # of a token
HEADS = linear(1, DIM, 512) + linear(1, 32, 512)
PAIRS = linear(1, 512, predicted.CLIPS)  # logits of a clip with all captions


def blocks(passes: int, count: int, rows: int = KEPT, dim: int = DIM) -> float:
    return count * (passes * block(rows, dim, 4 * dim) + FUSED[passes] * 4 * rows * rows * dim)


def flops(name: str) -> float:
    """Of a clip of 16 frames at mask ratio 0.75.

    The naive code embeds all tokens, and ours the visible ones, in backward once more for the learned positions. The
    first blocks run forward only where they are frozen. Our loss makes no product that PyTorch shows.
    """
    embed = {NAIVE: 2 * TOKENS, NAIVE_LAST: TOKENS, OURS: 3 * KEPT, OURS_LAST: KEPT}[name]
    video = embed * EMBED + blocks(TRAINED, LAST) + blocks(TRAINED if name in ALL_TRAINED else FORWARD, 2)
    text = blocks(TRAINED, 2, rows=32, dim=32)
    return video + text + TRAINED * (HEADS + (PAIRS if name in (NAIVE, NAIVE_LAST) else 0))


def test_a_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicted, "MASK_RATIOS", (0.75,))
    monkeypatch.setattr(predicted, "largest_batches", lambda *args, **kwargs: {"card": 7})
    record = predicted.predict.__wrapped__("tiny", 16, OURS_LAST)[0.75]
    assert record["tflop_per_clip"] * 1e12 == pytest.approx(flops(OURS_LAST), rel=1e-9)
    assert record["case"] == "32 clips of 16x32x32, bf16, mask ratio 0.75" and record["largest_batch"] == 7
    assert record["predicted"] and record["syncs"] == 0


@pytest.fixture(scope="module")
def records() -> dict[str, dict[float, dict[str, Any]]]:
    """Predictions for clips of 16 frames, by implementation and mask ratio."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predicted, "MASK_RATIOS", (0.0, 0.75))
        return {name: predicted.predict.__wrapped__("tiny", 16, name) for name in IMPLEMENTATIONS}


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_flops_by_hand(records: dict[str, dict[float, dict[str, Any]]], name: str) -> None:
    assert records[name][0.75]["tflop_per_clip"] * 1e12 == pytest.approx(flops(name), rel=1e-9)


@pytest.mark.slow
def test_predicted_memory_and_syncs(records: dict[str, dict[float, dict[str, Any]]]) -> None:
    """Hiding tokens, freezing and ours each take less; boolean masks make the host wait."""
    for ratio in (0.0, 0.75):
        memory = {name: records[name][ratio]["mib_per_clip"] for name in IMPLEMENTATIONS}
        assert memory[OURS] < 0.8 * memory[NAIVE] and memory[OURS_LAST] < 0.8 * memory[NAIVE_LAST]
        assert memory[NAIVE_LAST] < 0.9 * memory[NAIVE] and memory[OURS_LAST] < 0.9 * memory[OURS]
    for name in IMPLEMENTATIONS:
        assert records[name][0.75]["mib_per_clip"] < 0.6 * records[name][0.0]["mib_per_clip"]
    syncs = [[records[name][ratio]["syncs"] for name in IMPLEMENTATIONS] for ratio in (0.0, 0.75)]
    assert syncs == [[0, 0, 0, 0], [2, 1, 0, 0]]


@pytest.mark.slow
def test_the_largest_batch_fits_and_the_next_does_not(records: dict[str, dict[float, dict[str, Any]]]) -> None:
    """It is on the line of two batches, which the naive code's n² logits leave a little."""
    for name in IMPLEMENTATIONS:
        for record in records[name].values():
            line = record["total_mib"] + record["mib_per_clip"] * (record["largest_batch"] - predicted.CLIPS)
            assert line - record["mib_per_clip"] <= SIZE.usable / 2**20 < 1.1 * (line + record["mib_per_clip"])


def record(variant: str, ratio: float, share: float) -> dict[str, Any]:
    figures = ("peak_mib", "total_mib", "mib_per_clip", "tflop_per_clip", "kernel_launches", "syncs", "largest_batch")
    about = {"suite": "contrast", "name": "base", "case": f"8 clips, bf16, mask ratio {ratio}", "predicted": True}
    return about | {"variant": variant, "frames": 16, "mask_ratio": ratio} | {name: 100 * share for name in figures}


def test_tables_and_the_picture(tmp_path: Path) -> None:
    shares = dict(zip(IMPLEMENTATIONS, (1.0, 0.5, 0.75, 0.25), strict=True))
    rows = [record(name, ratio, share * (1 - ratio)) for name, share in shares.items() for ratio in (0.75, 0.0)]
    text = format_contrast(rows)
    assert "Predicted contrastive step, ViT-base, 8 clips, bf16:" in text
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith(("| naive", "| videomae_fast"))]
    found = [(line[0].removeprefix("| "), line[1], line[2], line[3]) for line in lines]
    assert found == [
        (name, ratio, f"{100 * share * size:.0f}", f"{share:.2f}x")
        for ratio, size in (("0.0", 1.0), ("0.75", 0.25))
        for name, share in shares.items()
    ]
    measured = {"suite": "contrast", "name": "tiny", "case": "4 clips", "variant": NAIVE, "predicted": False}
    figures = {"p50_ms": 1.0, "clips_per_s": 1.0, "peak_mib": 1.0, "total_mib": 2.0}
    assert "Contrastive step, ViT-tiny, 4 clips." in format_contrast([measured | figures])
    (path,) = save_plots([{"device": "predicted", "commit": "abc", "records": rows}], tmp_path)
    drawn = path.read_text(encoding="utf-8")
    assert path.name == "predicted-contrast.svg"
    assert all(
        f">{label}<" in drawn for label in ("16 frames, naive", "16 frames, videomae_fast", "last 4 blocks trained")
    )
