"""Adapters are merged where weights are read: W + B·A."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from videomae_fast.interop import CheckpointError, init_weights, read_classifier
from videomae_fast.interop.lora import merged_lora
from videomae_fast.models import VideoMAEConfig, VideoMAEForClassification
from videomae_fast.models.config import CONFIGS

CONFIG = VideoMAEConfig(48, 2, 2, 24, 1, decoder_depth=2, num_frames=8, image_size=(32, 32))
RANK = 3


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "tiny", CONFIG)


def _adapted(state: dict[str, Tensor], layers: list[str]) -> dict[str, Tensor]:
    """The weights with random adapters, under the names of peft."""
    torch.manual_seed(5)
    result = dict(state)
    for layer in layers:
        for name in ("weight", "bias"):
            if f"{layer}.{name}" in state:
                result[f"{layer}.base_layer.{name}"] = result.pop(f"{layer}.{name}")
        out, inputs = state[f"{layer}.weight"].shape
        result[f"{layer}.lora_A.default.weight"] = torch.randn(RANK, inputs)
        result[f"{layer}.lora_B.default.weight"] = torch.randn(out, RANK)
    return result


def _file(folder: Path, rank: int | None = RANK) -> tuple[Path, dict[str, Tensor], dict[str, Tensor]]:
    """A file of adapted weights, its tensors, and the plain weights."""
    torch.manual_seed(1)
    plain = VideoMAEForClassification(CONFIG, 3, init_scale=1.0).state_dict()
    adapted = _adapted(plain, ["blocks.0.attn.qkv", "blocks.1.mlp.fc2"])
    torch.save(adapted, folder / "weights.pth")
    settings = {"data": {"num_frames": 8, "image_size": 32}, "model": {"positions": "sinusoid"}}
    if rank is not None:
        settings["model"]["lora_rank"] = rank
    (folder / "config.json").write_text(json.dumps(settings))
    return folder / "weights.pth", adapted, plain


def test_adapters_are_merged_by_every_reader(tmp_path: Path) -> None:
    path, adapted, plain = _file(tmp_path)
    expected = dict(plain)
    for layer in ("blocks.0.attn.qkv", "blocks.1.mlp.fc2"):
        a, b = (adapted[f"{layer}.lora_{side}.default.weight"].double() for side in "AB")
        expected[f"{layer}.weight"] = plain[f"{layer}.weight"].double() + b @ a
    model = VideoMAEForClassification(CONFIG, 3)
    assert init_weights(model, path) == ""
    for found in (merged_lora(adapted, path), read_classifier(path).state, model.state_dict()):
        assert found.keys() == plain.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor.double(), expected[name].double(), rtol=1e-6, atol=1e-6)


def test_weights_without_adapters_stay_as_they_are(tmp_path: Path) -> None:
    _, _, plain = _file(tmp_path)
    found = merged_lora(plain, tmp_path)
    assert all(found[name] is plain[name] for name in plain)


def test_half_precision_is_kept(tmp_path: Path) -> None:
    _, adapted, _ = _file(tmp_path)
    half = merged_lora({name: tensor.half() for name, tensor in adapted.items()}, tmp_path)
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}


@pytest.mark.parametrize("rank", [None, 0, 2])
def test_an_unknown_scale_is_an_error(rank: int | None, tmp_path: Path) -> None:
    path, _, _ = _file(tmp_path, rank)
    for read in (read_classifier, lambda path: init_weights(VideoMAEForClassification(CONFIG, 3), path)):
        with pytest.raises(CheckpointError, match=r"blocks.0.attn.qkv has adapters of rank 3, and no config.json of a"):
            read(path)


@pytest.mark.parametrize("change", ["no base", "no A", "other rank", "other size"])
def test_adapters_that_do_not_fit(change: str, tmp_path: Path) -> None:
    _, adapted, _ = _file(tmp_path)
    layer = "blocks.0.attn.qkv"
    if change == "no base":
        del adapted[f"{layer}.base_layer.weight"]
    elif change == "no A":
        del adapted[f"{layer}.lora_A.default.weight"]
    else:
        shape = (2, 48) if change == "other rank" else (3, 40)
        adapted[f"{layer}.lora_A.default.weight"] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=re.escape(f"{layer} has adapters that do not fit")):
        merged_lora(adapted, tmp_path)
