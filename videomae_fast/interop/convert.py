"""Checkpoint files from the published layout to Hugging Face's, and back."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .._optional import require
from ..models.config import CONFIGS
from .huggingface.loading import read_weights
from .huggingface.weights import from_huggingface, is_huggingface, to_huggingface
from .official.weights import CheckpointError, save_published

LAYOUTS = ("published", "huggingface")
_V1_HUGE_DECODER = {640: 8}  # width: heads; other sizes of VideoMAE V1 are V2's, but for their depth


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str], to: str) -> Path:
    """Write the weights of `source` to `target` in the layout `to`; returns the file that holds them. Bit-exact.

    "published": target is a file: `.safetensors` holds the weights alone, as this library's training saves them, any
    other suffix the {"model": weights} of the VideoMAE V2 release.
    "huggingface": target is a folder: `config.json` and `model.safetensors` of a VideoMAEForPreTraining, its biases
    named as transformers reads them up to 5.4 and from 5.18 (between: `load_huggingface`). Weights do not tell clip
    sizes: the config says 16 frames of 224x224, as the release has them; edit it for others. transformers fixes the
    epsilon of its decoder's LayerNorm at 1e-5, where the published model has 1e-6.

    Sizes: all published ones, V1's too, at any depth. ValueError if `to` is unknown or the layout `source` has;
    CheckpointError if source cannot be read or is of another size; FileExistsError rather than overwriting.
    """
    if to not in LAYOUTS:
        raise ValueError(f"to is {to!r}; allowed: {', '.join(map(repr, LAYOUTS))}")
    target = Path(target)
    if target.exists():
        raise FileExistsError(f"target {str(target)!r} exists already")
    state = read_weights(source)
    if is_huggingface(state) == (to == "huggingface"):
        raise ValueError(f"{str(source)!r} is in the {to} layout already")
    if to == "huggingface":
        config, state = huggingface_config(state), to_huggingface(state, "q_bias")
        target.mkdir(parents=True)
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return _save_safetensors(state, target / "model.safetensors")
    state = from_huggingface(state)
    if target.suffix == ".safetensors":
        return _save_safetensors(state, target)
    save_published(state, target)
    return target


def huggingface_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The `config.json` of the VideoMAEForPreTraining that published weights belong to, for clips of 16x224x224."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        width, channels, tubelet, patch, _ = shapes["encoder.patch_embed.proj.weight"]
        decoder_width = shapes["mask_token"][-1]
        hidden = shapes["encoder.blocks.0.mlp.fc1.weight"][0]
        decoder_hidden = shapes["decoder.blocks.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"not a published pre-training checkpoint: {error} is missing or misshapen") from error
    heads = {c.encoder_dim: c.encoder_heads for c in CONFIGS.values()}
    decoder_heads = {c.decoder_dim: c.decoder_heads for c in CONFIGS.values()} | _V1_HUGE_DECODER
    if width not in heads or decoder_width not in decoder_heads:
        raise CheckpointError(
            f"encoder and decoder are {width} and {decoder_width} wide, which tells no number of attention heads: "
            f"known are {', '.join(map(str, heads))} and {', '.join(map(str, decoder_heads))}"
        )
    return {
        "architectures": ["VideoMAEForPreTraining"],
        "model_type": "videomae",
        "image_size": 224,
        "patch_size": patch,
        "num_channels": channels,
        "num_frames": 16,
        "tubelet_size": tubelet,
        "hidden_size": width,
        "num_hidden_layers": _depth(shapes, "encoder"),
        "num_attention_heads": heads[width],
        "intermediate_size": hidden,
        "layer_norm_eps": 1e-6,
        "use_mean_pooling": False,
        "decoder_hidden_size": decoder_width,
        "decoder_num_hidden_layers": _depth(shapes, "decoder"),
        "decoder_num_attention_heads": decoder_heads[decoder_width],
        "decoder_intermediate_size": decoder_hidden,
        "norm_pix_loss": True,
    }


def _depth(names: Mapping[str, Any], part: str) -> int:
    return len({name.split(".")[2] for name in names if name.startswith(f"{part}.blocks.")})


def _save_safetensors(state: Mapping[str, Tensor], path: Path) -> Path:
    """Wholly or not at all; `format` is what transformers asks for."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        require("safetensors.torch").save_file(dict(state), partial, metadata={"format": "pt"})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
