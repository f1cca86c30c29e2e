"""Whether a step of pre-training fits a card without recomputation, predicted in closed form.

`videomae_fast.memory` predicts any step by running it on fake tensors, which takes seconds. This takes none, knows
VideoMAE V2 only, and is tested against it.
"""

from ..masks import MaskPlan
from .config import VideoMAEConfig

BYTES = {"bf16": 2, "fp32": 4}
# Not predicted, as in videomae_fast.memory.predict: the CUDA context, workspaces and fragmentation.
ALLOWANCE = 2 * 2**30
SLACK = 0.05


def choose_recompute(
    config: VideoMAEConfig, plan: MaskPlan, *, clips: int, precision: str, capacity_bytes: int | None
) -> str:
    """The `recompute` to build a model with, for `VideoMAEConfig.recompute == "auto"`.

    Recomputation costs time and saves memory, so it is chosen unless a step without it is predicted to fit.

    Args:
        config: of the model.
        plan: any masks of the run, of any number of samples: only its counts of tokens are read.
        clips: clips of one forward pass on one device.
        precision: "bf16" (autocast, float32 weights) or "fp32".
        capacity_bytes: memory of the card (`torch.cuda.get_device_properties(device).total_memory`); None where it is
            not known, as on a CPU.

    Returns:
        "never" if a step that keeps everything is predicted to fit, else "always".

    Raises:
        ValueError: another precision, or clips < 1.
    """
    if precision not in BYTES:
        raise ValueError(f"precision must be one of {tuple(BYTES)}, got '{precision}'")
    if clips < 1:
        raise ValueError(f"clips must be at least 1, got {clips}")
    if capacity_bytes is None or config.activation_checkpointing:
        return "always"
    usable = (capacity_bytes - ALLOWANCE) * (1 - SLACK)
    return "never" if peak_bytes(config, plan, clips, precision) <= usable else "always"


def peak_bytes(config: VideoMAEConfig, plan: MaskPlan, clips: int, precision: str) -> int:
    """Predicted peak of an AdamW step that recomputes nothing: at the loss's backward, or at the optimizer's step.

    Args:
        config, plan, clips, precision: as `choose_recompute` takes them.

    Returns:
        Bytes of `torch.cuda.max_memory_allocated`.
    """
    visible, decoded, rows = plan.visible.shape[1], plan.decoded.shape[1], plan.predicted.shape[1]
    if config.decoder_context == "disjoint":
        decoded = rows
    size = BYTES[precision]
    encoder, decoder = _Stack(config, "encoder", size), _Stack(config, "decoder", size)
    predictions = rows * config.patch_dim * size
    kept = (
        visible * config.patch_dim * size  # pixels of the patch embedding
        + config.encoder_depth * encoder.block(visible, visible)
        + encoder.norm(visible)
        + (config.decoder_depth - 1) * decoder.block(visible + decoded, visible + decoded)
        + decoder.block(visible + decoded, rows)
        + decoder.norm(rows)
        + predictions
    )
    clip = config.in_channels * config.num_frames * config.image_size[0] * config.image_size[1]  # uint8
    matrices = (
        config.encoder_depth * encoder.matrices
        + config.decoder_depth * decoder.matrices
        + (config.encoder_dim + config.decoder_dim) * config.patch_dim
        + config.encoder_dim * config.decoder_dim
    )
    casts = size * matrices if precision == "bf16" else 0  # autocast's copies of weights, kept for backward
    forward = 12 * matrices + casts + clips * (clip + kept + predictions)  # weights, two moments; loss's gradient
    return max(forward, 20 * matrices)  # gradients, and one temporary of the optimizer


class _Stack:
    """What blocks of encoder or decoder keep, in bytes a clip. Residual and norms are float32 in backward."""

    def __init__(self, config: VideoMAEConfig, name: str, size: int) -> None:
        self.dim, self.heads = getattr(config, f"{name}_dim"), getattr(config, f"{name}_heads")
        hidden = int(self.dim * config.mlp_ratio)
        self.hidden = hidden + -hidden % 8
        self.size = size
        self.matrices = self.dim * (4 * self.dim + 2 * self.hidden)

    def norm(self, rows: int) -> int:
        """Input in float32, mean and deviation, and the result that the next product reads."""
        return rows * ((4 + self.size) * self.dim + 8)

    def block(self, rows: int, last_rows: int) -> int:
        """Two norms, q, k, v, attention's output and its logarithms of sums, and both sides of the GELU."""
        restricted = 0 if rows == last_rows else last_rows * self.dim * self.size  # a copy of the normed last rows
        attention = (2 * rows + 2 * last_rows) * self.dim * self.size + 4 * self.heads * last_rows
        perceptron = 2 * last_rows * self.hidden * self.size
        return self.norm(rows) + restricted + attention + self.norm(last_rows) + perceptron
