"""Kernel and launchers of ops.tube_mask_gather: one kernel reads kept pixels, or writes them back."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._pixels import channel_table, token_corner
from ._tiling import reject_float64

ROWS_PER_PROGRAM = 8  # tokens; predicted, not measured


@triton.jit(do_not_specialize=["num_rows", "rows_per_sample"])
def _tube_mask_gather_kernel(
    clip,  # (B, C, T, H, W), any strides
    index,  # (B, K)
    rows,  # (B, K, C·τ·p·p) contiguous
    scale,  # (C,) float32
    shift,  # (C,) float32
    num_rows,  # B · K
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
    BLOCK_ROWS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # int32: see _tiling
    channel, frame = tl.program_id(1) // FRAMES, tl.program_id(1) % FRAMES
    in_rows = row < num_rows
    token = tl.load(index + row, mask=in_rows, other=0).to(tl.int32)
    corner = token_corner(
        token,
        row // rows_per_sample,
        grid_h,
        grid_w,
        stride_b,
        stride_t,
        stride_h,
        stride_w,
        FRAMES,
        HEIGHT,
        WIDTH,
    )
    corner += channel.to(tl.int64) * stride_c + frame.to(tl.int64) * stride_t
    pixel = tl.arange(0, BLOCK_PIXELS)
    inner = pixel // WIDTH * stride_h + pixel % WIDTH * stride_w  # int32: one frame never spans 2³¹ elements
    inside = in_rows[:, None] & (pixel < HEIGHT * WIDTH)[None, :]
    in_clip = clip + corner[:, None] + inner[None, :]
    plane = tl.program_id(1) * (HEIGHT * WIDTH) + pixel
    in_row = rows + row[:, None].to(tl.int64) * (CHANNELS * FRAMES * HEIGHT * WIDTH) + plane[None, :]
    factor = tl.load(scale + channel)
    if TO_CLIP:
        value = tl.load(in_row, mask=inside, other=0.0).to(tl.float32) * factor
        tl.store(in_clip, value.to(clip.dtype.element_ty), mask=inside)
    else:
        value = tl.load(in_clip, mask=inside, other=0).to(tl.float32) * factor + tl.load(shift + channel)
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
    grid = (triton.cdiv(index.numel(), ROWS_PER_PROGRAM), channels * patch[0])
    _tube_mask_gather_kernel[grid](
        clip,
        index,
        rows,
        channel_table(tuple(scale), clip.device),
        channel_table(tuple(shift), clip.device),
        index.numel(),
        index.shape[1],
        *clip.stride(),
        height // patch[1],
        width // patch[2],
        CHANNELS=channels,
        FRAMES=patch[0],
        HEIGHT=patch[1],
        WIDTH=patch[2],
        TO_CLIP=to_clip,
        BLOCK_ROWS=ROWS_PER_PROGRAM,
        BLOCK_PIXELS=triton.next_power_of_2(patch[1] * patch[2]),
        num_warps=4,
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
