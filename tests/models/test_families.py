"""Sizes of every family under one option, their classifiers, and weights that are told apart by their names."""

import re
from typing import Any

import pytest
import torch

from videomae_fast.models import (
    CONFIGS,
    INTERNVIDEO2_CONFIGS,
    InternVideo2,
    InternVideo2Config,
    InternVideo2ForClassification,
    VideoMAEConfig,
    VideoMAEForClassification,
    VideoMAEForPretraining,
    get_config,
    get_internvideo2_config,
)
from videomae_fast.models.families import (
    FAMILIES,
    INTERNVIDEO2,
    SIZES,
    VIDEOMAE,
    classifier_of,
    config_of_size,
    family_of,
    family_of_weights,
)

TINY = {
    "VideoMAE": VideoMAEConfig(16, 2, 2, 16, 2, num_frames=4, image_size=(32, 32)),
    "InternVideo2": InternVideo2Config(16, 2, 2, pool_heads=2, clip_embed_dim=8, num_frames=2, image_size=(28, 28)),
}


def test_every_size_has_one_name() -> None:
    assert list(SIZES) == [*CONFIGS, *(f"internvideo2-{size}" for size in INTERNVIDEO2_CONFIGS)]
    assert len(SIZES) == len(CONFIGS) + len(INTERNVIDEO2_CONFIGS)
    for name in SIZES:
        family = family_of(SIZES[name])
        size = name.removeprefix(family.prefix)
        theirs = get_config(size) if family is VIDEOMAE else get_internvideo2_config(size)
        assert config_of_size(name) == theirs and name.startswith(family.prefix)
    assert config_of_size("internvideo2-1b", num_frames=16) == get_internvideo2_config("1b", num_frames=16)


def test_a_size_that_is_added_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INTERNVIDEO2_CONFIGS, "mine", TINY["InternVideo2"])
    assert config_of_size("internvideo2-mine") == TINY["InternVideo2"] and "mine" not in SIZES


@pytest.mark.parametrize("name", ["1b", "internvideo2-huge", "internvideo2-", "", "InternVideo2-base"])
def test_unknown_sizes(name: str) -> None:
    assert name not in SIZES
    with pytest.raises(ValueError, match=re.escape(f"model must be one of {', '.join(SIZES)}, got '{name}'")):
        config_of_size(name)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_classifiers_and_their_weights(family: Any) -> None:
    config = TINY[family.name]
    assert family_of(config) is family
    model = classifier_of(config, 5, head_dropout=0.25, init_scale=1.0)
    assert isinstance(model, VideoMAEForClassification if family is VIDEOMAE else InternVideo2ForClassification)
    assert model.config == config and model.num_classes == 5 and model.head_dropout.p == 0.25
    assert model.head.weight.std() > 0.01 and classifier_of(config, 5).head.weight.std() < 0.001
    with pytest.raises(ValueError, match="num_classes must be positive, got 0"):
        classifier_of(config, 0)
    for state in (model.state_dict(), {f"encoder.{name}": t for name, t in model.state_dict().items()}):
        assert family_of_weights(state) is family


def test_positions_are_for_fixed_tables() -> None:
    options: dict[str, Any] = {"positions": "sinusoid", "trained_clip": (16, 224, 224)}
    model = classifier_of(TINY["VideoMAE"], 5, **options)
    torch.manual_seed(0)
    other = classifier_of(TINY["VideoMAE"], 5)
    assert isinstance(model, VideoMAEForClassification) and isinstance(other, VideoMAEForClassification)
    assert not torch.equal(model.position, other.position)
    assert not VIDEOMAE.learns_positions and INTERNVIDEO2.learns_positions


def test_weights_without_a_head() -> None:
    assert family_of_weights(InternVideo2(TINY["InternVideo2"]).state_dict()) is INTERNVIDEO2
    assert family_of_weights(VideoMAEForPretraining(TINY["VideoMAE"]).state_dict()) is VIDEOMAE
    assert family_of_weights({"anything": torch.zeros(1)}) is VIDEOMAE
