"""The parameters of the captioners of the shipped settings, and how many are trained: counted, without weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.caption.captioners import LANGUAGE_MODEL_OF, TINY, captioner_config
from benchmarks.caption.sizes import write_language_model
from benchmarks.settings import Settings
from videomae_fast.recipes.caption_model import build_captioner_of_size

PARTS = ("vision_encoder", "connector", "cross_attention", "language_model")


def parametrize(settings: Settings) -> tuple[str, list[tuple[str, bool]], list[str]]:
    """Every file of examples/configs/caption."""
    is_tiny = settings.options.size == ["tiny"]
    return "config, is_tiny", [(config, is_tiny) for config in LANGUAGE_MODEL_OF], list(LANGUAGE_MODEL_OF)


@pytest.mark.benchmark(group="caption")
def test_parameters(config: str, is_tiny: bool, benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    record = benchmark.pedantic(count, (config, str(tmp_path), is_tiny), rounds=1)
    assert 0 < record["trained"] < record["parameters"]
    benchmark.extra_info["record"] = record


def count(settings: str, folder: str, is_tiny: bool = False) -> dict[str, Any]:
    """The record of a file of settings: parameters, and those trained, in all and by part."""
    language_model = "tiny" if is_tiny else LANGUAGE_MODEL_OF[settings]
    write_language_model(language_model, folder)
    config = captioner_config(settings, folder, **(TINY if is_tiny else {}))
    with torch.device("meta"):
        model = build_captioner_of_size(config)
    parts = dict.fromkeys((*PARTS, "adapters"), 0)
    trained = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        part = "adapters" if ".lora_" in name else name.partition(".")[0]
        parts[part] += parameter.numel()
        trained[part] += parameter.numel() * parameter.requires_grad
    return {
        "suite": "caption",
        "name": settings,
        "case": f"{config.model.model} and {language_model}",
        "variant": "parameters",
        "predicted": True,
        "parameters": sum(parts.values()),
        "trained": sum(trained.values()),
        "parameters_of": parts,
        "trained_of": trained,
    }
