"""`videomae-fast memory --recipe finetune`: the step that is predicted, and its report."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.recipes import aligned, tiny
from videomae_fast.cli import main
from videomae_fast.memory.predict import predict_step
from videomae_fast.models import CONFIGS, INTERNVIDEO2_CONFIGS
from videomae_fast.models.families import SIZES
from videomae_fast.recipes import step_memory
from videomae_fast.recipes.step_memory import CHECKPOINTED, OURS, FinetuningStep, StepSettings

CLIP = {"num_frames": 2, "image_size": (28, 28)}


@pytest.fixture(autouse=True)
def small_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INTERNVIDEO2_CONFIGS, "tiny", replace(aligned.STUDENT, **CLIP))
    monkeypatch.setitem(CONFIGS, "tiny", replace(tiny.TINY, num_frames=2, image_size=(32, 32)))
    monkeypatch.setattr(step_memory, "KNOWN_BATCHES", (2, 4))


def settings(name: str = "internvideo2-tiny", precision: str = "fp32") -> StepSettings:
    return StepSettings(name, precision=precision, recipe="finetune")


@pytest.mark.parametrize("name", [OURS, CHECKPOINTED])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_is_a_step_that_learns(name: str, precision: str) -> None:
    torch.manual_seed(0)
    step = FinetuningStep(name, settings(precision=precision))
    step.set_batch_size(2)
    step.clip.normal_()
    assert step.config.activation_checkpointing == (name == CHECKPOINTED)
    before = {key: parameter.clone() for key, parameter in step.model.named_parameters()}
    step()
    assert all(not torch.equal(parameter, before[key]) for key, parameter in step.model.named_parameters())


def test_memory_grows_with_clips_and_shrinks_with_checkpoints() -> None:
    def peak(name: str, clips: int) -> int:
        def make() -> FinetuningStep:
            step = FinetuningStep(name, settings("internvideo2-tiny", "bf16"))
            step.set_batch_size(clips)
            return step

        return predict_step(make).figures.peak_bytes

    ours = [peak(OURS, clips) for clips in (64, 128)]
    assert ours[0] < ours[1] and peak(CHECKPOINTED, 128) < ours[1]


@pytest.mark.parametrize("model, title", [("tiny", "ViT-tiny, "), ("internvideo2-tiny", "internvideo2-tiny, ")])
def test_report(model: str, title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its largest batches are found as for every step."""
    monkeypatch.setattr(step_memory, "largest_batches", lambda predict, cards, known: dict.fromkeys(cards, 7))
    assert model in SIZES
    maker = step_memory.make_step(OURS, settings(model))
    assert isinstance(maker, partial) and maker.func is FinetuningStep
    report = step_memory.MemoryReport((OURS,), settings(model), 2).text()
    assert report.startswith(title + "2 clips of ") and "fp32, all tokens, 400 classes" in report
    assert "**peak**" in report and "decoder" not in report


def test_what_does_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "--model", "internvideo2-1b"]) == 2
    assert "model internvideo2-1b has no step of pre-training: take recipe 'finetune'" in capsys.readouterr().err
    for name in ("mask_ratio", "decoder_mask_ratio"):
        option = f"--{name.replace('_', '-')}"
        assert main(["memory", "--model", "base", "--recipe", "finetune", option, "0.25"]) == 2
        assert f"recipe 'finetune' masks nothing: leave {name} at " in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"recipe must be one of \('pretrain', 'finetune'\), got 'align'"):
        StepSettings("base", recipe="align")
