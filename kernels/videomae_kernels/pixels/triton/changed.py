"""Kernels and launcher of the scores of changed_token_index: one program compares two frames of one token's place."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import crop_tile, reject_float64, token_tile
from ..reference import is_cropped
from .crops import GEOMETRY_COLUMNS
from .resize import resized_token
from .tile import pixel_offset, row_columns, token_corner


@triton.jit
def _key(score):
    """A score of at least 0 as a negative int32, the smaller the higher the score; NaN is infinite."""
    if score.dtype == tl.float32:
        score = tl.where(score >= 0, score, float("inf")).to(tl.int32, bitcast=True)
    return -1 - score


@triton.jit(do_not_specialize=["compared", "keys_per_sample"])
def _clip_scores_kernel(
    clip,  # (B, C, T, H, W), any strides
    keys,  # (B, keys_per_sample) int32, of which those from token H'·W' on are written
    compared,  # N − H'·W'
    keys_per_sample,
    stride_b,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    grid_h,
    grid_w,
    PLANAR: tl.constexpr,  # else the C values of a pixel, and the pixels of a line, are neighbours in the clip
    CHANNELS: tl.constexpr,
    FRAMES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,
):
    row = tl.program_id(0)  # int32: see _tiling
    sample, before = row // compared, row % compared
    corner = token_corner(before, sample, grid_h, grid_w, stride_b, stride_t, stride_h, stride_w, FRAMES, HEIGHT, WIDTH)
    column = row_columns(PARTS, LANES, VECTOR)
    inside = column < CHANNELS * HEIGHT * WIDTH
    if PLANAR:
        line, x = column // WIDTH, column % WIDTH
        inner = pixel_offset(line // HEIGHT, line % HEIGHT, x, stride_c, stride_t, stride_h, stride_w, 1, HEIGHT)
    else:  # the channels of a line's pixels are one run of memory
        line, x = column // (WIDTH * CHANNELS), column % (WIDTH * CHANNELS)
        inner = pixel_offset(line * 0, line, x, 0, stride_t, stride_h, 1, 1, HEIGHT)
    first = tl.load(clip + corner + inner, mask=inside, other=0)
    apart = tl.cast(stride_t, tl.int64) * (2 * FRAMES - 1)
    last = tl.load(clip + corner + apart + inner, mask=inside, other=0)
    if clip.dtype.element_ty == tl.uint8:
        difference = tl.abs(last.to(tl.int32) - first.to(tl.int32))
    else:
        difference = tl.abs(last.to(tl.float32) - first.to(tl.float32))
    score = tl.sum(tl.sum(tl.sum(difference, axis=2), axis=1), axis=0)
    tl.store(keys + sample.to(tl.int64) * keys_per_sample + grid_h * grid_w + before, _key(score))


@triton.jit(do_not_specialize=["compared", "keys_per_sample"])
def _crop_scores_kernel(
    frames,  # flat uint8
    geometry,  # (B, 10) int64
    first,  # (B, H + W) int32
    weights,  # (B, TAPS, H + W) float32 or, for Pillow's integers, int32
    keys,  # (B, keys_per_sample) int32, of which those from token H'·W' on are written
    compared,  # N − H'·W'
    keys_per_sample,
    TAPS: tl.constexpr,
    PILLOW: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    FRAMES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNEL_TILE: tl.constexpr,
    GROUP_TILE: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
):
    GRID_W: tl.constexpr = OUT_WIDTH // WIDTH
    FRAME_TOKENS: tl.constexpr = OUT_HEIGHT // HEIGHT * GRID_W
    LINES: tl.constexpr = OUT_HEIGHT + OUT_WIDTH
    row = tl.program_id(0)  # int32: see _tiling
    clip, before = (row // compared).to(tl.int64), row % compared
    x = tl.arange(0, LANES)
    is_pixel = x < WIDTH
    of_clip = geometry + clip * GEOMETRY_COLUMNS
    height, width = tl.load(of_clip + 1), tl.load(of_clip + 2)
    frame_values = height * width * CHANNELS
    begin = frames + tl.load(of_clip) + (before // FRAME_TOKENS * FRAMES).to(tl.int64) * frame_values
    # One after the other, in a loop, so that the code of a resize is there once.
    difference = tl.zeros((CHANNEL_TILE, GROUP_TILE, GROUP, LANES), tl.float32)
    for frame in range(2):
        value = resized_token(
            begin + (x * 0).to(tl.int64) + frame * (2 * FRAMES - 1) * frame_values,
            height.to(tl.int32),
            width.to(tl.int32),
            tl.load(of_clip + 3).to(tl.int32),
            tl.load(of_clip + 4).to(tl.int32),
            first + clip * LINES,
            weights + clip * (TAPS * LINES),
            before % FRAME_TOKENS // GRID_W * HEIGHT,
            before % GRID_W * WIDTH + x,
            is_pixel,
            OUT_HEIGHT,
            OUT_WIDTH,
            HEIGHT,
            CHANNELS,
            TAPS,
            PILLOW,
            CHANNEL_TILE,
            GROUP_TILE,
            GROUP,
            LANES,
        )
        difference = value - difference
    channel = tl.arange(0, CHANNEL_TILE)[:, None, None, None]
    y = tl.arange(0, GROUP_TILE)[None, :, None, None] * GROUP + tl.arange(0, GROUP)[None, None, :, None]
    inside = (channel < CHANNELS) & (y < HEIGHT) & is_pixel[None, None, None, :]
    difference = tl.where(inside, tl.abs(difference), 0.0)
    if PILLOW:
        difference = difference.to(tl.int32)
    score = tl.sum(tl.sum(tl.sum(tl.sum(difference, axis=1), axis=1), axis=1), axis=0)
    tl.store(keys + clip * keys_per_sample + FRAME_TOKENS + before, _key(score))


def launch_scores(clip: Sequence[Tensor], shape: Sequence[int], patch: Sequence[int], keys: Tensor) -> None:
    """Write the keys (B, LENGTH) of all tokens but those of the first frames, which `smallest_index` takes."""
    grid_h, grid_w = shape[3] // patch[1], shape[4] // patch[2]
    compared = (shape[2] // patch[0] - 1) * grid_h * grid_w
    programs = (shape[0] * compared,)
    if is_cropped(clip):
        frames, geometry, first, weights = clip
        _crop_scores_kernel[programs](
            frames,
            geometry,
            first,
            weights,
            keys,
            compared,
            keys.shape[1],
            TAPS=weights.shape[1],
            PILLOW=weights.dtype == torch.int32,
            CHANNELS=shape[1],
            OUT_HEIGHT=shape[3],
            OUT_WIDTH=shape[4],
            FRAMES=patch[0],
            HEIGHT=patch[1],
            WIDTH=patch[2],
            **crop_tile(shape[1], 1, patch[1], patch[2], keys.device),
        )
        return
    (tensor,) = clip
    reject_float64(clip=tensor)
    _clip_scores_kernel[programs](
        tensor,
        keys,
        compared,
        keys.shape[1],
        *tensor.stride(),
        grid_h,
        grid_w,
        PLANAR=not (tensor.stride(1) == 1 and tensor.stride(4) == shape[1]),
        CHANNELS=shape[1],
        FRAMES=patch[0],
        HEIGHT=patch[1],
        WIDTH=patch[2],
        **token_tile("changed", shape[1] * patch[1] * patch[2], tensor),
    )
