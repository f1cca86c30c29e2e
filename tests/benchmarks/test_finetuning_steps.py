"""Fine-tuning steps: the same branches dropped in all, FLOPs counted by hand, memory predicted."""

from argparse import Namespace
from dataclasses import replace

import pytest
import torch

from benchmarks.finetune import test_predicted as predicted
from benchmarks.finetune import test_step as timed
from benchmarks.finetune.contenders import FinetuningCase
from benchmarks.finetune.predictable import PREDICTABLE, make_predictable
from benchmarks.finetune.steps import CLIPS, DROP_PATH, IMPLEMENTATIONS, FinetuningInputs, make_finetuning_step
from benchmarks.harness.run import DisagreementError
from benchmarks.model.agreement import Outcome, check_same_gradients
from benchmarks.model.contenders import StepContenders
from benchmarks.settings import SIZES, Settings
from videomae_fast.memory.fake_cuda import DEVICE
from videomae_fast.models import CONFIGS

CASE = FinetuningCase("tiny", "fp32", 6, torch.device("cpu"))


def settings(**options: object) -> Settings:
    given = {"size": None, "precision": None, "rounds": None, "batch_size": None}
    return Settings(Namespace(**given | options))


def test_the_published_rates_and_batches() -> None:
    assert DROP_PATH.keys() == CLIPS.keys() == SIZES.keys()
    assert FinetuningCase("giant", "bf16", 6, DEVICE).config == replace(CONFIGS["giant"], drop_path=0.3)
    _, rows, ids = predicted.parametrize(settings())
    assert len(set(ids)) == len(rows) == len(CONFIGS) * len(PREDICTABLE)
    assert str(rows[-1][0]) == "6 clips of 16x224x224, bf16, drop path 0.3"


def test_timed_cases() -> None:
    _, rows, _ = timed.parametrize(settings(size=["base"], rounds=2, batch_size=3, precision=["fp32"]))
    assert [row[1:] for row in rows] == [(name, 1) for name in timed.IMPLEMENTATIONS] * 2
    assert {str(row[0]) for row in rows} == {"3 clips of 16x224x224, fp32, drop path 0.1"}
    assert set(timed.IMPLEMENTATIONS) <= set(IMPLEMENTATIONS)


@pytest.mark.parametrize("name", ["videomae_fast", "published + SDPA", "published, checkpointed"])
def test_all_agree_on_loss_and_gradients(name: str) -> None:
    inputs = CASE.inputs()
    assert (~inputs.keep[1]).sum() > 0 and inputs.keep[0].all()
    expected, found = (Outcome.of(make_finetuning_step(each, inputs)) for each in ("published", name))
    error = check_same_gradients(name, found, expected, "fp32")
    assert error["gradient"] < 1e-5


def test_a_branch_that_is_dropped_for_all_clips_has_no_gradient() -> None:
    inputs = replace(CASE, batch_size=1).inputs()
    assert not inputs.keep[1].all()
    expected, found = (Outcome.of(make_finetuning_step(name, inputs)) for name in ("published", "videomae_fast"))
    assert any(not gradient.any() for gradient in expected.gradients.values())
    assert check_same_gradients("videomae_fast", found, expected, "fp32")["parameter"] < 1e-4
    name = next(name for name, gradient in expected.gradients.items() if not gradient.any())
    found.gradients[name] = torch.ones_like(found.gradients[name])
    with pytest.raises(DisagreementError, match="'parameter': inf"):
        check_same_gradients("videomae_fast", found, expected, "fp32")


def test_another_draw_is_no_agreement() -> None:
    other = CASE.inputs()
    vars(other)["keep"] = other.keep.flip(2)
    expected = Outcome.of(make_finetuning_step("published", other))
    with pytest.raises(DisagreementError, match="'x' and the published code disagree"):
        check_same_gradients("x", Outcome.of(make_finetuning_step("videomae_fast", CASE.inputs())), expected, "fp32")


def test_a_case_for_the_contenders() -> None:
    contenders = StepContenders(memory_budget=None)
    step, record = contenders.ready(CASE, "videomae_fast")
    assert step is not None and (record["suite"], record["name"]) == ("finetune", "tiny")
    assert record["case"] == "6 clips of 8x32x32, fp32, drop path 0.5"
    assert record["error"]["gradient"] < 1e-5 and record["syncs"] == 0


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"name must be one of \('published', .*, got 'ours'"):
        make_finetuning_step("ours", CASE.inputs())
    with pytest.raises(ValueError, match=r"name must be one of .*, got 'published \+ SDPA \+ compile'; compiled"):
        make_predictable("published + SDPA + compile", CASE.config, 2)


def test_flops_by_hand() -> None:
    """Matrix products of ViT-tiny; forward, weights' and inputs' gradients, but no gradient of the clip."""
    records = {
        name: predicted.predict(replace(CASE, precision="bf16"), name) for name in ("published", "videomae_fast")
    }
    tokens, dim, hidden = 64, 24, 96
    embedding, head = 2 * 2 * tokens * 384 * dim, 3 * 2 * dim * 400
    attention, linear = 3 * 2 * tokens * 4 * dim * dim, 3 * 2 * tokens * dim * hidden  # linear: of two in an MLP
    published = embedding + 2 * (attention + 2 * linear) + head
    # The second block drops half of its branches; its last product is that of the mean.
    ours = embedding + attention + 2 * linear + 0.5 * (attention + linear + linear / tokens) + head
    for name, flops in (("published", published), ("videomae_fast", ours)):
        found = records[name]["tflop_per_clip_by_part"]["matrix products"]
        assert found * 1e12 == pytest.approx(flops, rel=1e-9)
    assert records["videomae_fast"]["peak_mib"] < 0.5 * records["published"]["peak_mib"]
    assert all(record["predicted"] and record["syncs"] == 0 for record in records.values())


def test_the_draws_are_those_of_the_step() -> None:
    inputs = FinetuningInputs(CASE.config, 1000, torch.device("cpu"))
    assert inputs.keep[1].float().mean() == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(inputs.keep[1, 0], inputs.keep[1, 1])
