"""Captioned clips, and towers small enough for a test. Run as a module, it is the command line with the video towers:

python -m tests.recipes.paired contrast --model tiny ...
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.recipes import aligned, tiny
from videomae_fast.models.config import CONFIGS, INTERNVIDEO2_CONFIGS
from videomae_fast.recipes.contrast import ContrastConfig

WORDS = ("a", "the", "wide", "narrow", "red", "green", "blue", "columns", "rows", "move", "stand", "image")
SETTINGS: dict[str, Any] = {  # of `write_pairs`: 8 videos and 8 images, batches of 4: 4 steps per epoch
    "model": "tiny",
    "num_frames": 4,
    "image_size": 32,
    "sampling": "uniform",
    "mask_ratio": 0.5,
    "image_mask_ratio": 0.25,
    "embed_dim": 16,
    "max_tokens": 8,
    "workers": 0,
    "epochs": 3,
    "warmup_epochs": 1,
    "batch_size": 4,
    "lr": 0.1,  # 1.6e-3 after scaling
    "final_lr": 1e-3,
    "precision": "fp32",
    "seed": 3,
    "log_every": 1,
    "save_every": 100,
    "track": "none",
}


def write_text_model(
    folder: Path,
    *,
    dropout: float = 0.0,
    weights: bool = True,
    words: int = 0,
    vocabulary: Sequence[str] = WORDS,
    **config_options: Any,
) -> Path:
    """A folder of a random BERT, of two layers if nothing else is said, and of a tokenizer of `vocabulary`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    numbers = {word: number for number, word in enumerate([*special, *vocabulary])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=16, **{f"{name}_token": token for name, token in names.items()}
    )
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=words or len(numbers),
        max_position_embeddings=16,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **(sizes | config_options),
    )
    if weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            BertModel(config).save_pretrained(folder)
    else:
        config.save_pretrained(folder)
    return folder


def write_pairs(folder: Path, images: bool = True) -> Path:
    """A list of 8 videos of coloured stripes and, if wanted, 8 images, each with one or two captions."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(8):
        colour, kind = number % 4, "columns" if number < 4 else "rows"
        frames = _stripes(colour, kind, number)
        name = ("red", "green", "blue", "wide")[colour]
        tiny.write_video(folder / f"video{number}.mp4", frames)
        captions = [f"the {name} {kind} move"] + ([f"{name} {kind}"] if number % 2 else [])
        lines.append({"path": f"video{number}.mp4", "caption": captions})
        if images:
            Image.fromarray(frames[0]).save(folder / f"image{number}.png")
            lines.append({"path": f"image{number}.png", "caption": f"image a {name} {kind}"})
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _stripes(colour: int, kind: str, seed: int) -> np.ndarray:
    """(12, 48, 64, 3) uint8."""
    rng = np.random.default_rng(seed)
    place = np.arange(64)[None] + 2 * np.arange(12)[:, None]
    wave = (place // 8 % 2)[:, None, :, None] if kind == "columns" else (place[:, :48] // 8 % 2)[:, :, None, None]
    light = np.full(3, 40)
    light[: 3 if colour == 3 else colour + 1] += 160
    if 0 < colour < 3:
        light[:colour] = 40
    frames = np.broadcast_to(30 + wave * (light - 30), (12, 48, 64, 3)) + rng.normal(0, 4, (12, 48, 64, 3))
    return frames.clip(0, 255).astype(np.uint8)


def settings(data: Path, text: Path, output: Path, /, **changes: Any) -> ContrastConfig:
    """A run of `SETTINGS`; what `changes` says is different."""
    given = {"data": str(data), "text_model": str(text), "output": str(output)}
    return ContrastConfig.from_options(**(SETTINGS | given | changes))


def state_of(checkpoint: Path) -> dict[str, Any]:
    """The weights of a checkpoint."""
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(checkpoint / "model.safetensors")
    return found


if __name__ == "__main__":
    from videomae_fast.cli import main

    CONFIGS["tiny"], INTERNVIDEO2_CONFIGS["tiny"] = tiny.TINY, aligned.STUDENT
    sys.exit(main())
