"""Compared steps for `videomae_fast.memory.predict`: on fake tensors, with the counts of their masks."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from benchmarks.baselines.published import sinusoid_table
from benchmarks.inputs import Inputs
from benchmarks.model.steps import ComparedStep, make_step
from videomae_fast.memory.fake_cuda import DEVICE, known_true
from videomae_fast.models import VideoMAEConfig
from videomae_kernels import CroppedClips

# Compiled implementations are not among them: what compiled code allocates is unknown before it is compiled.
PREDICTABLE = (
    "published",
    "published, checkpointed",
    "published + SDPA",
    "published, fused",
    "Hugging Face",  # with decoder_mask_ratio 0 only
    "Hugging Face, fused",
    "videomae_fast",
    "videomae_fast, checkpointed",
    "videomae_fast, crops",
)
FORMS = ("frames", "clip", "clip_by_frame", "hidden", "not_decoded", "loaded_clips")  # of `Inputs`


class PredictableStep:
    """A compared step whose batch size can change: what `fake_step` and `StepPredictor` run.

    Args:
        name: one of IMPLEMENTATIONS.
        inputs: the first batch, and the settings of the batches that follow.
        precision: "fp32" or "bf16".
        crops: the crops of the first batch, made where nothing is fake; only for "videomae_fast, crops".
    """

    def __init__(self, name: str, inputs: Inputs, precision: str, crops: CroppedClips | None = None) -> None:
        self.precision, self.crops = precision, crops
        if crops is not None:
            shapes = {part: getattr(crops, part) for part in ("frames", "geometry", "first", "weights")}
            fake = {
                part: torch.empty(like.shape, dtype=like.dtype, device=inputs.device) for part, like in shapes.items()
            }
            vars(inputs)["loaded_clips"] = replace(crops, **fake)  # type: ignore[arg-type]
        _declare_masks(inputs)
        self.batch = inputs
        self.step: ComparedStep = make_step(name, inputs, precision)
        _forget_forms(inputs)

    def __call__(self) -> None:
        self.step()

    def set_batch_size(self, batch_size: int) -> None:
        """Replace the inputs; ValueError for crops, whose boxes cannot be drawn among fake tensors."""
        if batch_size == self.batch.batch_size:
            return
        if self.crops is not None:
            raise ValueError("crops are predicted at one batch size only: make another step")
        self.batch = replace(self.batch, batch_size=batch_size)
        _declare_masks(self.batch)
        self.step.loss = self.step.implementation.make_loss(self.batch, self.model, self.precision)
        self.step.inputs = self.step.implementation.inputs(self.batch)
        _forget_forms(self.batch)

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def model(self) -> nn.Module:
        return self.step.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.step.optimizer

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The inputs of the implementation."""
        return self.step.inputs


def make_predictable(
    name: str,
    config: VideoMAEConfig,
    batch_size: int,
    mask_ratio: float = 0.9,
    decoder_mask_ratio: float = 0.5,
    precision: str = "bf16",
    device: torch.device = DEVICE,  # a GPU, to measure the same step
) -> Callable[[], PredictableStep]:
    """Returns a function that builds the named step, for `predict_step` and `StepPredictor`.

    Raises:
        ValueError: `name` is not one of PREDICTABLE.
    """
    if name not in PREDICTABLE:
        raise ValueError(f"name must be one of {PREDICTABLE}, got '{name}'; compiled code cannot be predicted")
    if name == "videomae_fast, checkpointed":
        name, config = "videomae_fast", replace(config, activation_checkpointing=True)
    for dim in (config.encoder_dim, config.decoder_dim):
        sinusoid_table(config.num_tokens, dim)  # keeps its results, which must not be fake ones
    # Boxes, and so sizes, are drawn on the host, where nothing is fake.
    crops = Inputs(config, batch_size, torch.device("cpu")).loaded_clips if name == "videomae_fast, crops" else None

    def make() -> PredictableStep:
        return PredictableStep(
            name, Inputs(config, batch_size, device, mask_ratio, decoder_mask_ratio), precision, crops
        )

    return make


def bytes_to_device_per_clip(step: PredictableStep) -> float:
    """Bytes that a step's inputs take to the device, per clip. The published loader sends masks as float64."""
    mask_bytes = 8 if step.name.startswith("published") else 1
    sizes = [tensor.numel() * mask_bytes if tensor.dtype == torch.bool else tensor.nbytes for tensor in step.inputs]
    return sum(sizes) / step.batch.batch_size


def _declare_masks(inputs: Inputs) -> None:
    plan = inputs.plan()
    known_true(inputs.hidden, inputs.hidden.numel() - plan.visible.numel())
    known_true(inputs.not_decoded, inputs.not_decoded.numel() - plan.decoded.numel())


def _forget_forms(inputs: Inputs) -> None:
    """Drop the other forms of the inputs: the step keeps its own, and no pipeline has all forms on the device."""
    for form in FORMS:
        vars(inputs).pop(form, None)
