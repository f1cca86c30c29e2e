"""A run adapts its model to the memory of its GPU, before it is built."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.recipes import internvideo2, tiny
from videomae_fast.recipes.finetune import Finetuning
from videomae_fast.recipes.pretrain import Pretraining


@pytest.mark.parametrize(
    ("options", "device", "gibibytes", "expected"),
    [
        ({}, "cuda", 80, "never"),
        ({}, "cuda", 2, "always"),
        ({"batch_size": 4000000}, "cuda", 80, "always"),
        ({"batch_size": 4, "accumulate": 1000000}, "cuda", 80, "never"),  # memory is that of one part
        ({"recompute": "always"}, "cuda", 80, "always"),
        ({"recompute": "never"}, "cuda", 2, "never"),
        ({}, "cpu", 80, "auto"),
    ],
    ids=str,
)
def test_a_small_gpu_recomputes(
    options: dict,
    device: str,
    gibibytes: int,
    expected: str,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The GPU's memory decides about recomputation, and the run names an active FlashAttention."""
    card = SimpleNamespace(total_memory=gibibytes * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr("videomae_fast.recipes.fit.activate_flash_attention", lambda device: "FA4")
    settings, said = tiny.settings(videos, tmp_path, **options), []
    model, _ = Pretraining(settings).build(torch.device(device), said.append)
    assert model.config == replace(settings.model_config(), recompute=expected)
    assert said == ["attention runs on FA4"] * (device == "cuda")


@pytest.mark.parametrize("gibibytes, expected", [(80, "never"), (2, "always")])
def test_so_does_a_classifier_of_internvideo2(
    gibibytes: int, expected: str, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = SimpleNamespace(total_memory=gibibytes * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr("videomae_fast.recipes.fit.activate_flash_attention", lambda device: "")
    config = internvideo2.finetuning(labelled, tmp_path)
    model, _ = Finetuning(config).build(torch.device("cuda"), print)
    assert model.config == replace(config.model_config(), recompute=expected)  # type: ignore[type-var]
