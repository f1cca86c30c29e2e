"""A vision model of transformers as a guiding teacher: each frame alone, and the attention of its last block."""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from videomae_kernels import tube_mask_gather

from ..._optional import require
from ...models.constants import IMAGENET_MEAN, IMAGENET_STD
from ...models.encoder import DIMENSIONS, ChannelStats, Clip, view_clip
from ...models.frozen_teacher import Teacher
from ...models.teachers import Observation

_OURS: ChannelStats = (IMAGENET_MEAN, IMAGENET_STD)
_ATTENTION = "videomae_fast_observed"  # the name under which transformers finds `_observed_attention`
_SEEN = "_videomae_fast_seen"  # where it leaves queries and keys: an attribute of the attention module


class HuggingFaceGuide(Teacher):
    """Any vision model of transformers that computes its attention through transformers' attention interface.

    ViT, DeiT, DINOv2 (with registers, too), CLIP's and SigLIP's vision towers do. The attention is that of the cls
    token in the last block, averaged over heads, without the columns of the rows that are no tokens. A model without
    cls token gives the mean over all its queries: (heads · n²) numbers per frame in that one block; with a cls token,
    no block makes an n x n matrix.

    Rows of a layer are the residual sum after its block, before the model's last norm. The cls token and the pooled row
    are averaged over frames.

    Args:
        model: with its weights, on the device that it is to run on. It is frozen and cast in place.
        layers: ascending block numbers.
        num_frames: frames of a clip.
        image_size: (height, width) of a frame in pixels, multiples of the model's patch. Sizes that the model was not
            built for need positions that the model itself can interpolate.
        pixel_stats: (mean, std) of each channel that the model was trained with, for pixels in [0, 1].
        pooled: whether to hand over the model's pooled row, if it has one.
        dtype: of its matrices; see `Teacher`.
        name: for messages.
        clips_at_once: see `Teacher`; a part's features of all tokens live until its masks are drawn.

    Raises:
        ImportError: transformers is missing, or has no attention interface.
        ValueError: the model has no blocks or attention that can be seen, the sizes do not fit, or `layers` are not
            ascending block numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: tuple[int, ...],
        *,
        num_frames: int,
        image_size: tuple[int, int],
        pixel_stats: ChannelStats = _OURS,
        pooled: bool = True,
        dtype: torch.dtype = torch.bfloat16,
        name: str = "Hugging Face",
        clips_at_once: int | None = None,
    ) -> None:
        config: Any = model.config
        self.blocks = _find_blocks(model, name)
        self.patch = _pair(getattr(config, "patch_size", None), name)
        height, width = image_size
        if height % self.patch[0] or width % self.patch[1] or min(num_frames, height, width) < 1:
            raise ValueError(
                f"image_size {image_size} must be multiples of the {self.patch} pixels of {name}'s patches"
            )
        grid = num_frames, height // self.patch[0], width // self.patch[1]
        super().__init__(
            model,
            name=name,
            grid=grid,
            layers=layers,
            depth=len(self.blocks),
            dim=config.hidden_size,
            has_cls=False,  # until a frame has been seen
            bytes_per_clip=grid[0] * grid[1] * grid[2] * (8 + len(layers)) * config.hidden_size * dtype.itemsize,
            dtype=dtype,
            clips_at_once=clips_at_once,
        )
        self.size, self.pixel_stats, self.wants_pooled = (num_frames, height, width), pixel_stats, pooled
        self.options = _position_options(model, image_size)
        parameter = next(model.parameters())
        theirs, ours = (torch.tensor(stats, device=parameter.device) for stats in (pixel_stats, _OURS))
        self.rescale = [each.view(-1, 1, 1) for each in (ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1])]
        _observe_attention(self.blocks[-1], name)
        self._probe()

    def observe(self, clip: Clip, layout: str = DIMENSIONS) -> Observation:
        """Run the model on each frame of a part of a batch.

        Args:
            clip: of the size the teacher was built for; uint8, or floating and normalised with ImageNet's mean and
                standard deviation, as this library's models take it. The teacher gets its own normalisation.
            layout: a permutation of "BCTHW".

        Returns:
            The attention and the features, in `dtype`.

        Raises:
            ValueError: the clip has another size, or the layout is wrong; the message names what came.
            TypeError: the clip is neither uint8 nor floating.
        """
        clip = view_clip(clip, self.size, layout)
        if clip.dtype != torch.uint8 and not clip.dtype.is_floating_point:
            raise TypeError(f"clip must be uint8 or floating, got {clip.dtype}")
        with self.running(clip):
            found, pooled, seen = self._run(self._frames(clip))
            attention = self._weights(seen)
        pooled = None if pooled is None else pooled.unflatten(0, (clip.shape[0], -1)).mean(1)
        return Observation(attention.reshape(clip.shape[0], *self.grid), found, self.prefix, pooled)

    def _probe(self) -> None:
        """See one frame of zeros: how many rows are no tokens, and whether there is attention and a pooled row."""
        frame = next(self.model.parameters()).new_zeros(1, 3, *self.size[1:], dtype=self._pixel_dtype())
        with self.running(frame):
            found, pooled, seen = self._run(frame)
        rows, tokens = found[0].shape[1], self.grid[1] * self.grid[2]
        if seen is None or seen[1].shape[-2] != rows or rows < tokens:
            raise ValueError(
                f"the attention of teacher {self.name} ({type(self.model).__name__}) cannot be seen: its last block "
                f"must attend among all {tokens} patches through transformers' attention interface, without a mask or "
                "a bias of relative positions"
            )
        self.prefix = rows - tokens
        self.has_cls = self.prefix > 0
        self.pooled_dim = None if pooled is None else pooled.shape[-1]

    def _run(self, frames: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None, tuple[Tensor, Tensor, float] | None]:
        """Features of the layers (F, S, D), the pooled row (F, P), and queries, keys and scale of the last block."""
        found: dict[int, Tensor] = {}

        def keep(number: int, output: Any) -> None:
            found[number] = (output if isinstance(output, Tensor) else output[0]).to(self.dtype)

        hooks = [
            self.blocks[number].register_forward_hook(lambda _, __, output, number=number: keep(number, output))
            for number in self.layers
        ]
        try:
            output = self.model(pixel_values=frames, **self.options)
        finally:
            for hook in hooks:
                hook.remove()
        seen = [module.__dict__.pop(_SEEN) for module in self.blocks[-1].modules() if _SEEN in module.__dict__]
        pooled = getattr(output, "pooler_output", None) if self.wants_pooled else None
        return tuple(found[number] for number in self.layers), pooled, seen[0] if seen else None

    def _weights(self, seen: tuple[Tensor, Tensor, float] | None) -> Tensor:
        """(F, n): attention to the tokens, of the cls token or averaged over all queries."""
        assert seen is not None
        query, key, scale = seen
        scores = (query[:, :, :1] if self.has_cls else query) * scale @ key.mT
        weights = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)
        return weights[..., self.prefix :].mean((1, 2))

    def _frames(self, clip: Clip) -> Tensor:
        """(B·T, C, H, W), normalised for this model."""
        if clip.dtype != torch.uint8:
            assert isinstance(clip, Tensor)
            frames = clip.transpose(1, 2).flatten(0, 1)
            if self.pixel_stats != _OURS:
                frames = frames * self.rescale[0] + self.rescale[1]
            return frames.to(self._pixel_dtype())
        (batch, channels, *_), (_, rows, columns) = clip.shape, self.grid
        index = torch.arange(self.grid[0] * rows * columns, device=clip.device).expand(batch, -1)
        pixels = tube_mask_gather(clip, index, (1, *self.patch), normalize=self.pixel_stats, dtype=self._pixel_dtype())
        pixels = pixels.view(-1, rows, columns, channels, *self.patch)
        return pixels.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, *self.size[1:])

    def _pixel_dtype(self) -> torch.dtype:
        return self.dtype if self.dtype == torch.float64 else torch.float32


def _observed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> Any:
    """transformers' SDPA, which leaves its queries (F, h, S, d), keys and scale with the module if these tell all."""
    scaling = options.get("scaling")
    if attention_mask is None and all(options.get(name) is None for name in ("position_bias", "softcap")):
        module.__dict__[_SEEN] = query, key, query.shape[-1] ** -0.5 if scaling is None else scaling
    attend = require("transformers.modeling_utils").ALL_ATTENTION_FUNCTIONS["sdpa"]
    return attend(module, query, key, value, attention_mask, **options)


def _observe_attention(block: nn.Module, name: str) -> None:
    """Let the attention of one block go through `_observed_attention`; other blocks keep theirs."""
    interface = getattr(require("transformers.modeling_utils"), "ALL_ATTENTION_FUNCTIONS", None)
    if interface is None or not hasattr(interface, "register"):
        raise ImportError(
            f"teacher {name} needs transformers' attention interface (AttentionInterface), which the installed "
            "transformers does not have: install a newer one with pip install -U 'videomae-fast[hf]'"
        )
    interface.register(_ATTENTION, _observed_attention)
    for module in block.modules():
        if hasattr(module, "config"):
            config: Any = copy.copy(module.config)
            config._attn_implementation = _ATTENTION
            module.config = config


def _find_blocks(model: nn.Module, name: str) -> nn.ModuleList:
    depth = getattr(model.config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"teacher {name} ({type(model).__name__}) has no list of {depth} blocks: it is no plain ViT")


def _pair(size: Any, name: str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return size[0], size[1]
    raise ValueError(f"teacher {name} must have one patch_size or two, got {size!r}")


def _position_options(model: nn.Module, image_size: tuple[int, int]) -> dict[str, Any]:
    """Ask the model to interpolate its positions where the frames have another size and the model has that option."""
    size = getattr(model.config, "image_size", None)
    built_for = (size, size) if isinstance(size, int) else tuple(size or ())
    option = "interpolate_pos_encoding"
    takes = option in inspect.signature(model.forward).parameters
    return {option: True} if takes and built_for != image_size else {}
