"""Every file of examples/configs/distil: what is published, what fine-tuning has, and one cache for both students."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae_fast.cli import build_parser
from videomae_fast.cli.runs import read_config
from videomae_fast.engine.optim import learning_rate
from videomae_fast.models import VideoMAEForClassification
from videomae_fast.recipes.distil import DistilConfig
from videomae_fast.recipes.finetune import FinetuneConfig

pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "configs" / "distil"
# Size, weights in millions with 710 classes, learning rate after the warm-up on 32 GPUs, share of the teacher's work.
STUDENTS = {"vit_b_from_g_k710": ("base", 86.77, 1.4e-3, 82), "vit_s_from_g_k710": ("small", 22.15, 1e-3, 94)}
GMAC = {"base": 180.3, "small": 56.9, "giant": 2543}  # of a forward pass


def _load(name: str) -> DistilConfig:
    """As `videomae-fast distil --config` does."""
    args = build_parser().parse_args(["distil", "--config", str(FOLDER / f"{name}.toml")])
    return read_config(args, DistilConfig)


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == STUDENTS.keys()


@pytest.mark.parametrize("name", STUDENTS)
def test_a_file(name: str) -> None:
    size, millions, peak, share = STUDENTS[name]
    config, text = _load(name), (FOLDER / f"{name}.toml").read_text()
    assert config.model.model == size
    with torch.device("meta"):
        model = VideoMAEForClassification(config.model_config(), 710)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    rate = learning_rate(config.optimizer.warmup_epochs * 10, config.optimizer, 10, 32 * config.optimizer.batch_size)
    assert rate == pytest.approx(peak)
    assert (config.distillation.temperature, config.distillation.label_weight) == (1.0, 0.0)
    work = GMAC["giant"] / (GMAC["giant"] + 3 * GMAC[size])  # backward is two forward passes
    assert round(100 * work) == share and f"{share} % of the multiplications" in text
    assert f"distil/{name}.toml" in text


def test_the_rest_is_the_published_fine_tuning() -> None:
    """Its defaults are those of ViT-B on Kinetics-400 and Kinetics-710, which are the same."""
    changed = {"epochs": 90, "workers": 8}
    base = _load("vit_b_from_g_k710").with_options(**changed).flat()
    published: dict[str, Any] = FinetuneConfig().flat()
    assert {name: base[name] for name in published} == published


def test_one_student_can_read_what_the_other_wrote() -> None:
    """All options that enter the key of a cache are the same: see `Distillation.cache_key`."""
    first, second = map(_load, STUDENTS)
    assert (first.data, first.augmentation, first.run) == (second.data, second.augmentation, second.run)
    batches = [config.optimizer.samples for config in (first, second)]
    assert batches[0] == batches[1]
    told = re.search(r"([\d.]+) GB an epoch", (FOLDER / "vit_b_from_g_k710.toml").read_text())
    assert told and float(told[1]) == round(658_340 * first.data.crops_per_video * 710 * 2 / 1e9, 1)
