"""Fine-tuning steps that can be compared: the same weights, clips, targets and dropped branches in all.

A step is forward, soft-target cross-entropy, backward and AdamW. Every implementation gets what augmentation leaves on
the device: normalised float32 clips, mixed or not, and soft targets. The published code computes every branch and
multiplies it by 0 where drop path drops it; ours skips it, and takes the mean of the tokens before its last product.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.baselines.published import PublishedClassifier
from benchmarks.model.steps import ComparedStep, Implementation
from videomae_fast.models import VideoMAEConfig, VideoMAEForClassification, stochastic_depth
from videomae_fast.models.layers import Block

NUM_CLASSES, SEED, STEP = 400, 0, 0
# Rates of the published scripts: S and B on Kinetics-400 (S: VideoMAE V1), L and H likewise, g on Kinetics-710.
DROP_PATH = {"small": 0.1, "base": 0.1, "large": 0.2, "huge": 0.2, "giant": 0.3, "tiny": 0.5}
# Clips of a GPU in the same scripts: two of each video.
CLIPS = {"small": 24, "base": 32, "large": 12, "huge": 8, "giant": 6, "tiny": 4}


@dataclass(frozen=True)
class FinetuningInputs:
    """Random clips of one batch, their targets, and the branches that drop path keeps."""

    config: VideoMAEConfig
    batch_size: int
    device: torch.device

    @cached_property
    def clip(self) -> Tensor:
        """(B, 3, T, H, W) float32, as normalised clips are distributed."""
        generator = torch.Generator(self.device).manual_seed(SEED)
        shape = (self.batch_size, self.config.in_channels, self.config.num_frames, *self.config.image_size)
        return torch.randn(shape, device=self.device, generator=generator)

    @cached_property
    def targets(self) -> Tensor:
        """(B, NUM_CLASSES) float32, as label smoothing and mixing leave them."""
        generator = torch.Generator(self.device).manual_seed(SEED)
        shape = (self.batch_size, NUM_CLASSES)
        return torch.randn(shape, device=self.device, generator=generator).softmax(1)

    @cached_property
    def sample(self) -> Tensor:
        """(B,) sample numbers on the host, which draws."""
        return torch.arange(self.batch_size)

    @cached_property
    def keep(self) -> Tensor:
        """(L, 2, B) bool: the samples that keep each branch in our step, for the published code."""
        depth = self.config.encoder_depth
        keep = torch.ones(depth, 2, self.batch_size, dtype=torch.bool)
        with torch.device("meta"):  # only draws
            blocks = VideoMAEForClassification(self.config, 1).blocks
        ones = torch.ones(self.batch_size, 1, 1)
        with self.draws():
            for number, block in enumerate(blocks):
                assert isinstance(block, Block)
                drop_path = block.drop_path
                if drop_path is None:
                    continue
                for branch in (0, 1):
                    draw = drop_path(ones, branch)
                    keep[number, branch] = draw.add(torch.zeros_like(ones), draw.select(ones)).flatten() > 0
        return keep.to(self.device)

    def draws(self) -> AbstractContextManager[None]:
        """The context in which our model draws the branches to keep."""
        return stochastic_depth(seed=SEED, step=STEP, sample=self.sample)


def _published_loss(inputs: FinetuningInputs, model: nn.Module) -> Callable[[], Tensor]:
    clip, targets, keep = _published_inputs(inputs)
    return lambda: _soft_cross_entropy(model(clip, keep), targets)


def _published_inputs(inputs: FinetuningInputs) -> tuple[Tensor, ...]:
    return inputs.clip, inputs.targets, inputs.keep


def _our_loss(inputs: FinetuningInputs, model: nn.Module) -> Callable[[], Tensor]:
    clip, targets = _our_inputs(inputs)

    def loss() -> Tensor:
        with inputs.draws():
            logits = model(clip)
        return _soft_cross_entropy(logits, targets)

    return loss


def _our_inputs(inputs: FinetuningInputs) -> tuple[Tensor, ...]:
    return inputs.clip, inputs.targets


def _soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets)


def _published(compiled: bool = False, **options: object) -> Implementation:
    def build(ours: VideoMAEForClassification) -> nn.Module:
        model = PublishedClassifier.from_config(ours.config, ours.num_classes, **options)
        model.load_state_dict(ours.state_dict())
        return model

    return Implementation(build, _published_loss, _published_inputs, compiled)


# Ours under autocast as `videomae-fast finetune` sets it up: each weight is used once, so no copies are kept.
IMPLEMENTATIONS = {
    "published": _published(),
    "published, checkpointed": _published(checkpointing=True),
    "published + SDPA": _published(attention="sdpa"),
    "published + SDPA + compile": _published(compiled=True, attention="sdpa"),
    "videomae_fast": Implementation(lambda ours: ours, _our_loss, _our_inputs, autocast_cache=False),
}


def make_finetuning_step(name: str, inputs: FinetuningInputs, precision: str = "fp32") -> ComparedStep:
    """The named implementation with the weights that seed 0 gives, on the inputs' device; ValueError for others."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"name must be one of {tuple(IMPLEMENTATIONS)}, got '{name}'")
    torch.manual_seed(0)
    ours = VideoMAEForClassification(inputs.config, NUM_CLASSES, positions="sinusoid", init_scale=1.0)
    return IMPLEMENTATIONS[name].make_step(name, inputs, ours, precision)
