"""Every file of examples/configs/caption: what is published, written down again, and what is decided."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae_fast.cli import build_parser
from videomae_fast.cli.runs import read_config
from videomae_fast.engine.optim import learning_rate
from videomae_fast.models.connectors import PerceiverResampler, QFormer
from videomae_fast.recipes.caption import CaptionConfig
from videomae_fast.recipes.contrast_towers import build_video_tower

pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "configs" / "caption"
VIDEOCHAT2: dict[str, Any] = {  # config_7b_stage*.py of OpenGVLab/Ask-Anything; the tower is InternVideo2-1B's
    **{"model": "internvideo2-1b", "patch_size": 14, "image_size": 224, "sampling": "uniform", "hflip": True},
    **{"connector": "qformer", "inject": "prefix", "queries": 32, "mask_ratio": 0.0, "workers": 6},
    **{"beta2": 0.999, "weight_decay": 0.02, "clip_grad": 0.0, "recompute_language": True},
}
LORA = {"lora_rank": 16, "lora_alpha": 32.0, "lora_dropout": 0.1, "lora_targets": "mistral", "max_tokens": 512}
FILES: dict[str, dict[str, Any]] = {
    "videochat2_1": VIDEOCHAT2
    | {"num_frames": 4, "train": "none", "extra_queries": 0, "lora_rank": 0, "batch_size": 128, "epochs": 10},
    "videochat2_2": VIDEOCHAT2
    | {"num_frames": 4, "train": "all", "extra_queries": 64, "lora_rank": 0, "batch_size": 16, "epochs": 1}
    | {"drop_path": 0.0},
    "videochat2_3": VIDEOCHAT2
    | {"num_frames": 8, "train": "all", "extra_queries": 64, "batch_size": 4, "epochs": 3, "drop_path": 0.0}
    | {"activation_checkpointing": True}
    | LORA,
    "longvivit_l_256": {  # sections 3 and 4 of arXiv 2312.07395
        **{"model": "large", "patch_size": 16, "tubelet_size": 2, "num_frames": 256, "sampling": "fps", "fps": 1.0},
        **{"connector": "resampler", "inject": "cross-attention", "time_mean": True, "mask_ratio": 0.3},
        **{"train": "none", "lora_rank": 0},
    },
}
# At a step's samples on 8 GPUs, as published: the highest learning rate, and the lowest as a share of it.
RATES = {"videochat2_1": (1024, 1e-4, 0.01), "videochat2_2": (128, 1e-4, 0.01), "videochat2_3": (32, 2e-5, 0.25)}
# Tokens of a clip, those that are seen, and the rows that a language model of width 4096 reads.
SIZES = {
    "videochat2_1": (1024, 1024, (32, 4096)),
    "videochat2_2": (1024, 1024, (96, 4096)),
    "videochat2_3": (2048, 2048, (96, 4096)),
    "longvivit_l_256": (25088, 17562, (64, 1024)),
}


def _load(name: str) -> CaptionConfig:
    """As `videomae-fast caption --config` does."""
    args = build_parser().parse_args(["caption", "--config", str(FOLDER / f"{name}.toml")])
    return read_config(args, CaptionConfig)


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == FILES.keys() == SIZES.keys()


@pytest.mark.parametrize("name", FILES)
def test_the_settings(name: str) -> None:
    options = _load(name).flat()
    assert {option: options[option] for option in FILES[name]} == FILES[name]


@pytest.mark.parametrize("name", SIZES)
def test_tokens_and_rows(name: str) -> None:
    config, (tokens, seen, rows) = _load(name), SIZES[name]
    with torch.device("meta"):
        tower = build_video_tower(config.model, config.data)
        connector = config.connector.build(tower.token_dim, 4096)
    assert type(connector) is (PerceiverResampler if name.startswith("longvivit") else QFormer)
    assert (connector.num_rows, connector.out_dim) == rows
    assert tower.config.num_tokens == tokens
    assert tokens - int(tokens * config.model.mask_ratio) == seen


@pytest.mark.parametrize("name", RATES)
def test_the_learning_rate_of_the_release(name: str) -> None:
    optimizer, (samples, highest, lowest) = _load(name).optimizer, RATES[name]
    assert 8 * optimizer.samples == samples
    assert learning_rate(optimizer.warmup_epochs * 10, optimizer, 10, samples) == pytest.approx(highest)
    assert optimizer.final_lr == pytest.approx(optimizer.lr * lowest)


@pytest.mark.parametrize("name", FILES)
def test_what_is_decided_is_marked(name: str) -> None:
    """Each line is a published setting, or says that it is decided."""
    for line in (FOLDER / f"{name}.toml").read_text().splitlines():
        option = line.partition(" = ")[0]
        known = option in FILES[name] or (name in RATES and option in ("lr", "final_lr"))
        assert line.startswith(("#", "[")) or not line or known or "decided" in line, line
