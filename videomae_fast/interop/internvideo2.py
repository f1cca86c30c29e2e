"""Weights of InternVideo2 (https://github.com/OpenGVLab/InternVideo): their sizes, and their positions on other grids.

Published checkpoints of stage 1, of its distillation and of fine-tuning have the names of our models, so that reading
one renames nothing. Their position tables are learned, so a model of other clips gets interpolated tables.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..models.config import INTERNVIDEO2_CONFIGS, ClipConfig, InternVideo2Config
from ..models.families import INTERNVIDEO2, family_of_weights
from ..models.internvideo2 import InternVideo2
from ..models.positions import interpolate_positions
from .checkpoint import CheckpointError, State, load_weights, without_encoder
from .settings import PathLike, clip_beside

PUBLISHED_SIDE = 224  # height and width of the clips of all published models, of any number of frames
_CLS_ROWS = {"pos_embed": 1, "clip_pos_embed": 1, "mae_pos_embed": 0}  # rows of a table before those of the tokens
# Names, or their beginnings, that only an aligned student has, and that only a classifier has.
ALIGNMENT = ("clip_pos_embed", "mae_pos_embed", "clip_decoder.", "final_clip_decoder.", "mae_decoder.")
CLASSIFIER = ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")


def is_internvideo2(state: Mapping[str, Tensor]) -> bool:
    """Whether weights are those of an InternVideo2.

    Args:
        state: as `read_weights` returns it, with or without the prefix `encoder.`.

    Returns:
        True if blocks have the QK-norm and LayerScale of InternVideo2.
    """
    return family_of_weights(state) is INTERNVIDEO2


def internvideo2_state(state: Mapping[str, Tensor]) -> State:
    """The weights of an InternVideo2 with the names of our models.

    Args:
        state: as `read_weights` returns it.

    Returns:
        {name: tensor}, without the prefix `encoder.`.

    Raises:
        CheckpointError: `state` is of another model, or holds a name twice, with and without the prefix.
    """
    if not is_internvideo2(state):
        raise CheckpointError(
            f"it holds no InternVideo2 (blocks with q_norm and ls1): its names are {min(state)!r} … {max(state)!r}"
        )
    return without_encoder(state)


def internvideo2_config_of(
    state: Mapping[str, Tensor], num_frames: int | None = None, image_size: tuple[int, int] | None = None
) -> InternVideo2Config:
    """Find the configuration of published weights, at any depth, from their names and shapes.

    The rows of the position table tell how many tokens a clip has, and not how many of them are a frame.

    Args:
        state: weights of one of the published widths.
        num_frames: frames of the clips that the weights were trained on, if known.
        image_size: (height, width) of these clips in pixels; by default a square, which is that of the published
            models, 224x224, if `num_frames` is not given either.

    Returns:
        The configuration of these clips; settings that do not show in weights (drop path, attention, …) are the
        defaults.

    Raises:
        CheckpointError: `state` has no weights of an InternVideo2, its width is of no published size, or its position
            tables do not fit the clip.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        width, channels, tubelet, patch, _ = shapes["patch_embed.proj.weight"]
        hidden, _ = shapes["blocks.0.mlp.fc1.weight"]
        pooled, _ = shapes.get("clip_projector.cross_attn.proj.weight", (InternVideo2Config.clip_embed_dim, 0))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"not a checkpoint of InternVideo2: {error} is missing or misshapen") from error
    known = {config.encoder_dim: config for config in INTERNVIDEO2_CONFIGS.values()}
    if width not in known:
        raise CheckpointError(
            f"the model is {width} wide, which tells no number of attention heads: known are "
            f"{', '.join(map(str, known))}"
        )
    if channels != 3:
        raise CheckpointError(f"the model takes {channels} channels: published models take 3")
    frames, height, columns = _grid(_tokens(shapes, width), (tubelet, patch), num_frames, image_size)
    ratio = hidden / width
    return InternVideo2Config(
        encoder_dim=width,
        encoder_depth=len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        encoder_heads=known[width].encoder_heads,
        mlp_ratio=ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf),
        pool_heads=known[width].pool_heads,
        clip_embed_dim=pooled,
        patch_size=patch,
        tubelet_size=tubelet,
        num_frames=frames * tubelet,
        image_size=(height * patch, columns * patch),
    )


def fit_positions(state: State, path: PathLike, config: ClipConfig) -> tuple[State, list[str]]:
    """The weights with position tables of a model's grid: linear over time, bicubic over space; cls rows stay.

    The `config.json` beside the weights tells the clips that they were trained on; without it they are those of the
    published models, 224x224 pixels, or those of the model if no number of frames of that size has as many tokens.

    Args:
        state: weights of an InternVideo2.
        path: where they are from.
        config: the model that they are for.

    Returns:
        The weights, and the names of the tables that were interpolated.

    Raises:
        CheckpointError: the tables do not fit the clips that the weights were trained on.

    References:
        `interpolate_pos_embed_internvideo2` in InternVideo2/multi_modality/models/backbones/internvideo2/pos_embed.py
        and run_finetuning.py of OpenGVLab/InternVideo@3965eef, for square grids; it begins with time, which gives the
        same.
    """
    trained = trained_config(state, path, config).grid
    if trained == config.grid:
        return state, []
    names = [name for name in _CLS_ROWS if name in state]
    return state | {
        name: interpolated_table(state[name], _CLS_ROWS[name], trained, config.grid) for name in names
    }, names


def trained_config(state: State, path: PathLike, like: ClipConfig | None = None) -> InternVideo2Config:
    """`internvideo2_config_of` for the clips that the `config.json` beside the weights tells.

    Args:
        state: weights of an InternVideo2.
        path: where they are from.
        like: a model of the clips that are assumed where nothing tells them, and 224x224 pixels do not fit.

    Returns:
        The configuration.

    Raises:
        CheckpointError: as `internvideo2_config_of`; or `config.json` is not JSON.
    """
    frames, size = clip_beside(path)
    if like is not None and frames is None and size is None:
        table, side = state.get("pos_embed"), PUBLISHED_SIDE // like.patch_size
        tokens = 0 if table is None or table.ndim != 3 else table.shape[1] - 1
        if tokens % side**2 and tokens == like.num_tokens:
            frames, size = like.num_frames, like.image_size
    return internvideo2_config_of(state, frames, size)


def build_encoder(state: State, config: InternVideo2Config) -> InternVideo2:
    """The encoder of weights that have heads or none.

    Args:
        state: weights of an InternVideo2 whose tables fit `config`.
        config: the model.

    Returns:
        The encoder, in float32, with an attention pool if the weights have one.

    Raises:
        CheckpointError: weights are missing, unexpected or of another shape.
    """
    model = InternVideo2(config, pool=any(name.startswith("clip_projector.") for name in state))
    load_weights(model, {name: t for name, t in state.items() if not name.startswith((*ALIGNMENT, *CLASSIFIER))})
    return model


def _tokens(shapes: Mapping[str, tuple[int, ...]], width: int) -> int:
    """N, after a check of all tables."""
    if "pos_embed_spatial" in shapes:
        raise CheckpointError("it has separate tables for space and time (sep_pos_embed), which no published model has")
    table = shapes.get("pos_embed", ())
    if len(table) != 3 or table[::2] != (1, width) or table[1] < 2 or shapes.get("cls_token") != (1, 1, width):
        raise CheckpointError(
            f"pos_embed must be (1, 1 + N, {width}) beside a cls_token (1, 1, {width}), got {table or 'none'} and "
            f"{shapes.get('cls_token', 'none')}"
        )
    tokens = table[1] - 1
    for name, rows in _CLS_ROWS.items():
        if name in shapes and shapes[name] != (1, rows + tokens, width):
            raise CheckpointError(
                f"{name} must be {(1, rows + tokens, width)} beside a pos_embed {table}, got {shapes[name]}"
            )
    return tokens


def _grid(
    tokens: int, patch: tuple[int, int], num_frames: int | None, image_size: tuple[int, int] | None
) -> tuple[int, int, int]:
    """(T', H', W') with T'·H'·W' = tokens."""
    tubelet, side = patch
    if image_size is None and num_frames is not None:
        rows = math.isqrt(tokens * tubelet // num_frames)
        image_size = (rows * side, rows * side)
    height, width = image_size or (PUBLISHED_SIDE, PUBLISHED_SIDE)
    rows, columns = height // side, width // side
    frames = tokens // (rows * columns) if rows * columns else 0
    if frames < 1 or frames * rows * columns != tokens or num_frames not in (None, frames * tubelet):
        clip = "" if num_frames is None else f"{num_frames} frames of "
        raise CheckpointError(
            f"the position table has {tokens} rows besides that of the cls token, which do not make clips of {clip}"
            f"{height}x{width} pixels ({rows}x{columns} tokens per {tubelet} frames): a config.json beside the weights "
            "should tell num_frames and image_size of the clips that they were trained on"
        )
    return frames, rows, columns


def interpolated_table(
    table: Tensor, cls: int, from_grid: tuple[int, int, int], to_grid: tuple[int, int, int]
) -> Tensor:
    """A learned table (1, cls + N, D) for another grid: (1, cls + N', D). The first `cls` rows stay."""
    rows = interpolate_positions(table[0, cls:].float(), from_grid, to_grid).to(table.dtype)
    return torch.cat([table[:, :cls], rows[None]], dim=1)
