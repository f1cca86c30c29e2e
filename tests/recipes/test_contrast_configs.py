"""Every file of examples/configs/contrast: what is published, written down again, and what is decided."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae_fast.cli import build_parser
from videomae_fast.cli.runs import read_config
from videomae_fast.engine.optim import learning_rate
from videomae_fast.recipes.contrast import ContrastConfig
from videomae_fast.recipes.contrast_towers import build_video_tower

pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "configs" / "contrast"
LONGVIVIT: dict[str, Any] = {  # sections 3 and 4 of arXiv 2312.07395
    **{"sampling": "fps", "fps": 1.0, "patch_size": 16, "tubelet_size": 2, "pool": "mean", "text_pool": "mean"},
    **{"loss": "clip", "fusion_layers": 0, "image_mask_ratio": 0.0},
}
PHASE_B = LONGVIVIT | {"mask_ratio": 0.75, "train": "last:4", "freeze_text": True}
STAGE2: dict[str, Any] = {  # of InternVideo2-1B
    **{
        "model": "internvideo2-1b",
        "loss": "clip",
        "num_frames": 4,
        "image_size": 224,
        "patch_size": 14,
        "pool": "attention",
        "text_pool": "first",
    },
    **{"max_tokens": 32, "embed_dim": 512, "temperature": "internvideo2", "fusion_layers": 5, "word_ratio": 0.5},
    **{"contrast_weight": 1.0, "matching_weight": 1.0, "words_weight": 1.0, "negatives": "local"},
    **{"beta2": 0.98, "weight_decay": 0.05, "clip_grad": 3.0, "freeze_text": False, "batch_size": 64},
}
FILES: dict[str, dict[str, Any]] = {
    "longvivit_l_16": LONGVIVIT | {"num_frames": 16, "train": "all", "mask_ratio": 0.0, "model": "large"},
    "longvivit_b_128": PHASE_B | {"num_frames": 128, "model": "base"},
    "longvivit_l_256": PHASE_B | {"num_frames": 256, "model": "large"},
    "longvivit_b_one_gpu": LONGVIVIT | {"mask_ratio": 0.75, "model": "base", "train": "all"},
    "longvivit_s_two_cores": {"mask_ratio": 0.75, "tubelet_size": 2, "pool": "mean", "loss": "clip"},
    "internvideo2_1b_masked": STAGE2
    | {"mask_ratio": 0.8, "image_mask_ratio": 0.5, "train": "all", "drop_path": 0.25, "epochs": 10, "warmup_epochs": 1},
    "internvideo2_6b_masked": STAGE2
    | {"model": "internvideo2-6b", "embed_dim": 768, "max_tokens": 40, "drop_path": 0.3, "train": "all"}
    | {"mask_ratio": 0.8, "image_mask_ratio": 0.5, "epochs": 5, "warmup_epochs": 1},
    "internvideo2_1b_unmasked": STAGE2 | {"mask_ratio": 0.0, "image_mask_ratio": 0.0, "train": "none"},
}
# Weights of the video tower in millions, tokens of a clip, and those that are seen.
SIZES = {
    "longvivit_l_16": (306, 1568, 1568),
    "longvivit_b_128": (96, 12544, 3136),
    "longvivit_l_256": (330, 25088, 6272),
    "longvivit_b_one_gpu": (92, 6272, 1568),
    "longvivit_s_two_cores": (22, 64, 16),
    "internvideo2_1b_masked": (1020, 1024, 205),
    "internvideo2_1b_unmasked": (1020, 1024, 1024),
    "internvideo2_6b_masked": (5939, 1024, 205),
}


def _load(name: str) -> ContrastConfig:
    """As `videomae-fast contrast --config` does."""
    args = build_parser().parse_args(["contrast", "--config", str(FOLDER / f"{name}.toml")])
    return read_config(args, ContrastConfig)


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == FILES.keys() == SIZES.keys()


@pytest.mark.parametrize("name", FILES)
def test_the_settings(name: str) -> None:
    options = _load(name).flat()
    assert {option: options[option] for option in FILES[name]} == FILES[name]


@pytest.mark.parametrize("name", SIZES)
def test_size_and_tokens(name: str) -> None:
    config, (millions, tokens, seen) = _load(name), SIZES[name]
    with torch.device("meta"):
        tower = build_video_tower(config.model, config.data)
    assert round(sum(parameter.numel() for parameter in tower.parameters()) / 1e6) == millions
    assert tower.config.num_tokens == tokens
    assert tokens - int(tokens * config.masks.mask_ratio) == seen
    tower.freeze("all" if config.model.train == "none" else config.model.train)


def test_the_learning_rate_of_the_release() -> None:
    """5e-5 at 4096 pairs per step, of 6B at 16,384, down to a hundredth."""
    pairs = {"internvideo2_1b_masked": 4096, "internvideo2_1b_unmasked": 4096, "internvideo2_6b_masked": 16384}
    for name, count in pairs.items():
        optimizer = _load(name).optimizer
        assert learning_rate(optimizer.warmup_epochs * 10, optimizer, 10, count) == pytest.approx(5e-5)
        assert optimizer.final_lr == pytest.approx(optimizer.lr / 100)


@pytest.mark.parametrize("name", FILES)
def test_what_is_decided_is_marked(name: str) -> None:
    """Each line of a file of published settings is one of them, or says that it is decided; or the whole file is."""
    text = (FOLDER / f"{name}.toml").read_text()
    if "Everything below is decided here" in text:
        return
    for line in text.splitlines():
        option = line.partition(" = ")[0]
        known = option in FILES[name] or option in ("hflip", "lr", "final_lr", "drop_path")
        assert line.startswith(("#", "[")) or not line or known or "decided" in line, line
