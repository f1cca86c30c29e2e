"""Pre-training weights of transformers: what the files beside them say of the model and its pixels counts, too."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining
from videomae_fast.interop import CheckpointError, init_weights, read_feature_model, to_huggingface
from videomae_fast.interop.checkpoint import write_safetensors
from videomae_fast.models import CONFIGS, VideoMAEForClassification
from videomae_fast.models.constants import IMAGENET_MEAN, IMAGENET_STD

TINY = VideoMAEConfig(24, 3, 3, 16, 2, decoder_depth=1, patch_size=8, num_frames=4, image_size=(16, 16))
READERS: dict[str, Callable[[Path], Any]] = {
    "features": read_feature_model,
    "pre-training": lambda folder: init_weights(VideoMAEForPretraining(TINY), folder),
    "fine-tuning": lambda folder: init_weights(VideoMAEForClassification(TINY, 3), folder),
}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setitem(CONFIGS, "tiny", TINY)
    torch.manual_seed(0)
    state = VideoMAEForPretraining(TINY).state_dict()
    write_safetensors(to_huggingface(state, "qv"), tmp_path / "model.safetensors")
    write_config(tmp_path)
    return tmp_path


def write_config(folder: Path, **settings: Any) -> None:
    (folder / "config.json").write_text(json.dumps({"num_frames": 4, "image_size": 16} | settings))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"hidden_act": "relu"}, "config.json has hidden_act 'relu'"),
        ({"num_attention_heads": 8}, "config.json has 8 attention heads for a width of 24"),
        ({"num_attention_heads": 7}, "config.json has num_attention_heads 7, which does not divide"),
    ],
)
def test_settings_of_another_model(reader: str, settings: dict[str, Any], message: str, folder: Path) -> None:
    READERS[reader](folder)
    write_config(folder, **settings)
    with pytest.raises(CheckpointError, match=message):
        READERS[reader](folder)


@pytest.mark.parametrize("reader", READERS)
def test_pixels_that_are_normalised_otherwise(reader: str, folder: Path) -> None:
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        READERS[reader](folder)
    file.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    with pytest.warns(UserWarning, match="preprocessor_config.json has image_mean"):
        READERS[reader](folder)
