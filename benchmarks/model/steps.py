"""Training steps that can be compared: the same weights and pixels in the published code, Hugging Face's and ours.

A step is forward, loss, backward and AdamW. Each implementation gets the clip as its own pipeline delivers it: the
published code and Hugging Face's a normalised float32 clip, ours the uint8 frames. The published code's masks lie on
the device before its step begins; ours are made within the step, as in training.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baselines.huggingface import make_huggingface
from benchmarks.baselines.published import PublishedVideoMAE, published_loss
from benchmarks.baselines.published.release_classes import PretrainVisionTransformer, build_published
from benchmarks.inputs import Inputs
from videomae_fast.interop import from_huggingface, fuse, pretrain_loss
from videomae_fast.models import VideoMAEForPretraining

PRECISIONS = ("fp32", "bf16")  # bf16: autocast, float32 parameters


NamedTensors = dict[str, Tensor]


@dataclass
class ComparedStep:
    """A training step of one implementation on fixed inputs: calling it once makes one."""

    name: str
    implementation: "Implementation"
    model: nn.Module
    loss: Callable[[], Tensor]
    inputs: tuple[Tensor, ...] = ()  # what the implementation is handed, on the device before the step begins
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, fused=True)

    def __call__(self) -> None:
        self.forget_gradients()
        self.loss().backward()
        self.optimizer.step()

    def forget_gradients(self) -> None:
        """Free the gradients: they belong to a step, not to the memory before it."""
        self.optimizer.zero_grad(set_to_none=True)

    def move(self, device: torch.device | str) -> None:
        """Move weights and optimizer state, so that another implementation has the device to itself."""
        self.forget_gradients()
        self.model.to(device)
        for state in self.optimizer.state.values():
            state.update({name: value.to(device) for name, value in state.items()})

    def resident_mib(self) -> float:
        """What lies on the device before a step: weights, buffers, optimizer state, inputs."""
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [*self.model.parameters(), *self.model.buffers(), *states, *self.inputs]
        return sum(tensor.nbytes for tensor in tensors) / 2**20


def _published_loss(inputs: Inputs, model: nn.Module) -> Callable[[], Tensor]:
    config, (clip, hidden, not_decoded) = inputs.config, _published_inputs(inputs)

    def loss() -> Tensor:
        predictions = model(clip, hidden, not_decoded)
        with torch.autocast(inputs.device.type, enabled=False):  # the published loss lies outside autocast
            return published_loss(predictions, clip, hidden, not_decoded, config.patch)

    return loss


def _published_inputs(inputs: Inputs) -> tuple[Tensor, ...]:
    return inputs.clip, inputs.hidden, inputs.not_decoded


def _huggingface_loss(inputs: Inputs, model: nn.Module) -> Callable[[], Tensor]:
    clip, hidden = _huggingface_inputs(inputs)
    return lambda: model(clip, bool_masked_pos=hidden).loss


def _huggingface_inputs(inputs: Inputs) -> tuple[Tensor, ...]:
    return inputs.clip_by_frame, inputs.hidden


def _fused_published_loss(inputs: Inputs, model: nn.Module) -> Callable[[], Tensor]:
    clip, patch = inputs.clip, inputs.config.patch

    def loss() -> Tensor:
        plan = inputs.plan()
        return pretrain_loss(clip, model(clip, plan), plan, patch=patch)

    return loss


def _fused_huggingface_loss(inputs: Inputs, model: nn.Module) -> Callable[[], Tensor]:
    clip = inputs.clip_by_frame
    return lambda: model(clip, bool_masked_pos=inputs.plan()).loss


def _our_loss(inputs: Inputs, model: nn.Module) -> Callable[[], Tensor]:
    frames = inputs.frames
    return lambda: model(frames, inputs.plan(), "BTHWC")


def _our_crops_loss(inputs: Inputs, model: nn.Module) -> Callable[[], Tensor]:
    clips = inputs.loaded_clips
    return lambda: model(clips, inputs.plan())


def _our_crops_inputs(inputs: Inputs) -> tuple[Tensor, ...]:
    clips = inputs.loaded_clips
    return clips.frames, clips.geometry, clips.first, clips.weights, inputs.sample


def _fused_published_inputs(inputs: Inputs) -> tuple[Tensor, ...]:
    return inputs.clip, inputs.sample


def _fused_huggingface_inputs(inputs: Inputs) -> tuple[Tensor, ...]:
    return inputs.clip_by_frame, inputs.sample


def _our_inputs(inputs: Inputs) -> tuple[Tensor, ...]:
    return inputs.frames, inputs.sample


@dataclass(frozen=True)
class Implementation:
    """How one implementation builds its model from ours (same weights) and its loss from the inputs."""

    build: Callable[[Any], nn.Module]
    loss: Callable[[Any, nn.Module], Callable[[], Tensor]]
    inputs: Callable[[Any], tuple[Tensor, ...]]
    compiled: bool = False
    autocast_cache: bool = True  # PyTorch's default
    published_names: Callable[[NamedTensors], NamedTensors] = dict  # of parameters and gradients

    def make_step(self, name: str, inputs: Any, ours: Any, precision: str) -> ComparedStep:
        """The step with the weights of `ours`, on the inputs' device."""
        model = self.build(ours).to(inputs.device)
        return ComparedStep(name, self, model, self.make_loss(inputs, model, precision), self.inputs(inputs))

    def make_loss(self, inputs: Any, model: nn.Module, precision: str) -> Callable[[], Tensor]:
        """Forward pass and loss, under autocast for bf16."""
        loss, enabled = self.loss(inputs, model), precision == "bf16"
        if self.compiled:
            loss = torch.compile(loss)

        def under_autocast() -> Tensor:
            cache = self.autocast_cache
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=enabled, cache_enabled=cache):
                return loss()

        return under_autocast


def published_implementation(
    build: Callable[[VideoMAEForPretraining], nn.Module], compiled: bool = False
) -> Implementation:
    """An implementation with the published code's inputs, loss and parameter names."""
    return Implementation(build, _published_loss, _published_inputs, compiled)


def our_implementation(compiled: bool = False) -> Implementation:
    """Ours, under autocast as `videomae-fast pretrain` sets it up: each weight is used once, so no copies are kept."""
    return Implementation(lambda ours: ours, _our_loss, _our_inputs, compiled, autocast_cache=False)


def _build_published(**options: object) -> Callable[[VideoMAEForPretraining], nn.Module]:
    def build(ours: VideoMAEForPretraining) -> nn.Module:
        model = PublishedVideoMAE.from_config(ours.config, **options)
        model.load_state_dict(ours.state_dict())
        return model

    return build


IMPLEMENTATIONS = {
    "published": published_implementation(_build_published()),
    "published, checkpointed": published_implementation(_build_published(checkpointing=True)),
    "published + SDPA": published_implementation(_build_published(attention="sdpa")),
    "published + SDPA + compile": published_implementation(_build_published(attention="sdpa"), compiled=True),
    "published, fused": Implementation(
        lambda ours: fuse(build_published(PretrainVisionTransformer, ours)),
        _fused_published_loss,
        _fused_published_inputs,
    ),
    "Hugging Face": Implementation(
        make_huggingface, _huggingface_loss, _huggingface_inputs, published_names=from_huggingface
    ),
    "Hugging Face, fused": Implementation(
        lambda ours: fuse(make_huggingface(ours)),
        _fused_huggingface_loss,
        _fused_huggingface_inputs,
        published_names=from_huggingface,
    ),
    "videomae_fast": our_implementation(),
    "videomae_fast + compile": our_implementation(compiled=True),
    # Other pixels than the others have: crops of larger frames, as our loader delivers them.
    "videomae_fast, crops": Implementation(lambda ours: ours, _our_crops_loss, _our_crops_inputs, autocast_cache=False),
}


def make_step(name: str, inputs: Inputs, precision: str = "fp32") -> ComparedStep:
    """The named implementation with the weights that seed 0 gives, on the inputs' device.

    "Hugging Face" has no decoder mask: its inputs must have decoder_mask_ratio 0.
    """
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"name must be one of {tuple(IMPLEMENTATIONS)}, got '{name}'")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got '{precision}'")
    if name == "Hugging Face" and inputs.decoder_mask_ratio:
        raise ValueError(
            f"Hugging Face has no decoder mask: decoder_mask_ratio must be 0, got {inputs.decoder_mask_ratio}"
        )
    torch.manual_seed(0)
    return IMPLEMENTATIONS[name].make_step(name, inputs, VideoMAEForPretraining(inputs.config), precision)
