"""Captioned clips whose sound tells what their frames do not, and an audio tower small enough for a test."""

import json
from pathlib import Path

import numpy as np
import torch

from tests.data.sound_files import write_sound_video
from videomae_fast.interop import beats_config_of
from videomae_fast.models import AudioTower

# The settings of a file of BEATs, of the published kind and smaller.
CFG = {
    "encoder_embed_dim": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_embed_dim": 48,
    "embed_dim": 24,
    "input_patch_size": 16,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "num_buckets": 16,
    "max_distance": 40,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}
TONES = (200, 500, 1000, 2000, 3000, 4000, 5000, 6000)  # Hz
WORDS = ("red", "green", "blue", "wide", "narrow", "columns", "rows", "move")


def write_beats(path: Path) -> Path:
    """A random BEATs, in the layout of its published files."""
    torch.save({"cfg": CFG, "model": {}}, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        state = AudioTower(beats_config_of(path)).state_dict()
    torch.save({"cfg": CFG, "model": state}, path)
    return path


def write_sounds(folder: Path, silent: int = 0, seconds: float = 1.0) -> Path:
    """A list of 8 videos of the same grey frames, each with a tone and a word for it; the last ones without sound."""
    folder.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(16000 * seconds)) / 16000
    lines = []
    for number, (tone, word) in enumerate(zip(TONES, WORDS, strict=True)):
        samples = None if number >= 8 - silent else 0.3 * np.sin(2 * np.pi * tone * time)[None]
        write_sound_video(folder / f"{number}.mkv", samples, seconds=seconds)
        lines.append({"path": f"{number}.mkv", "caption": f"the {word}"})
    path = folder / "sounds.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
