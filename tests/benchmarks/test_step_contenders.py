"""Implementations round by round: made once, checked first, measured alone; and the search for the largest batch."""

from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from benchmarks.harness.run import DisagreementError
from benchmarks.inputs import Inputs
from benchmarks.model import contenders as module
from benchmarks.model.contenders import ROUNDS, StepCase, StepContenders, search_largest
from benchmarks.model.steps import IMPLEMENTATIONS, Implementation
from benchmarks.model.test_step import parametrize
from benchmarks.settings import Settings
from videomae_fast.models import CONFIGS

CASE = StepCase("tiny", "fp32", 0.9, 0.5, 2, torch.device("cpu"))


def test_every_group_begins_with_its_reference_and_is_known() -> None:
    for size in CONFIGS:
        for decoder_mask_ratio in (0.0, 0.5):
            case = StepCase(size, "bf16", 0.9, decoder_mask_ratio, 128, torch.device("cpu"))
            assert case.implementations[0] == case.reference
            assert set(case.implementations) <= set(IMPLEMENTATIONS)
            assert ("checkpointed" in case.reference) == (size in ("huge", "giant"))


def test_a_step_is_prepared_once_per_case() -> None:
    contenders = StepContenders(memory_budget=None)
    step, record = contenders.ready(CASE, "videomae_fast")
    assert contenders.ready(CASE, "published")[0] is not step
    assert contenders.ready(CASE, "videomae_fast") == (step, record)
    assert contenders.ready(StepCase("tiny", "fp32", 0.9, 0.25, 2, CASE.device), "videomae_fast")[0] is not step


def test_figures_add_up() -> None:
    step, record = StepContenders(memory_budget=None).ready(CASE, "videomae_fast")
    assert step is not None
    parameters = sum(p.nbytes for p in step.model.parameters())
    moments, counters = 2 * parameters, 4 * len(list(step.model.parameters()))
    tables = sum(b.nbytes for b in step.model.buffers())
    inputs = 2 * 8 * 32 * 32 * 3 + 2 * 8  # frames and sample numbers
    assert record["total_mib"] - record["peak_mib"] == pytest.approx(
        (parameters + moments + counters + tables + inputs) / 2**20
    )
    assert record["peak_mib"] > parameters / 2**20  # gradients are part of a step


def test_disagreement_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(*arguments: object) -> None:
        raise DisagreementError("they disagree")

    monkeypatch.setattr(module, "check_same_gradients", disagree)
    monkeypatch.setattr(module, "peak_mib", lambda *arguments: pytest.fail("measured although they disagree"))
    contenders = StepContenders(memory_budget=None)
    for _ in range(2):  # in its second round too
        with pytest.raises(DisagreementError):
            contenders.ready(CASE, "videomae_fast")


def test_out_of_memory_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*arguments: object) -> float:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(module, "peak_mib", too_much)
    step, record = StepContenders(memory_budget=None).ready(CASE, "videomae_fast")
    assert step is None and record["not_run"] == "out of memory" and "peak_mib" not in record


def test_moving_a_step_away_and_back_changes_nothing() -> None:
    step, _ = StepContenders(memory_budget=None).ready(CASE, "videomae_fast")
    assert step is not None
    loss, resident = step.loss().item(), step.resident_mib()
    step.move("meta")
    state = [value for values in step.optimizer.state.values() for value in values.values()]
    assert {tensor.device.type for tensor in (*step.model.parameters(), *state)} == {"meta"}
    step, _ = StepContenders(memory_budget=None).ready(CASE, "videomae_fast")
    assert step is not None
    step.move("cpu")
    assert (step.loss().item(), step.resident_mib()) == (loss, resident)


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 127, 128, 129, 1000])
@pytest.mark.parametrize("start", [1, 128])
def test_search_largest(limit: int, start: int) -> None:
    asked: list[int] = []

    def fits(n: int) -> bool:
        asked.append(n)
        return n <= limit

    found = search_largest(fits, start)
    assert limit - limit // 32 <= found <= limit
    assert len(asked) == len(set(asked)) <= 18 and 0 not in asked


def test_largest_batch_is_tried_and_leaves_the_step_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a card of 5 clips, as far as one can be had without one."""
    step, _ = StepContenders(memory_budget=None).ready(CASE, "videomae_fast")
    assert step is not None
    before, fractions = step.loss, []

    def make_loss(self: Implementation, inputs: Inputs, *rest: object) -> Callable[[], torch.Tensor]:
        def loss() -> torch.Tensor:
            if inputs.batch_size > 5:
                raise torch.OutOfMemoryError("no more memory")
            return next(step.model.parameters()).sum()

        return loss

    monkeypatch.setattr(Implementation, "make_loss", make_loss)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=8 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: fractions.append(share))
    assert module.largest_batch_within(step, CASE, gib=2.0) == 5
    assert fractions == [0.25, 1.0]
    assert step.loss is before and all(p.grad is None for p in step.model.parameters())


def test_samples_are_shared_between_rounds() -> None:
    for rounds in (1, 2, 3, 7):
        options = Namespace(
            size=["tiny"],
            rounds=rounds,
            batch_size=2,
            precision=None,
            mask_ratio=None,
            decoder_mask_ratio=[0.5],
            published_repo=None,
        )
        _, rows, ids = parametrize(Settings(options))
        names = CASE.implementations
        assert len(ids) == len(set(ids)) == len(rows) == min(rounds, ROUNDS) * len(names)
        assert [name for _, name, _ in rows] == list(names) * min(rounds, ROUNDS)
        assert sum(share for _, name, share in rows if name == "published") == rounds
