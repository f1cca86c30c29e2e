"""The learning rate of every step and the choice of decayed parameters, against the published rules written again."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from tests.recipes import tiny
from videomae_fast.engine.log import read_log
from videomae_fast.engine.optim import learning_rate, make_optimizer, scaled_lr
from videomae_fast.models import VideoMAEForPretraining, get_config
from videomae_fast.recipes.pretrain import PretrainConfig, pretrain
from videomae_fast.recipes.schedule import OptimizerOptions


def _published(peak: float, final: float, epochs: int, steps_per_epoch: int, warmup_epochs: int) -> np.ndarray:
    """`cosine_scheduler` of utils.py as its arrays: the warm-up includes both ends, the cosine its first only."""
    warmup = np.linspace(0, peak, warmup_epochs * steps_per_epoch)
    count = epochs * steps_per_epoch - len(warmup)
    cosine = [final + 0.5 * (peak - final) * (1 + math.cos(math.pi * i / count)) for i in range(count)]
    return np.concatenate([warmup, cosine])


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "warmup_epochs"),
    [(200, 7, 20), (3, 4, 1), (5, 3, 0), (2, 1, 1), (10, 1, 9)],
)
def test_learning_rate_is_the_published_schedule(epochs: int, steps_per_epoch: int, warmup_epochs: int) -> None:
    config = OptimizerOptions(epochs=epochs, warmup_epochs=warmup_epochs, lr=6e-4, final_lr=1e-5)
    videos = 32 * 64
    expected = _published(6e-4 * videos / 256, 1e-5 * videos / 256, epochs, steps_per_epoch, warmup_epochs)
    rates = [learning_rate(step, config, steps_per_epoch, videos) for step in range(epochs * steps_per_epoch)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-18)


def test_the_schedule_starts_at_zero_and_reaches_its_peak() -> None:
    config = OptimizerOptions(epochs=10, warmup_epochs=2, lr=1e-3, final_lr=1e-5)
    rates = [learning_rate(step, config, 5, 256) for step in range(50)]
    assert rates[0] == 0
    assert rates[9] == max(rates) == rates[10] == 1e-3
    assert min(rates[10:]) == rates[-1] > 1e-5  # the cosine ends one step before final_lr, as published


def test_lr_scales_with_videos_and_not_with_crops() -> None:
    assert scaled_lr(1e-3, 1024) == pytest.approx(4e-3)
    few, many = (
        learning_rate(
            40, PretrainConfig.from_options(crops_per_video=crops, epochs=20, warmup_epochs=2).optimizer, 10, 512
        )
        for crops in (1, 4)
    )
    assert few == many
    assert learning_rate(40, OptimizerOptions(epochs=20, warmup_epochs=2), 10, 1024) == pytest.approx(2 * few)


def test_matrices_decay_and_nothing_else() -> None:
    model = VideoMAEForPretraining(get_config("tiny", num_frames=8, image_size=(32, 32)))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_optimizer(model, OptimizerOptions(weight_decay=0.05), undecayed={"mask_token"}).param_groups
    decay = {names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay.keys() == set(names.values())
    # By name, independently of shapes: every ".weight" that is not a norm's.
    expected = {name for name in decay if name.endswith(".weight") and "norm" not in name}
    assert {name for name, value in decay.items() if value == 0.05} == expected
    assert {value for name, value in decay.items() if name not in expected} == {0.0}
    for kept in ("mask_token", "encoder.blocks.0.attn.q_bias", "encoder.norm.weight", "decoder.head.bias"):
        assert decay[kept] == 0.0
    assert decay["encoder.patch_embed.proj.weight"] == decay["decoder.blocks.1.attn.qkv.weight"] == 0.05


def test_optimizer_has_the_published_betas() -> None:
    model = VideoMAEForPretraining(get_config("tiny", num_frames=8, image_size=(32, 32)))
    for group in make_optimizer(model, OptimizerOptions()).param_groups:
        assert group["betas"] == (0.9, 0.95)
        assert group["eps"] == 1e-8
    assert {group["eps"] for group in make_optimizer(model, OptimizerOptions(), eps=1e-6).param_groups} == {1e-6}


def test_the_log_holds_the_learning_rate_of_every_step(videos: Path, tmp_path: Path) -> None:
    config = tiny.settings(videos, tmp_path / "run")
    pretrain(config)
    rates = [float(row["lr"]) for row in read_log(tmp_path / "run")]
    np.testing.assert_allclose(rates, _published(0.1 * 2 / 256, 1e-3 * 2 / 256, 3, 4, 1), rtol=1e-12, atol=1e-18)


class _Stack(nn.Sequential):
    """Layers "0", "1", "2"; the first is frozen."""

    def __init__(self) -> None:
        super().__init__(*(nn.Linear(2, 2) for _ in range(3)))
        self[0].requires_grad_(False)


def test_learning_rates_decay_with_depth() -> None:
    model, options = _Stack(), SimpleNamespace(layer_decay=0.5, weight_decay=0.05, beta2=0.999)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_optimizer(model, options, layer=lambda name: int(name[0])).param_groups
    found = {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found == {"1.weight": (0.5, 0.05), "1.bias": (0.5, 0.0), "2.weight": (1.0, 0.05), "2.bias": (1.0, 0.0)}


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="model has no parameter that requires a gradient"):
        make_optimizer(_Stack().requires_grad_(False), OptimizerOptions())
