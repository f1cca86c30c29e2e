"""Kernel and launchers of ops.tube_mask_gather: one kernel reads kept pixels, or writes them back.

One program handles one token, all its channels and frames, in the order of its row.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._pixels import channel_table, of_channel, pixel_offset, row_columns, token_corner
from ._tiling import reject_float64, token_tile


@triton.jit(do_not_specialize=["rows_per_sample"])
def _tube_mask_gather_kernel(
    clip,  # (B, C, T, H, W), any strides
    index,  # (B, K)
    rows,  # (B, K, C·τ·p·p) contiguous
    scale,  # (C,) float32
    shift,  # (C,) float32
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
    factor = of_channel(scale, channel, CHANNELS)
    if TO_CLIP:
        value = tl.load(in_row, mask=inside, other=0.0).to(tl.float32) * factor
        tl.store(in_clip, value.to(clip.dtype.element_ty), mask=inside)
    else:
        value = tl.load(in_clip, mask=inside, other=0).to(tl.float32) * factor + of_channel(shift, channel, CHANNELS)
        tl.store(in_row, value.to(rows.dtype.element_ty), mask=inside)


def _launch(
    clip: Tensor,
    index: Tensor,
    rows: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    to_clip: bool,
) -> None:
    _, channels, _, height, width = clip.shape
    kernel = "gather_backward" if to_clip else "gather"
    _tube_mask_gather_kernel[(index.numel(),)](
        clip,
        index,
        rows,
        channel_table(tuple(scale), clip.device),
        channel_table(tuple(shift), clip.device),
        index.shape[1],
        *clip.stride(),
        height // patch[1],
        width // patch[2],
        CHANNELS=channels,
        FRAMES=patch[0],
        HEIGHT=patch[1],
        WIDTH=patch[2],
        TO_CLIP=to_clip,
        **token_tile(kernel if clip.stride(4) == 1 else f"{kernel}_reordered", rows.shape[2], rows),
    )


def tube_mask_gather(
    clip: Tensor,
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: torch.dtype,
    out: Tensor,
) -> None:
    """Launch for `ops.tube_mask_gather`."""
    reject_float64(clip=clip, dtype=out)
    _launch(clip, index, out, patch, scale, shift, to_clip=False)


def tube_mask_gather_backward(
    grad: Tensor,
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shape: Sequence[int],
    dtype: torch.dtype,
    out: Tensor,
) -> None:
    """Launch for the gradient of the clip: zero, except at the listed tokens."""
    reject_float64(grad=grad, clip=out)
    _launch(out.zero_(), index, grad, patch, scale, [0.0] * shape[1], to_clip=True)
