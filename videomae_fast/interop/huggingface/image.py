"""Image encoders of transformers (ViT, DeiT, and the vision models of CLIP and SigLIP) as a start of a video tower.

The kernel of the patches becomes that of images, and, repeated over time, that of clips; positions of an image are
repeated over time. `key.bias` adds the same to all scores of a query, which softmax cancels, so it is dropped.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models.config import VideoMAEConfig
from ...models.positions import interpolate_positions
from ..checkpoint import CheckpointError, State


class _Names(NamedTuple):
    """The names of a kind of model: of its ends, and of the modules of a block below `blocks`."""

    kernel: str
    position: str
    blocks: str
    norm: str
    block: tuple[tuple[str, str], ...]  # (ours, theirs)
    attention: str  # what q, k and v begin with
    qkv: tuple[str, str, str]


_KINDS = (
    _Names(
        "embeddings.patch_embeddings.projection",
        "embeddings.position_embeddings",
        "encoder.layer.",
        "layernorm",
        (
            ("norm1", "layernorm_before"),
            ("attn.proj", "attention.output.dense"),
            ("norm2", "layernorm_after"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ),
        "attention.attention.",
        ("query", "key", "value"),
    ),
    _Names(
        "embeddings.patch_embedding",
        "embeddings.position_embedding.weight",
        "encoder.layers.",
        "post_layernorm",
        (
            ("norm1", "layer_norm1"),
            ("attn.proj", "self_attn.out_proj"),
            ("norm2", "layer_norm2"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
        ),
        "self_attn.",
        ("q_proj", "k_proj", "v_proj"),
    ),
)
_PREFIXES = ("", "vit.", "deit.", "vision_model.")


class ImageEncoder(NamedTuple):
    """Weights of an image encoder for a `VideoTransformer`.

    Attributes:
        state: by the names of our tower.
        unused: names in the file that the tower has nothing for.
        differences: what the tower computes otherwise than the image encoder, as phrases.
    """

    state: State
    unused: list[str]
    differences: list[str]


def is_image_encoder(state: Mapping[str, Tensor]) -> bool:
    """Whether weights are those of an image encoder of a kind that is known here."""
    return _find(state) is not None


def image_encoder(
    state: Mapping[str, Tensor], settings: Mapping[str, Any], preprocessor: Mapping[str, Any], config: VideoMAEConfig
) -> ImageEncoder:
    """Weights of an image encoder with the names and positions of a video tower.

    Args:
        state: as `read_weights` returns it.
        settings: the `config.json` beside the weights; {} if there is none.
        preprocessor: the `preprocessor_config.json` beside them; {} if there is none.
        config: the tower.

    Returns:
        The weights, and what is different.

    Raises:
        CheckpointError: `state` is no image encoder of a known kind, tensors are missing, its number of heads is
            another, or its positions are no grid.
    """
    found = _find(state)
    if found is None:
        raise CheckpointError("it holds no image encoder of ViT's or CLIP's names")
    prefix, names = found
    own = settings.get("vision_config") or settings
    if (heads := own.get("num_attention_heads", config.encoder_heads)) != config.encoder_heads:
        raise CheckpointError(f"config.json has {heads} attention heads, the tower {config.encoder_heads}")
    taken = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
    used: set[str] = set()

    def take(name: str) -> Tensor:
        if name not in taken:
            raise CheckpointError(f"the image encoder lacks {prefix}{name}")
        used.add(taken[name])
        return state[taken[name]]

    image = take(f"{names.kernel}.weight")[:, :, None]
    bias = take(f"{names.kernel}.bias") if f"{names.kernel}.bias" in taken else image.new_zeros(len(image))
    kernel = image.repeat(1, 1, config.tubelet_size, 1, 1) / config.tubelet_size  # embeds a still clip as its image
    result = {"image_embed.proj.weight": image, "patch_embed.proj.weight": kernel}
    result |= {"image_embed.proj.bias": bias, "patch_embed.proj.bias": bias.clone()}
    result["pos_embed"] = _positions(take(names.position), own, config)
    result |= {f"norm.{part}": take(f"{names.norm}.{part}") for part in ("weight", "bias")}
    depth = len({name.removeprefix(names.blocks).split(".")[0] for name in taken if name.startswith(names.blocks)})
    for i in range(depth):
        ours, theirs = f"blocks.{i}.", f"{names.blocks}{i}."
        for new, old in names.block:
            result |= {f"{ours}{new}.{part}": take(f"{theirs}{old}.{part}") for part in ("weight", "bias")}
        query, key, value = (f"{theirs}{names.attention}{name}" for name in names.qkv)
        result[f"{ours}attn.qkv.weight"] = torch.cat([take(f"{name}.weight") for name in (query, key, value)])
        result |= {f"{ours}attn.q_bias": take(f"{query}.bias"), f"{ours}attn.v_bias": take(f"{value}.bias")}
        used.add(f"{prefix}{key}.bias")
    return ImageEncoder(result, sorted(state.keys() - used), _differences(own, preprocessor, config))


def _find(state: Mapping[str, Tensor]) -> tuple[str, _Names] | None:
    for names in _KINDS:
        for prefix in _PREFIXES:
            kernel = state.get(f"{prefix}{names.kernel}.weight")
            if kernel is not None and kernel.ndim == 4:
                return prefix, names
    return None


def _positions(table: Tensor, settings: Mapping[str, Any], config: VideoMAEConfig) -> Tensor:
    """(1, N, D): the image's positions without the cls token's, for the tower's frames, repeated over time."""
    table = table.flatten(0, -2).float()
    size, patch = settings.get("image_size"), settings.get("patch_size")
    sizes = [value for value in (size, patch) if isinstance(value, int)]
    side = sizes[0] // sizes[1] if len(sizes) == 2 else math.isqrt(len(table))
    prefix = len(table) - side**2
    if not 0 <= prefix <= 2:  # a cls token, and DeiT's distillation token
        raise CheckpointError(f"its {len(table)} positions are no square of {side}x{side} patches and a cls token")
    frames, height, width = config.grid
    rows = interpolate_positions(table[prefix:], (1, side, side), (1, height, width))
    return rows.repeat(frames, 1)[None]


def _differences(settings: Mapping[str, Any], preprocessor: Mapping[str, Any], config: VideoMAEConfig) -> list[str]:
    ours = {
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
        "image_mean": list(config.pixel_mean),
        "image_std": list(config.pixel_std),
    }
    theirs = {**preprocessor, **settings}
    return [
        f"{name} {theirs[name]} of the file, {value} here"
        for name, value in ours.items()
        if name in theirs and theirs[name] != value
    ]
