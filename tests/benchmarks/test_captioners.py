"""The loss of next tokens: all implementations agree, and its memory by hand; parameters of captioners by hand."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.baselines.language_loss import IGNORED, full_logits_loss
from benchmarks.caption import test_loss as timed
from benchmarks.caption import test_predicted_loss as predicted
from benchmarks.caption import test_predicted_step as step
from benchmarks.caption.losses import FULL, LENGTH, OURS, RANK, LossBatch, gradients, make_loss
from benchmarks.caption.sizes import LARGE_HEADS, SMALL_HEADS, TINY_HEADS
from benchmarks.caption.tables import format_caption
from benchmarks.caption.test_parameters import count
from benchmarks.settings import Settings

CPU = torch.device("cpu")
HEAD = TINY_HEADS["tiny"]


def settings(**options: object) -> Settings:
    return Settings(Namespace(**({"size": None, "precision": None, "rounds": None, "batch_size": None} | options)))


def test_cases() -> None:
    _, rows, ids = timed.parametrize(settings(rounds=1))
    assert len(set(ids)) == len(rows) == len(SMALL_HEADS) * 2 * 2 * 2
    assert {str(row[1]).split(",")[0] for row in rows if row[1].texts == 4} == {"2"}  # 2,048 tokens
    _, rows, ids = predicted.parametrize(settings())
    assert len(set(ids)) == len(rows) == len(LARGE_HEADS) * 2 * 2 * 2
    assert len(step.parametrize(settings())[1]) == 4 and len(step.parametrize(settings(size=["tiny"]))[1]) == 1


def test_all_logits_by_hand() -> None:
    """A label is predicted by the row before it; the first label of a text, and what is ignored, by none."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    labels = torch.tensor([[1, 4, IGNORED], [2, IGNORED, 0]])
    logits = torch.log_softmax(hidden @ weight.T, -1)
    expected = -(logits[0, 0, 4] + logits[1, 1, 0]) / 2
    torch.testing.assert_close(full_logits_loss(hidden, weight, labels), expected)


@pytest.mark.parametrize("lora", [False, True])
def test_both_agree(lora: bool) -> None:
    batch = LossBatch(HEAD, 2, "fp32", lora, CPU)
    found, expected = gradients(OURS, batch), gradients(FULL, batch)
    assert expected.keys() == {"loss", "hidden", *(("low", "high") if lora else ())}
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-7, msg=name)
    assert timed._checked(OURS, batch)["error"] < 1e-5


def test_a_wrong_loss_leaves_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(name: str, batch: LossBatch) -> dict[str, torch.Tensor]:
        return {leaf: (1.01 if name == OURS else 1.0) * found for leaf, found in gradients(name, batch).items()}

    monkeypatch.setattr(timed, "gradients", wrong)
    with pytest.raises(AssertionError, match="videomae_fast is wrong"):
        timed._checked.__wrapped__(OURS, LossBatch(HEAD, 1, "fp32", False, CPU))


def test_names() -> None:
    with pytest.raises(ValueError, match=r"name must be one of .*, got 'ours'"):
        make_loss("ours", LossBatch(HEAD, 1, "fp32", False, CPU))


def test_predicted_memory_by_hand() -> None:
    """All logits: in bfloat16, in float32, their log-softmax and gradients. Ours: rows of the answers, and tiles."""
    full, ours = (predicted.predict("Mistral-7B", 4096, True, name) for name in (FULL, OURS))
    head, mib = LARGE_HEADS["Mistral-7B"], 2**20
    logits = 4096 * head.words * 4 / mib
    assert 2.5 * logits <= full["peak_mib"] <= 4 * logits
    rows, part, tile = 4096 * head.width * 4 / mib, 4096 * head.width * 4 / mib, 1024 * 4096 * 4 / mib
    assert ours["peak_mib"] < 3 * rows + part + 4 * tile and ours["peak_mib"] < 0.2 * full["peak_mib"]
    weights = (head.words * head.width * 2 + (head.words + 4096) * RANK * 4) / mib
    assert ours["parameters_mib"] - 4096 * head.width * 2 / mib == pytest.approx(weights, rel=1e-3)
    assert ours["case"].startswith("4,096 tokens") and LENGTH * 8 == 4096


@pytest.mark.slow
def test_parameters_by_hand(tmp_path: Path) -> None:
    """Adapters of Mistral-7B of rank 16, of all linear maps in 32 layers and of the head."""
    pytest.importorskip("peft")
    record = count("videochat2_3", str(tmp_path))
    of, trained = record["parameters_of"], record["trained_of"]
    q, kv, mlp, words = 4096, 1024, 14_336, 32_000
    assert of["language_model"] == 7_241_732_096 and trained["language_model"] == 0
    layer = 2 * (q + q) + 2 * (q + kv) + 3 * (q + mlp)
    assert of["adapters"] == trained["adapters"] == 16 * (32 * layer + q + words)
    assert 1.0e9 < trained["vision_encoder"] < of["vision_encoder"] < 1.1e9
    assert trained["connector"] == of["connector"] and of["cross_attention"] == 0
    assert record["trained"] == sum(trained.values()) and record["parameters"] == sum(of.values())


def record(**fields: Any) -> dict[str, Any]:
    about = {"suite": "caption", "name": "Mistral-7B", "case": "4 tokens", "variant": FULL, "predicted": True}
    return about | {"peak_mib": 200.0} | fields


def test_tables() -> None:
    parts = dict.fromkeys(("vision_encoder", "connector", "cross_attention", "language_model", "adapters"), 0)
    sizes = {"parameters_of": parts | {"connector": 3e6}, "trained_of": parts | {"connector": 1e6}}
    memory = dict.fromkeys(("parameters_mib", "gradients_mib", "optimizer_mib", "activations_mib", "total_mib"), 7.0)
    rows = [
        record(predicted=False, p50_ms=10.0, error=1e-7),
        record(predicted=False, p50_ms=20.0, error=2e-7, variant=OURS, peak_mib=50.0),
        record(),
        record(variant=OURS, peak_mib=20.0),
        record(name="videochat2_3", parameters=4e6, trained=1e6, **sizes),
        record(name="step of videochat2_3", variant="no adapters", largest_batch=9, mib_per_clip=3.0, **memory),
    ]
    text = format_caption(rows)
    for line in (
        "differ from those in float32 by 2.0e-07 at most",
        "| videomae_fast | 20 | 0.50x | 50 | 0.250x |",
        "| Mistral-7B | 4 tokens | 200 | 20 | 0.100x |",
        "| `videochat2_3` | 4 tokens | 3.0, trained 1.0 | 4.0 | 1.0 | 25.0% |",
        "| no adapters | 7 | 7 | 7 | 7 | 7 | 3 | 9 |",
    ):
        assert line in text, line
    assert "Predicted step" not in format_caption(rows[:3])
