"""Training steps that can be compared: the same weights and pixels in the published code, Hugging Face's and ours.

A step is forward, loss, backward and AdamW. Each implementation gets the clip as its own pipeline delivers it: the
published code and Hugging Face's a normalised float32 clip, ours the uint8 frames. The published code's masks lie on
the device before its step begins; ours are made within the step, as in training.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from benchmarks.baselines.huggingface import make_huggingface
from benchmarks.baselines.published import PublishedVideoMAE, published_loss
from videomae_fast.masks import MaskPlan, make_masks
from videomae_fast.models import VideoMAEConfig, VideoMAEForPretraining

PRECISIONS = ("fp32", "bf16")  # bf16: autocast, float32 parameters


@dataclass(frozen=True)
class Inputs:
    """Random clips of one batch and their masks, in every form that an implementation asks for."""

    config: VideoMAEConfig
    batch_size: int
    device: torch.device
    encoder_ratio: float = 0.9
    decoder_ratio: float = 0.5  # 0: no decoder mask, so that all hidden tokens are predicted, as in VideoMAE V1
    seed: int = 0

    @cached_property
    def frames(self) -> Tensor:
        """(B, T, H, W, 3) uint8."""
        generator = torch.Generator(self.device).manual_seed(self.seed)
        shape = (self.batch_size, self.config.num_frames, *self.config.image_size, self.config.in_channels)
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device, generator=generator)

    @cached_property
    def clip(self) -> Tensor:
        """(B, 3, T, H, W) float32, the same pixels normalised."""
        scale = 1 / (255 * torch.tensor(self.config.pixel_std, device=self.device))
        shift = torch.tensor(self.config.pixel_mean, device=self.device) * 255
        return ((self.frames - shift) * scale).permute(0, 4, 1, 2, 3).contiguous()

    @cached_property
    def sample(self) -> Tensor:
        """(B,) sample numbers."""
        return torch.arange(self.batch_size, device=self.device)

    def plan(self) -> MaskPlan:
        """Masks as index lists."""
        decoder = "running_cell" if self.decoder_ratio else "none"
        return make_masks(
            self.sample,
            self.config.grid,
            encoder_ratio=self.encoder_ratio,
            decoder=decoder,
            decoder_ratio=self.decoder_ratio,
            seed=self.seed,
        )

    @cached_property
    def hidden(self) -> Tensor:
        """(B, N) bool, True where the encoder sees nothing."""
        return self._all_but(self.plan().visible)

    @cached_property
    def not_decoded(self) -> Tensor:
        """(B, N) bool, True where the decoder predicts nothing."""
        return self._all_but(self.plan().decode)

    def _all_but(self, index: Tensor) -> Tensor:
        everything = torch.ones(self.batch_size, self.config.num_tokens, dtype=torch.bool, device=self.device)
        return everything.scatter(1, index, False)


@dataclass
class Step:
    """A training step of one implementation on fixed inputs: calling it once makes one."""

    name: str
    model: nn.Module
    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, fused=True)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()


def _published(inputs: Inputs, model: nn.Module) -> Callable[[], Tensor]:
    config, clip, hidden, not_decoded = inputs.config, inputs.clip, inputs.hidden, inputs.not_decoded

    def loss() -> Tensor:
        predictions = model(clip, hidden, not_decoded)
        with torch.autocast(inputs.device.type, enabled=False):  # the published loss lies outside autocast
            return published_loss(predictions, clip, hidden, not_decoded, config.patch)

    return loss


def _huggingface(inputs: Inputs, model: nn.Module) -> Callable[[], Tensor]:
    clip, hidden = inputs.clip.transpose(1, 2).contiguous(), inputs.hidden
    return lambda: model(clip, bool_masked_pos=hidden).loss


def _ours(inputs: Inputs, model: nn.Module) -> Callable[[], Tensor]:
    frames = inputs.frames
    return lambda: model(frames, inputs.plan(), "BTHWC")


@dataclass(frozen=True)
class Implementation:
    """How one implementation builds its model from ours (same weights) and its loss from the inputs."""

    build: Callable[[VideoMAEForPretraining], nn.Module]
    loss: Callable[[Inputs, nn.Module], Callable[[], Tensor]]
    compiled: bool = False


def _build_published(**options: object) -> Callable[[VideoMAEForPretraining], nn.Module]:
    def build(ours: VideoMAEForPretraining) -> nn.Module:
        model = PublishedVideoMAE.from_config(ours.config, **options)
        model.load_state_dict(ours.state_dict())
        return model

    return build


IMPLEMENTATIONS = {
    "published": Implementation(_build_published(), _published),
    "published, checkpointed": Implementation(_build_published(checkpointing=True), _published),
    "published + SDPA": Implementation(_build_published(attention="sdpa"), _published),
    "published + SDPA + compile": Implementation(_build_published(attention="sdpa"), _published, compiled=True),
    "Hugging Face": Implementation(make_huggingface, _huggingface),
    "videomae_fast": Implementation(lambda ours: ours, _ours),
    "videomae_fast + compile": Implementation(lambda ours: ours, _ours, compiled=True),
}


def make_step(name: str, inputs: Inputs, precision: str = "fp32") -> Step:
    """The named implementation with the weights that seed 0 gives, on the inputs' device.

    "Hugging Face" has no decoder mask: its inputs must have decoder_ratio 0.
    """
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"name must be one of {tuple(IMPLEMENTATIONS)}, got '{name}'")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got '{precision}'")
    if name == "Hugging Face" and inputs.decoder_ratio:
        raise ValueError(f"Hugging Face has no decoder mask: decoder_ratio must be 0, got {inputs.decoder_ratio}")
    implementation = IMPLEMENTATIONS[name]
    torch.manual_seed(0)
    model = implementation.build(VideoMAEForPretraining(inputs.config)).to(inputs.device)
    loss = implementation.loss(inputs, model)
    if implementation.compiled:
        loss = torch.compile(loss)

    def under_autocast() -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return loss()

    return Step(name, model, under_autocast)
