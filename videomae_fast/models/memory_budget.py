"""Predict in closed form whether a step of training fits a GPU without recomputation.

`videomae_fast.memory` predicts any step by running it on fake tensors, which takes seconds. The closed form takes no
time and covers VideoMAE V2 and InternVideo2 only. Tests compare the two.
"""

from dataclasses import dataclass

from ..masks import MaskPlan
from .alignment_heads import AlignmentHeads
from .config import ClipConfig, InternVideo2Config, VideoMAEConfig

BYTES = {"bf16": 2, "fp32": 4}
# Kept free for what no prediction covers (see videomae_fast.memory.predict): CUDA context, workspaces, fragmentation.
ALLOWANCE = 2 * 2**30
SLACK = 0.05


@dataclass(frozen=True)
class AlignmentTokens:
    """What an alignment step computes for each clip.

    Attributes:
        heads: of the student.
        visible: K, the visible tokens of a mask.
        masks_per_clip: M.
    """

    heads: AlignmentHeads
    visible: int
    masks_per_clip: int = 1


def choose_recompute(
    config: VideoMAEConfig | InternVideo2Config,
    tokens: MaskPlan | AlignmentTokens | int,
    *,
    clips: int,
    precision: str,
    capacity_bytes: int | None,
    accumulate: int = 1,
    copies: int = 0,
    teachers: int = 0,
) -> str:
    """Choose `recompute` of a configuration by predicted memory, where it is "auto".

    Recomputation costs time and saves memory, so the answer is "always" unless a step without it should fit.

    Args:
        config: the configuration of the model.
        tokens: of a pre-training step its masks, for any number of samples, of which only the numbers of tokens are
            read; of an alignment step its `AlignmentTokens`; of a fine-tuning step the tokens that the classifier
            computes for each clip.
        clips: clips of one forward pass on one device.
        precision: "bf16" (autocast, float32 weights) or "fp32".
        accumulate: parts of a batch; their gradients, and fine-tuning's clips, are held from one part to the next.
        copies: further float32 sets of the weights that are held all the time: an average of them, DDP's buckets.
        teachers: bytes of teachers' weights, which are held all the time.
        capacity_bytes: memory of the GPU (`torch.cuda.get_device_properties(device).total_memory`); None where it is
            not known, as on a CPU.

    Returns:
        "never" if a step without recomputation is predicted to fit, else "always".

    Raises:
        ValueError: the precision is unknown, or clips < 1.
    """
    if precision not in BYTES:
        raise ValueError(f"precision must be one of {tuple(BYTES)}, got '{precision}'")
    if clips < 1:
        raise ValueError(f"clips must be at least 1, got {clips}")
    if capacity_bytes is None or config.activation_checkpointing:
        return "always"
    usable = (capacity_bytes - ALLOWANCE) * (1 - SLACK)
    peak = teachers + peak_bytes(config, tokens, clips, precision, accumulate, copies)
    return "never" if peak <= usable else "always"


def peak_bytes(
    config: VideoMAEConfig | InternVideo2Config,
    tokens: MaskPlan | AlignmentTokens | int,
    clips: int,
    precision: str,
    accumulate: int = 1,
    copies: int = 0,
) -> int:
    """Predict the peak of an AdamW step that recomputes nothing: in the loss's backward, or in the optimizer.

    Args:
        config: the configuration of the model.
        tokens: of a pre-training step its masks, for any number of samples, of which only the numbers of tokens are
            read; of an alignment step its `AlignmentTokens`; of a fine-tuning step the tokens that the classifier
            computes for each clip.
        clips: clips of one forward pass on one device.
        precision: "bf16" (autocast, float32 weights) or "fp32".
        accumulate: as `choose_recompute` takes it.
        copies: as `choose_recompute` takes it.

    Returns:
        The predicted `torch.cuda.max_memory_allocated`, in bytes.
    """
    size = BYTES[precision]
    if isinstance(config, InternVideo2Config):
        kept, matrices = _internvideo2(config, tokens, size)  # type: ignore[arg-type]
    else:
        of_kind = _classifier if isinstance(tokens, int) else _pretraining
        kept, matrices = of_kind(config, tokens, size)  # type: ignore[arg-type]
    casts = size * matrices if precision == "bf16" else 0  # autocast's copies of weights, kept for backward
    held = copies + (accumulate > 1)  # gradients of the parts before
    waiting = (accumulate - 1) * clips * 4 * _pixels(config) if isinstance(tokens, int) else 0  # float32 clips
    forward = (12 + 4 * held) * matrices + casts + clips * kept + waiting  # weights, two moments
    return max(forward, (20 + 4 * copies) * matrices)  # gradients, and one temporary of the optimizer


def _pretraining(config: VideoMAEConfig, plan: MaskPlan, size: int) -> tuple[int, int]:
    """Bytes that are kept for a clip, its own and those of the gradient of the loss included; elements of matrices."""
    visible, decoded, rows = plan.visible.shape[1], plan.decoded.shape[1], plan.predicted.shape[1]
    if config.decoder_context == "disjoint":
        decoded = rows
    encoder, decoder = _Stack(config, "encoder", size), _Stack(config, "decoder", size)
    predictions = rows * config.patch_dim * size
    kept = (
        visible * config.patch_dim * size  # pixels of the patch embedding
        + config.encoder_depth * encoder.block(visible, visible)
        + encoder.norm(visible, input_size=4)  # PyTorch's
        + (config.decoder_depth - 1) * decoder.block(visible + decoded, visible + decoded)
        + decoder.block(visible + decoded, rows)
        + decoder.norm(rows)
        + 2 * predictions  # and their gradient
    )
    matrices = (
        config.encoder_depth * encoder.matrices
        + config.decoder_depth * decoder.matrices
        + (config.encoder_dim + config.decoder_dim) * config.patch_dim
        + config.encoder_dim * config.decoder_dim
    )
    return _pixels(config) + kept, matrices


def _classifier(config: VideoMAEConfig, tokens: int, size: int) -> tuple[int, int]:
    """Bytes that are kept for a clip, which may be float32; elements of matrices, the small head's left out."""
    encoder = _Stack(config, "encoder", size)
    kept = tokens * config.patch_dim * size + config.encoder_depth * encoder.block(tokens, tokens)
    matrices = config.encoder_depth * encoder.matrices + config.encoder_dim * config.patch_dim
    return 4 * _pixels(config) + kept, matrices


def _internvideo2(config: InternVideo2Config, tokens: AlignmentTokens | int, size: int) -> tuple[int, int]:
    """Bytes that are kept for a clip, first gradients of backward included; elements of matrices and tables.

    An aligned student's clip is uint8, and its teachers' rows are bfloat16.
    """
    dim, table = config.encoder_dim, (config.num_tokens + 1) * config.encoder_dim
    hidden = int(dim * config.mlp_ratio)
    hidden += -hidden % 8
    heads = AlignmentHeads() if isinstance(tokens, int) else tokens.heads  # a classifier's head is small, too
    visible, masks = (tokens, 1) if isinstance(tokens, int) else (tokens.visible, tokens.masks_per_clip)
    rows = 1 + visible
    row = rows * dim * size
    # Residual stream, norms and LayerScale's branches: 2 of each; q, k, v before and after their norms, and attention.
    block = 12 * row + 2 * rows * hidden * size + 4 * rows * (4 + config.encoder_heads)
    if config.elementwise == "torch":  # its RMSNorm keeps normalised rows and a copy of its input, in float32
        block += 4 * rows * dim * (4 if size == 4 else 8)
    kept = visible * config.patch_dim * size + row + config.encoder_depth * block
    matrices = config.encoder_depth * dim * (4 * dim + 2 * hidden) + dim * config.patch_dim + table
    if heads.pooled_dim is not None:
        kept += 6 * row  # norms, keys and values, and gradients of these
        embedded = config.clip_embed_dim
        matrices += dim * (3 * dim + embedded) + embedded * (heads.pooled_dim + embedded * heads.image_mlp)
    else:
        kept += rows * max(heads.image_dim, heads.video_dim) * size  # the gradient of the first head of backward
    for layers, width, mlp in (
        (len(heads.image_layers), heads.image_dim, heads.image_mlp),
        (len(heads.video_layers), heads.video_dim, True),
    ):
        kept += layers * (rows * width * (size + 2) + (1 + 2 * mlp) * row)
        matrices += layers * dim * (width + dim * mlp) + (table if layers else 0)
    clip = _pixels(config) * (4 if isinstance(tokens, int) else 1)
    return clip + masks * kept, matrices


def _pixels(config: ClipConfig) -> int:
    return config.in_channels * config.num_frames * config.image_size[0] * config.image_size[1]


class _Stack:
    """Bytes per clip that the blocks of encoder or decoder keep."""

    def __init__(self, config: VideoMAEConfig, name: str, size: int) -> None:
        self.dim, self.heads = getattr(config, f"{name}_dim"), getattr(config, f"{name}_heads")
        hidden = int(self.dim * config.mlp_ratio)
        self.hidden = hidden + -hidden % 8
        self.size = size
        # What a norm keeps: the residual stream, float32 in the decoder, or the float32 copy that PyTorch makes of it.
        self.norm_input = size if name == "encoder" and config.elementwise != "torch" else 4
        self.matrices = self.dim * (4 * self.dim + 2 * self.hidden)

    def norm(self, rows: int, input_size: int | None = None) -> int:
        """Input, mean and deviation, and the result that the next product reads."""
        return rows * (((input_size or self.norm_input) + self.size) * self.dim + 8)

    def block(self, rows: int, last_rows: int) -> int:
        """Two norms; q, k, v; the output and log-sum-exp of attention; both sides of the GELU."""
        restricted = 0 if rows == last_rows else last_rows * self.dim * self.size  # a copy of the normed last rows
        attention = (2 * rows + 2 * last_rows) * self.dim * self.size + 4 * self.heads * last_rows
        mlp = 2 * last_rows * self.hidden * self.size
        return self.norm(rows) + restricted + attention + self.norm(last_rows) + mlp
