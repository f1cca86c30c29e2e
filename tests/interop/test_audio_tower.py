"""Audio towers start from files of BEATs, and models with sound from InternVideo2's second stage."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.interop.models import disturb
from tests.interop.test_video_text import BERT, STUDENT, known_width, published, second_stage, write
from videomae_fast.interop import (
    CheckpointError,
    audio_tower,
    beats_config_of,
    init_audio_tower,
    init_split_bert,
    init_video_text,
    init_video_tower,
)
from videomae_fast.interop.checkpoint import read_checkpoint
from videomae_fast.models import AudioTower, AudioVideoTextModel, BeatsConfig, InternVideo2Tower, SplitBert

__all__ = ["known_width"]
# The settings of a file of BEATs. Those of the published files are the same but for their sizes.
CFG: dict[str, Any] = {
    "encoder_embed_dim": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_embed_dim": 24,
    "embed_dim": 12,
    "input_patch_size": 16,
    "conv_pos": 6,
    "conv_pos_groups": 4,
    "num_buckets": 8,
    "max_distance": 12,
    "deep_norm": True,
    "layer_norm_first": False,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "encoder_layerdrop": 0.05,
    "finetuned_model": False,
}
CONFIG = BeatsConfig(16, 2, 2, 24, patch_dim=12, conv_kernel=6, conv_groups=4, buckets=8, max_distance=12)
_TABLE = "encoder.layers.{}.self_attn.relative_attention_bias.weight"


def tower() -> AudioTower:
    found = disturb(AudioTower(CONFIG))
    assert isinstance(found, AudioTower)
    return found


def beats(model: AudioTower) -> dict[str, Tensor]:
    """The weights as BEATs saves them: with the table in every layer."""
    state = dict(model.state_dict())
    return state | {_TABLE.format(1): state[_TABLE.format(0)]}


def save(folder: Path, state: dict[str, Tensor], **changes: Any) -> Path:
    path = folder / "beats.pt"
    torch.save({"cfg": CFG | changes, "model": state}, path)
    return path


def test_a_tower_starts_from_beats(tmp_path: Path) -> None:
    original = tower()
    path = save(tmp_path, beats(original))
    assert beats_config_of(path) == CONFIG
    found = AudioTower(beats_config_of(path))
    assert init_audio_tower(found, path) == ""
    assert all(torch.equal(tensor, original.state_dict()[name]) for name, tensor in found.state_dict().items())


def test_settings_are_read_once_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = save(tmp_path, beats(tower())), []
    monkeypatch.setattr(audio_tower, "read_checkpoint", lambda file: reads.append(file) or read_checkpoint(file))
    assert beats_config_of(path) == beats_config_of(path) == CONFIG and len(reads) == 1
    save(tmp_path, beats(tower()) | {"other": torch.ones(9)}, max_distance=13)
    assert beats_config_of(path) == replace(CONFIG, max_distance=13) and len(reads) == 2


def test_a_predictor_of_classes_is_not_used(tmp_path: Path) -> None:
    extra = {"predictor.weight": torch.ones(5, 16), "predictor.bias": torch.ones(5)}
    path = save(tmp_path, beats(tower()) | extra, finetuned_model=True)
    assert "not used: predictor.weight, predictor.bias" in init_audio_tower(AudioTower(CONFIG), path)


def test_published_defaults_are_those_of_beats(tmp_path: Path) -> None:
    torch.save(
        {"cfg": {"input_patch_size": 16, "gru_rel_pos": True, "relative_position_embedding": True}, "model": {}},
        tmp_path / "a",
    )
    assert beats_config_of(tmp_path / "a") == BeatsConfig(deep_norm=False, max_distance=1280)


def change(**changed: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {**state, **changed}


REFUSED: list[tuple[Callable[[dict[str, Tensor]], Any], str]] = [
    (lambda s: {n: t for n, t in s.items() if "grep_a" not in n}, "missing: encoder.layers.0.self_attn.grep_a, enc"),
    (change(other=torch.ones(1)), "unexpected: other"),
    (lambda s: {"a": torch.ones(1)}, "it holds no BEATs: its names are 'a' … 'a'"),
    (
        lambda s: s | {_TABLE.format(1): torch.ones(8, 2)},
        "layers.1.self_attn.relative_attention_bias.weight is not the",
    ),
    (lambda s: s | {"layer_norm.weight": torch.ones(13)}, "layer_norm.weight is (13,) in the checkpoint, (12,) in the"),
]


@pytest.mark.parametrize(("edit", "message"), REFUSED, ids=[each[1][:30] for each in REFUSED])
def test_what_no_tower_is(edit: Callable[[dict[str, Tensor]], Any], message: str, tmp_path: Path) -> None:
    found = AudioTower(CONFIG)
    before = {name: tensor.clone() for name, tensor in found.state_dict().items()}
    with pytest.raises(CheckpointError, match=re.escape(message)):
        init_audio_tower(found, save(tmp_path, edit(beats(tower()))))
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_first": True}, "cfg has layer_norm_first True, and only False is known here"),
        ({"activation_fn": "relu"}, "cfg has activation_fn 'relu', and only 'gelu' is known here"),
        ({"gru_rel_pos": False}, "cfg has gru_rel_pos False"),
        ({"encoder_attention_heads": 3}, "cfg cannot be used: dim 16 is not divisible by heads 3"),
        ({"input_patch_size": -1}, "cfg cannot be used: patch_size must be a positive integer, got -1"),
        ({"num_buckets": "8"}, "cfg cannot be used: buckets must be a positive integer, got '8'"),
    ],
)
def test_settings_of_another_model(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        beats_config_of(save(tmp_path, {}, **changes))


def test_a_file_without_settings(tmp_path: Path) -> None:
    path = write(beats(tower()), tmp_path)
    with pytest.raises(CheckpointError, match=r"is no file of BEATs: it must hold settings, 'cfg'"):
        beats_config_of(path)
    with pytest.raises(FileNotFoundError):
        beats_config_of(tmp_path / "none.pt")
    (tmp_path / "damaged.pt").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="is damaged"):
        beats_config_of(tmp_path / "damaged.pt")


def with_sound() -> AudioVideoTextModel:
    return AudioVideoTextModel(InternVideo2Tower(STUDENT), SplitBert(BERT, 20), AudioTower(CONFIG), 6)


def test_the_second_stage_with_sound_is_read(tmp_path: Path) -> None:
    original = disturb(with_sound())
    state: Any = original.state_dict()
    copy = {f"audio_encoder.{_TABLE.format(1)}": state[f"audio_encoder.{_TABLE.format(0)}"]}
    path = write(published(original) | copy, tmp_path)
    model = with_sound()
    report = init_video_text(model, path)
    total = len(model.state_dict())
    assert report.startswith(f"{total} of {total} tensors of AudioVideoTextModel are from") and "new" not in report
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    video, text, audio = InternVideo2Tower(STUDENT), SplitBert(BERT, 20), AudioTower(CONFIG)
    init_video_tower(video, path)
    init_split_bert(text, path)
    assert init_audio_tower(audio, path) == ""
    for name, part in (("vision", video), ("text", text), ("audio", audio)):
        assert all(torch.equal(tensor, state[f"{name}_encoder.{key}"]) for key, tensor in part.state_dict().items())


def test_a_model_without_sound_does_not_start_one_with(tmp_path: Path) -> None:
    path = write(published(disturb(second_stage())), tmp_path)
    with pytest.raises(CheckpointError, match=r"no name begins with 'audio_encoder\.'"):
        init_video_text(with_sound(), path)
    lacking = dict(disturb(with_sound()).state_dict())
    del lacking["av_fusion.weight"]
    with pytest.raises(CheckpointError, match=r"missing: av_fusion\.weight"):
        init_video_text(with_sound(), write(lacking, tmp_path))
