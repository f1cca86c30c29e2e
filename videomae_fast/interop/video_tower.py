"""Start a video tower from weights of other models, with a report of what is new, derived or not used."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

from ..models.internvideo2_tower import InternVideo2Tower
from ..models.positions import interpolate_positions, interpolated_sinusoid
from ..models.video_tower import VideoTower
from ..models.video_transformer import VideoTransformer
from .checkpoint import CheckpointError, State, key_problems, load_weights, read_weights
from .classifier import check_files_of_transformers, is_pretraining
from .huggingface.image import image_encoder, is_image_encoder
from .huggingface.weights import from_huggingface, is_huggingface
from .internvideo2 import (
    ALIGNMENT,
    CLASSIFIER,
    fit_positions,
    internvideo2_state,
    interpolated_table,
    is_internvideo2,
    trained_config,
)
from .report import init_report
from .settings import PathLike, clip_beside, settings_beside, trained_clip

VIDEO = "vision_encoder."  # what the names of a video tower begin with in a dual encoder
_IMAGE_TABLE = "img_pos_embed"
_POOL = "clip_projector."
_UNUSED = (*ALIGNMENT, *CLASSIFIER, "clip_img_pos_embed")  # of an aligned student, a classifier, the second stage


@dataclass
class Part:
    """Weights for a module, by its names.

    Attributes:
        state: what is loaded.
        new: names of the module that stay as they are.
        unused: names of the file that the module has nothing for.
        notes: further names, by what was done with them.
    """

    state: State
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def below(self, prefix: str) -> "Part":
        """The same, with the names that the module's tensors have in a larger one."""
        names = {what: [prefix + name for name in names] for what, names in self.notes.items()}
        state = {prefix + name: tensor for name, tensor in self.state.items()}
        return Part(state, [prefix + name for name in self.new], self.unused, names)


def init_video_tower(tower: VideoTower, path: PathLike, strict: bool = True) -> str:
    """Initialise a video tower; it stays untouched if the weights do not fit.

    A `VideoTransformer` starts from VideoMAE's pre-training weights in any layout: their sinusoid, interpolated to the
    tower's clips, becomes `pos_embed`, and the kernel of images is the sum over time of that of clips. Or from an image
    encoder of transformers (ViT, DeiT, the vision model of CLIP or SigLIP): its kernel is that of images and, repeated
    over time and divided by τ, that of clips; its positions are repeated over time; it has no cls token here.

    An `InternVideo2Tower` starts from InternVideo2's first or second stage, or a run of `align`: positions of other
    clips are interpolated, and positions of images that the file lacks are the mean over time of those of clips. With
    the mean as its pool, it does not use the attention pool of the file.

    Both start from the video tower of a run of their own, also for clips of another size.

    Args:
        tower: its tensors keep their dtype and device.
        path: a file of weights, or a folder that holds one; the files beside it tell what weights do not.
        strict: whether the file must hold every tensor that is not derived or new.

    Returns:
        A report of tensors that are new, derived, interpolated or not used, and of what an image encoder computed
        otherwise; "" if there is nothing to say.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read, or holds no weights for this tower; the message lists what may be.

    Warns:
        UserWarning: weights of transformers' VideoMAE with another pixel normalisation.
    """
    return load_part(tower, path, lambda state: video_part(tower, names_below(state, VIDEO), path), strict)


def load_part(model: nn.Module, path: PathLike, convert: Callable[[State], Part], strict: bool) -> str:
    """Load weights into a model or into a part of one; it stays untouched if they do not fit.

    Args:
        model: its tensors keep their dtype and device.
        path: a file of weights, or a folder that holds one.
        convert: gives the weights the names of the model.
        strict: whether names may neither be missing nor be unknown.

    Returns:
        The report.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read, or does not fit.
    """
    state = read_weights(path)
    try:
        part = convert(state)
        own = model.state_dict().keys()
        missing, unexpected = sorted(own - part.state.keys() - {*part.new}), sorted(part.state.keys() - own)
        if strict and (problems := key_problems(missing, unexpected)):
            raise CheckpointError("; ".join(problems))
        if not own & part.state.keys():
            raise CheckpointError("no name of the file is the model's")
        load_weights(model, part.state, strict=False)
    except CheckpointError as error:
        raise CheckpointError(f"{str(path)!r} cannot initialise {type(model).__name__}: {error}") from error
    left = {"new, left as they were": part.new, "missing, left as they were": missing}
    return init_report(model, path, left, {"not used": [*part.unused, *unexpected], **part.notes})


def names_below(state: Mapping[str, Tensor], prefix: str) -> State:
    """The part of a dual encoder's weights that begins with a prefix, without it; weights without it as they are."""
    part = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return part or dict(state)


def video_part(tower: VideoTower, state: State, path: PathLike) -> Part:
    """The weights of a video tower, as `init_video_tower` takes them.

    Args:
        tower: that they are for.
        state: weights without the names of a text tower.
        path: where they are from.

    Returns:
        The weights, by the names of the tower.

    Raises:
        CheckpointError: no weights of this kind are known for the tower, or they do not fit its clips.
    """
    if isinstance(tower, InternVideo2Tower):
        return _internvideo2(tower, state, path)
    if not isinstance(tower, VideoTransformer):
        raise CheckpointError(f"no weights are known for a {type(tower).__name__}")
    if "pos_embed" in state and "image_embed.proj.weight" in state:
        return _own_run(tower, state, path)
    if is_image_encoder(state):
        return _image(tower, state, path)
    if is_pretraining(state):
        return _pretraining(tower, state, path)
    raise CheckpointError(
        f"its names are {min(state)!r} … {max(state)!r}; known are VideoMAE's pre-training weights, image encoders of "
        "transformers (ViT, DeiT, CLIP, SigLIP), and runs of contrast"
    )


def _pretraining(tower: VideoTransformer, state: State, path: PathLike) -> Part:
    config = tower.config
    if is_huggingface(state):
        check_files_of_transformers(path, config.encoder_dim)
        state = from_huggingface(state, strict=False)
    heads = settings_beside(path).get("num_attention_heads", config.encoder_heads)
    if heads != config.encoder_heads:
        raise CheckpointError(f"config.json has {heads} attention heads, the tower {config.encoder_heads}")
    unused = [name for name in state if not name.startswith("encoder.")]
    state = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
    trained = trained_clip(path)
    if any(size % patch for size, patch in zip(trained, config.patch, strict=True)):
        raise CheckpointError(f"it was trained on clips of {trained}, which are no multiples of {config.patch}")
    frames, rows, columns = (size // patch for size, patch in zip(trained, config.patch, strict=True))
    state["pos_embed"] = interpolated_sinusoid((frames, rows, columns), config.grid, config.encoder_dim)[None]
    if (kernel := state.get("patch_embed.proj.weight")) is not None and kernel.ndim == 5:
        state["image_embed.proj.weight"] = kernel.sum(2, keepdim=True)
        if "patch_embed.proj.bias" in state:
            state["image_embed.proj.bias"] = state["patch_embed.proj.bias"].clone()
    derived = ["pos_embed", "image_embed.proj.weight", "image_embed.proj.bias"]
    return Part(state, _new_pool(tower, state), unused, {"made from the sinusoid and the kernel of clips": derived})


def _image(tower: VideoTransformer, state: State, path: PathLike) -> Part:
    preprocessor = settings_beside(path, "preprocessor_config.json")
    found = image_encoder(state, settings_beside(path), preprocessor, tower.config)
    derived = ["patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"]
    notes = {"made from those of images": derived, "computed otherwise": found.differences}
    return Part(found.state, _new_pool(tower, found.state), found.unused, notes)


def _own_run(tower: VideoTransformer, state: State, path: PathLike) -> Part:
    config, table = tower.config, state["pos_embed"]
    frames, size = clip_beside(path)
    clip = (frames or config.num_frames, *(size or config.image_size))
    grid = tuple(side // patch for side, patch in zip(clip, config.patch, strict=True))
    if table.ndim != 3 or table.shape[1] != prod(grid):
        raise CheckpointError(
            f"its pos_embed is {tuple(table.shape)}, which are no clips of {clip} (frames, height, width) of tokens of "
            f"{config.patch}: a config.json beside the weights should tell num_frames and image_size"
        )
    notes = {}
    if grid != config.grid:
        state["pos_embed"] = interpolate_positions(table[0].float(), grid, config.grid)[None]
        notes = {_interpolated(config.grid): ["pos_embed"]}
    return Part(state, _new_pool(tower, state), [], notes)


def _internvideo2(tower: InternVideo2Tower, state: State, path: PathLike) -> Part:
    if not is_internvideo2(state):
        raise CheckpointError(
            f"its names are {min(state)!r} … {max(state)!r}; known are InternVideo2's first and second stage, and runs "
            "of align and contrast"
        )
    state = internvideo2_state(state)
    pool = () if tower.clip_projector is not None else (_POOL,)
    unused = [name for name in state if name.startswith((*_UNUSED, *pool))]
    state = {name: tensor for name, tensor in state.items() if name not in unused}
    image = state.pop(_IMAGE_TABLE, None)
    trained = trained_config(state, path, tower.config).grid
    state, interpolated = fit_positions(state, path, tower.config)
    notes = {_interpolated(tower.config.grid): interpolated}
    if image is None:
        table = state["pos_embed"]
        frames = tower.config.grid[0]
        rows = table[0, 1:].unflatten(0, (frames, -1)).mean(0)
        state[_IMAGE_TABLE] = torch.cat([table[:, :1], rows[None]], dim=1)
        notes["the mean over time of pos_embed"] = [_IMAGE_TABLE]
    else:
        if image.ndim != 3 or image.shape[1] != 1 + prod(trained[1:]):
            raise CheckpointError(
                f"{_IMAGE_TABLE} is {tuple(image.shape)}, and its clips have {trained[1]}x{trained[2]} tokens a frame"
            )
        state[_IMAGE_TABLE] = image
        if trained[1:] != tower.config.grid[1:]:
            grids = (1, *trained[1:]), (1, *tower.config.grid[1:])
            state[_IMAGE_TABLE] = interpolated_table(image, 1, *grids)
            notes[_interpolated(tower.config.grid)] = [*interpolated, _IMAGE_TABLE]
    return Part(state, _new_pool(tower, state), unused, notes)


def _new_pool(tower: VideoTower, state: State) -> list[str]:
    """The names of an attention pool that the file does not have at all."""
    if any(name.startswith(_POOL) for name in state):
        return []
    return [name for name in tower.state_dict() if name.startswith(_POOL)]


def _interpolated(grid: Sequence[int]) -> str:
    return f"interpolated to {'x'.join(map(str, grid))} tokens"
