"""Kernels and launchers of the pixel ops on tensor clips.

One program handles one token. It loads the pixels once, in the order of the row it makes or compares: channel slowest
for the patch embedding, channel fastest for targets. Targets exist in registers alone, unless they are the result.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import reject_float64, token_tile
from .tile import (
    channel_arguments,
    channel_of,
    channel_steps,
    normalized,
    of_channel,
    pixel_offset,
    row_columns,
    token_corner,
    use_row,
)

# Entries of TOKEN_TILES: where neighbours in a row are neighbours in the clip, and where they are not.
TILES_OF_MODE = {
    "gather": ("gather", "gather_reordered"),
    "gather_backward": ("gather_backward", "gather_backward_reordered"),
    "targets": ("targets", "targets_reordered"),
    "loss": ("loss", "loss_reordered"),
    "gradient": ("gradient", "gradient_reordered"),
}


@triton.jit(do_not_specialize=["rows_per_sample"])
def _tube_mask_gather_kernel(
    clip,  # (B, C, T, H, W), any strides
    index,  # (B, K)
    rows,  # (B, K, C·τ·p·p) contiguous
    more_channels,  # see `channel_arguments`
    scale0,
    scale1,
    scale2,
    scale3,
    shift0,
    shift1,
    shift2,
    shift3,
    rows_per_sample,  # K
    stride_b,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    grid_h,  # H / p
    grid_w,  # W / p
    CHANNELS: tl.constexpr,
    FRAMES: tl.constexpr,  # τ
    HEIGHT: tl.constexpr,  # p
    WIDTH: tl.constexpr,  # p
    TO_CLIP: tl.constexpr,  # write rows into the clip (backward) instead of reading the clip into rows
    PARTS: tl.constexpr,
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,
):
    COUNT: tl.constexpr = FRAMES * HEIGHT * WIDTH
    row = tl.program_id(0)  # int32: see _tiling
    sample = row // rows_per_sample
    token = tl.load(index + row).to(tl.int32)
    corner = token_corner(token, sample, grid_h, grid_w, stride_b, stride_t, stride_h, stride_w, FRAMES, HEIGHT, WIDTH)
    column = row_columns(PARTS, LANES, VECTOR)
    inside = column < COUNT * CHANNELS
    channel, line, x = column // COUNT, column // WIDTH, column % WIDTH
    in_clip = clip + corner + pixel_offset(channel, line, x, stride_c, stride_t, stride_h, stride_w, FRAMES, HEIGHT)
    in_row = rows + row.to(tl.int64) * (COUNT * CHANNELS) + column
    factor = of_channel(channel, CHANNELS, more_channels, scale0, scale1, scale2, scale3, 0)
    if TO_CLIP:
        value = tl.load(in_row, mask=inside, other=0.0).to(tl.float32) * factor
        tl.store(in_clip, value.to(clip.dtype.element_ty), mask=inside)
    else:
        term = of_channel(channel, CHANNELS, more_channels, shift0, shift1, shift2, shift3, CHANNELS)
        value = tl.load(in_clip, mask=inside, other=0).to(tl.float32) * factor + term
        tl.store(in_row, value.to(rows.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows_per_sample"])
def _patch_kernel(
    clip,  # (B, C, T, H, W), any strides
    index,  # (B, K)
    pred,  # (B, K, P), row strides given, columns contiguous; unused for targets
    grad,  # (B, K) gradient of the row losses; gradient only
    out,  # contiguous: targets (B, K, P), row losses (B, K) or gradient of pred (B, K, P)
    more_channels,  # see `channel_arguments`
    scale0,
    scale1,
    scale2,
    scale3,
    shift0,
    shift1,
    shift2,
    shift3,
    rows_per_sample,  # K
    stride_b,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    pred_stride_b,
    grid_h,
    grid_w,
    PRED_STRIDE_K: tl.constexpr,  # nearly always P, whose factor 8 (Triton looks for 16 alone) lets accesses be wide
    MODE: tl.constexpr,  # "targets", "loss" or "gradient"
    NORMALIZE: tl.constexpr,
    PLANAR: tl.constexpr,  # else the C values of a pixel, and the pixels of a line, are neighbours in the clip
    CHANNELS: tl.constexpr,
    FRAMES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,
):
    COUNT: tl.constexpr = FRAMES * HEIGHT * WIDTH
    row = tl.program_id(0)  # int32: see _tiling
    sample = row // rows_per_sample
    token = tl.load(index + row).to(tl.int32)
    corner = token_corner(token, sample, grid_h, grid_w, stride_b, stride_t, stride_h, stride_w, FRAMES, HEIGHT, WIDTH)
    column = row_columns(PARTS, LANES, VECTOR)
    inside = column < COUNT * CHANNELS
    step, lane_offset = channel_steps(PARTS, LANES, VECTOR, CHANNELS)
    channel = channel_of(step, lane_offset, CHANNELS)
    if PLANAR:
        line, x = column // CHANNELS // WIDTH, column // CHANNELS % WIDTH
        inner = pixel_offset(channel, line, x, stride_c, stride_t, stride_h, stride_w, FRAMES, HEIGHT)
    else:  # the channels of a line's pixels are one run of memory
        line, x = column // (WIDTH * CHANNELS), column % (WIDTH * CHANNELS)
        inner = pixel_offset(line * 0, line, x, 0, stride_t, stride_h, 1, FRAMES, HEIGHT)
    pixels = tl.load(clip + corner + inner, mask=inside, other=0).to(tl.float32)
    factor = of_channel(channel, CHANNELS, more_channels, scale0, scale1, scale2, scale3, 0)
    term = of_channel(channel, CHANNELS, more_channels, shift0, shift1, shift2, shift3, CHANNELS)
    target = tl.where(inside, pixels * factor + term, 0.0)
    if NORMALIZE:
        target = normalized(target, inside, step, lane_offset, COUNT, CHANNELS)
    use_row(
        target,
        inside,
        column,
        row,
        rows_per_sample,
        pred,
        pred_stride_b,
        PRED_STRIDE_K,
        grad,
        out,
        MODE,
        COUNT * CHANNELS,
    )


def launch(
    mode: str,
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
    pred: Tensor,
    grad: Tensor,
    out: Tensor,
) -> None:
    """See `triton.launch`."""
    (tensor,) = clip
    reject_float64(clip=tensor, pred=pred, dtype=out)
    if mode == "gather":
        _launch_gather(mode, tensor, index, out, patch, scale, shift)
        return
    channels = shape[1]
    planar = not (tensor.stride(1) == 1 and tensor.stride(4) == channels)
    _patch_kernel[(index.numel(),)](
        tensor,
        index,
        pred,
        grad,
        out,
        *channel_arguments(scale, shift, out),
        index.shape[1],
        *tensor.stride(),
        pred.stride(0),
        shape[3] // patch[1],
        shape[4] // patch[2],
        PRED_STRIDE_K=pred.stride(1),
        MODE=mode,
        NORMALIZE=normalize,
        PLANAR=planar,
        CHANNELS=channels,
        FRAMES=patch[0],
        HEIGHT=patch[1],
        WIDTH=patch[2],
        **token_tile(TILES_OF_MODE[mode][planar], channels * patch[0] * patch[1] * patch[2], pred),
    )


def launch_gather_backward(
    grad: Tensor, index: Tensor, patch: Sequence[int], scale: Sequence[float], out: Tensor
) -> None:
    """Fill `out`, the gradient of a clip: zero, except at the listed tokens."""
    reject_float64(grad=grad, clip=out)
    _launch_gather("gather_backward", out.zero_(), index, grad, patch, scale, [0.0] * len(scale))


def _launch_gather(
    mode: str,
    clip: Tensor,
    index: Tensor,
    rows: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
) -> None:
    _, channels, _, height, width = clip.shape
    _tube_mask_gather_kernel[(index.numel(),)](
        clip,
        index,
        rows,
        *channel_arguments(scale, shift, rows),
        index.shape[1],
        *clip.stride(),
        height // patch[1],
        width // patch[2],
        CHANNELS=channels,
        FRAMES=patch[0],
        HEIGHT=patch[1],
        WIDTH=patch[2],
        TO_CLIP=mode == "gather_backward",
        **token_tile(TILES_OF_MODE[mode][clip.stride(4) != 1], rows.shape[2], rows),
    )
