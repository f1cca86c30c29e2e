"""Teachers small enough for a test, saved as users have them, and alignments with them. Run as a module, it is the
command line with the student:

python -m tests.recipes.aligned align --model internvideo2-tiny ...
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.recipes import tiny
from videomae_fast.interop.checkpoint import write_safetensors
from videomae_fast.models import (
    InternVideo2,
    InternVideo2Config,
    VideoMAEForPretraining,
    get_config,
    get_internvideo2_config,
)
from videomae_fast.models.config import CONFIGS, INTERNVIDEO2_CONFIGS
from videomae_fast.recipes.align import AlignConfig

STUDENT = InternVideo2Config(48, 2, 3, pool_heads=3, clip_embed_dim=32, layer_scale=0.1, drop_path=0.0)
SETTINGS: dict[str, Any] = tiny.SETTINGS | {
    "model": "internvideo2-tiny",
    "patch_size": 16,
    "num_frames": 4,
    "drop_path": 0.0,
    "crops_per_video": 1,
    "mask_ratio": 0.5,
    "batch_size": 4,
    "log_every": 1,
    "save_every": 100,
    "track": "none",
    "lr": 0.2,
    "final_lr": 0.02,
}


def random_weights(model: torch.nn.Module, seed: int = 5) -> dict[str, torch.Tensor]:
    """Weights of a model, each moved by noise, so that no branch is close to nothing."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.state_dict().items()
    }


def make_video_teacher(folder: Path, **changes: Any) -> Path:
    """A folder like a checkpoint of `pretrain`, of three blocks."""
    folder.mkdir(parents=True)
    config = get_config("tiny", num_frames=8, image_size=(32, 32), encoder_depth=3, **changes)
    write_safetensors(random_weights(VideoMAEForPretraining(config)), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"data": {"num_frames": 8, "image_size": 32}}))
    return folder


def make_distil_teacher(path: Path) -> Path:
    """The file of an InternVideo2 with its pool, of a published width, and of positions of another clip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config = get_internvideo2_config("small", encoder_depth=4, patch_size=16, num_frames=2, image_size=(224, 224))
    model = InternVideo2(config)
    write_safetensors(random_weights(model), path)
    return path


def make_image_teacher(path: Path) -> Path:
    """The file of an image encoder with the names of InternVL-C's, and its 2-D patch kernel."""
    config = get_internvideo2_config("small", encoder_depth=3, patch_size=16, num_frames=1, image_size=(32, 32))
    state = random_weights(InternVideo2(config))
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0].contiguous()
    write_safetensors(state, path)
    return path


def make_huggingface_teacher(folder: Path, **changes: Any) -> Path:
    """A folder of transformers' ViT for images of 32 pixels, tokens of 16."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(7)
    sizes = {"hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80}
    model = ViTModel(ViTConfig(image_size=32, patch_size=16, initializer_range=0.3, **(sizes | changes)))
    model.save_pretrained(folder)
    statistics = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return folder


def settings(videos: Path, output: Path, /, **changes: Any) -> AlignConfig:
    """An alignment of `SETTINGS`; what `changes` says is different."""
    return AlignConfig.from_options(**(SETTINGS | {"data": str(videos), "output": str(output)} | changes))


if __name__ == "__main__":
    from videomae_fast.cli import main

    CONFIGS["tiny"], INTERNVIDEO2_CONFIGS["tiny"] = tiny.TINY, STUDENT
    sys.exit(main())
