"""Contrastive steps that can be compared: the same towers, clips, masks and captions, the naive way and ours.

A step is forward, CLIP's loss, backward and AdamW. The naive code gets normalised float32 clips and boolean masks,
which lie on the device before its step begins; ours gets uint8 frames, and draws its masks within the step, as in
training. The text tower is the same BERT of transformers in all, and is trained.

Where the last blocks are trained, the naive code comes in both forms that people have: it trains everything, or it sets
`requires_grad = False` for all that is before them. Autograd then keeps nothing of the frozen part, either.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from benchmarks.baselines.vivit import NaiveDualEncoder
from benchmarks.contrast.sizes import EMBED_DIM, LAST, MAX_TOKENS, ContrastSize
from benchmarks.inputs import Inputs
from benchmarks.model.steps import ComparedStep, Implementation, NamedTensors
from videomae_fast._optional import require
from videomae_fast.models import VideoMAEConfig
from videomae_fast.models.dual_encoder import VideoTextModel
from videomae_fast.models.text_tower import TextTower
from videomae_fast.models.video_transformer import VideoTransformer
from videomae_kernels import contrastive_loss, random_mask_index

SEED = 0
LEARNED_POSITIONS = 0.02  # their usual standard deviation
NAIVE, NAIVE_LAST = "naive", f"naive, last {LAST} by requires_grad"
OURS, OURS_LAST = "videomae_fast", f"videomae_fast, last {LAST}"
ALL_TRAINED = (NAIVE, OURS)
LAST_TRAINED = (NAIVE, NAIVE_LAST, OURS_LAST)
IMPLEMENTATIONS = (NAIVE, NAIVE_LAST, OURS, OURS_LAST)


class ColouredInputs(Inputs):
    """Random clips, each with a colour of its own: a contrastive loss has nothing to learn of clips that are alike."""

    @cached_property
    def frames(self) -> Tensor:
        """(B, T, H, W, 3) uint8."""
        generator = torch.Generator(self.device).manual_seed(self.seed + 1)
        shape = (self.batch_size, 1, 1, 1, self.config.in_channels)
        colour = torch.randint(0, 129, shape, dtype=torch.uint8, device=self.device, generator=generator)
        return super().frames // 2 + colour


@dataclass(frozen=True)
class ContrastBatch:
    """Random clips, their masks and captions of one batch, in the form of each implementation.

    Args:
        size: the models.
        frames_per_clip: T.
        mask_ratio: share of the tokens hidden from the video tower; with 0 nothing is drawn.
        clips: B.
        device: of the tensors.
        last_only: compare the gradients of what is trained with the last blocks only.
    """

    size: ContrastSize
    frames_per_clip: int
    mask_ratio: float
    clips: int
    device: torch.device
    last_only: bool = False

    @property
    def config(self) -> VideoMAEConfig:
        return self.size.config(self.frames_per_clip)

    @cached_property
    def pixels(self) -> Inputs:
        """`frames` (B, T, H, W, 3) uint8, `clip` (B, 3, T, H, W) float32 and `sample` (B,)."""
        return ColouredInputs(self.config, self.clips, self.device, seed=SEED)

    def visible(self) -> Tensor | None:
        """(B, K) int64 tokens, as our video tower draws them."""
        if not self.mask_ratio:
            return None
        return random_mask_index(self.pixels.sample, self.config.num_tokens, self.mask_ratio, seed=SEED)

    @cached_property
    def hidden(self) -> Tensor | None:
        """(B, N) bool, True = hidden: the same masks."""
        visible = self.visible()
        if visible is None:
            return None
        hidden = torch.ones(self.clips, self.config.num_tokens, dtype=torch.bool, device=self.device)
        return hidden.scatter(1, visible, False)

    @cached_property
    def ids(self) -> Tensor:
        """(B, L) int64 tokens of captions, each of one word, so that no two captions are alike."""
        words = torch.arange(self.clips, device=self.device) % self.size.text.get("vocab_size", 30522)
        return words[:, None].expand(-1, MAX_TOKENS).contiguous()

    @cached_property
    def mask(self) -> Tensor:
        """(B, L) int64, 1 for the tokens of captions: half of L or more."""
        lengths = MAX_TOKENS - torch.arange(self.clips, device=self.device) % (MAX_TOKENS // 2 + 1)
        return (torch.arange(MAX_TOKENS, device=self.device) < lengths[:, None]).long()


def _naive_inputs(batch: ContrastBatch) -> tuple[Tensor, ...]:
    masks = () if batch.hidden is None else (batch.hidden,)
    return batch.pixels.clip, batch.ids, batch.mask, *masks


def _naive_loss(batch: ContrastBatch, model: nn.Module) -> Callable[[], Tensor]:
    return partial(model, *_naive_inputs(batch))


def _our_inputs(batch: ContrastBatch) -> tuple[Tensor, ...]:
    return batch.pixels.frames, batch.ids, batch.mask, batch.pixels.sample


def _our_loss(batch: ContrastBatch, model: nn.Module) -> Callable[[], Tensor]:
    frames, ids, mask, _ = _our_inputs(batch)
    return lambda: contrastive_loss(*model(frames, ids, mask, batch.visible(), "BTHWC"))


def our_model(size: ContrastSize, frames: int) -> VideoTextModel:
    """Ours, with the weights that seed 0 gives, and positions as small as learned ones, which drown no pixels."""
    torch.manual_seed(SEED)
    video = VideoTransformer(size.config(frames))
    with torch.no_grad():
        video.pos_embed.mul_(LEARNED_POSITIONS)
    return VideoTextModel(video, TextTower(_bert(size)), EMBED_DIM)


def _bert(size: ContrastSize) -> nn.Module:
    transformers = require("transformers")
    model: nn.Module = transformers.BertModel(transformers.BertConfig(**size.text), add_pooling_layer=False)
    return model


def _naive(ours: VideoTextModel, size: ContrastSize, freeze: bool) -> nn.Module:
    model = NaiveDualEncoder.from_config(ours.vision_encoder.config, _bert(size), ours.state_dict())
    if freeze:
        model.vision_encoder.freeze_before(LAST)
    return model


def _ours(ours: VideoTextModel, freeze: bool) -> nn.Module:
    if freeze:
        ours.vision_encoder.freeze(f"last:{LAST}")
    return ours


def compared(gradients: NamedTensors, depth: int, last_only: bool) -> NamedTensors:
    """Without the embedding of images, which a batch of clips does not use, and without what is frozen.

    Without biases of keys, too: a softmax cancels them, and their gradients are rounding errors of 0.
    """
    left_out = ["image_embed."]
    if last_only:
        left_out += ["patch_embed.", "pos_embed", *(f"blocks.{number}." for number in range(depth - LAST))]
    prefixes = tuple(f"vision_encoder.{name}" for name in left_out)
    return {
        name: gradient
        for name, gradient in gradients.items()
        if not name.startswith(prefixes) and not name.endswith(".key.bias")
    }


def of_blocks(gradients: NamedTensors) -> NamedTensors:
    """The gradients of each block in one vector, and those of what else there is in a tower.

    The gradients of a batch nearly cancel in the biases of norms, so that bfloat16 leaves little of them: those of the
    naive code itself are further from float32's than they are large.
    """
    found: dict[str, list[Tensor]] = {}
    for name, gradient in gradients.items():
        block = re.match(r".*\.(blocks|layer)\.\d+", name)
        found.setdefault(block[0] if block else name.partition(".")[0], []).append(gradient.flatten())
    return {name: torch.cat(parts) for name, parts in found.items()}


def make_contrast_step(name: str, batch: ContrastBatch, precision: str = "fp32") -> ComparedStep:
    """The named implementation with the weights that seed 0 gives, on the batch's device; ValueError for others."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"name must be one of {IMPLEMENTATIONS}, got '{name}'")
    freeze, size = name in (NAIVE_LAST, OURS_LAST), batch.size

    def names(gradients: NamedTensors) -> NamedTensors:
        kept = compared(gradients, size.video.encoder_depth, batch.last_only)
        return of_blocks(kept) if precision == "bf16" else kept

    if name in (NAIVE, NAIVE_LAST):
        build = partial(_naive, size=size, freeze=freeze)
        way = Implementation(build, _naive_loss, _naive_inputs, published_names=names)
    else:  # under autocast as the recipe sets it up: each weight is used once, so no copies are kept
        build = partial(_ours, freeze=freeze)
        way = Implementation(build, _our_loss, _our_inputs, autocast_cache=False, published_names=names)
    return way.make_step(name, batch, our_model(size, batch.frames_per_clip), precision)
