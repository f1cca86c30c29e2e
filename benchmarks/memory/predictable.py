"""Compared steps for `videomae_fast.memory.predict`: on fake tensors, with the counts of their masks."""

from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.baselines.published import sinusoid_table
from benchmarks.inputs import Inputs
from benchmarks.model.steps import ComparedStep, make_step
from videomae_fast.memory.fake_cuda import DEVICE, known_true
from videomae_fast.models import VideoMAEConfig

# Compiled implementations are not among them: what compiled code allocates is unknown before it is compiled.
PREDICTABLE = {
    "published": "published",
    "published, checkpointed": "published, checkpointed",
    "published + SDPA": "published + SDPA",
    "published, fused": "published, fused",
    "Hugging Face": "Hugging Face",  # with decoder_mask_ratio 0 only
    "Hugging Face, fused": "Hugging Face, fused",
    "videomae_fast": "videomae_fast",
    "videomae_fast, checkpointed": "videomae_fast",
    "videomae_fast, crops": "videomae_fast, crops",
}


def make_predictable(
    name: str,
    config: VideoMAEConfig,
    batch_size: int,
    mask_ratio: float = 0.9,
    decoder_mask_ratio: float = 0.5,
    precision: str = "bf16",
    device: torch.device = DEVICE,  # a GPU, to measure the same step
) -> Callable[[], ComparedStep]:
    """What `predict_step` and `fake_step` take: builds the named step. ValueError for one that cannot be predicted."""
    if name not in PREDICTABLE:
        raise ValueError(f"name must be one of {tuple(PREDICTABLE)}, got '{name}'; compiled code cannot be predicted")
    if name == "videomae_fast, checkpointed":
        config = replace(config, activation_checkpointing=True)
    for dim in (config.encoder_dim, config.decoder_dim):
        sinusoid_table(config.num_tokens, dim)  # keeps its results, which must not be fake ones

    # Boxes, and so sizes, are drawn on the host, where nothing is fake.
    host = Inputs(config, batch_size, torch.device("cpu")).loaded_clips if name == "videomae_fast, crops" else None

    def make() -> ComparedStep:
        inputs = Inputs(config, batch_size, device, mask_ratio, decoder_mask_ratio)
        if host is not None:
            shapes = {part: getattr(host, part) for part in ("frames", "geometry", "first", "weights")}
            fake = {part: torch.empty(like.shape, dtype=like.dtype, device=device) for part, like in shapes.items()}
            vars(inputs)["loaded_clips"] = replace(host, **fake)  # type: ignore[arg-type]
        plan = inputs.plan()
        known_true(inputs.hidden, inputs.hidden.numel() - plan.visible.numel())
        known_true(inputs.not_decoded, inputs.not_decoded.numel() - plan.decoded.numel())
        step = make_step(PREDICTABLE[name], inputs, precision)
        for form in ("frames", "clip", "clip_by_frame", "hidden", "not_decoded", "loaded_clips"):
            vars(inputs).pop(form, None)  # the step holds what it was handed: no pipeline has all forms on the device
        return step

    return make


def bytes_to_device_per_clip(step: ComparedStep, batch_size: int) -> float:
    """Bytes that a step's inputs bring from the host for one clip; the published loader sends masks as float64."""
    mask_bytes = 8 if step.name.startswith("published") else 1
    sizes = [tensor.numel() * mask_bytes if tensor.dtype == torch.bool else tensor.nbytes for tensor in step.inputs]
    return sum(sizes) / batch_size
