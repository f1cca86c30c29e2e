"""Kernel and launcher of warp_clips: a thread finds the taps of one output pixel and uses them in every frame."""

import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import cdiv, pixel_tile
from .crops import GEOMETRY_COLUMNS

MATRIX = tl.constexpr(6)  # numbers


@triton.jit(do_not_specialize=["num_frames", "blocks", "fill"])
def _warp_kernel(
    frames,  # flat uint8
    geometry,  # (B, 10) int64
    matrix,  # (B, 2, 3) float32
    out,  # (B, C, T, H, W) float32
    num_frames,  # T
    blocks,  # of a clip
    fill,  # int
    CHANNELS: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    PIXELS: tl.constexpr,
):
    COUNT: tl.constexpr = OUT_HEIGHT * OUT_WIDTH
    program = tl.program_id(0)
    clip = (program // blocks).to(tl.int64)
    pixel = program % blocks * PIXELS + tl.arange(0, PIXELS)
    of_clip = geometry + clip * GEOMETRY_COLUMNS
    height, width = tl.load(of_clip + 1), tl.load(of_clip + 2)
    x, y = (pixel % OUT_WIDTH).to(tl.float32) + 0.5, (pixel // OUT_WIDTH).to(tl.float32) + 0.5
    of_matrix = matrix + clip * MATRIX
    across = tl.load(of_matrix) * x + (tl.load(of_matrix + 1) * y + tl.load(of_matrix + 2))
    down = tl.load(of_matrix + 3) * x + (tl.load(of_matrix + 4) * y + tl.load(of_matrix + 5))
    inside = (across >= 0) & (across < width.to(tl.float32)) & (down >= 0) & (down < height.to(tl.float32))
    # Outside, whatever the matrix, a point that exists, and weights of zero.
    left, left_weight, right, right_weight = _two_taps(tl.where(inside, across, 0.5), width)
    top, top_weight, bottom, bottom_weight = _two_taps(tl.where(inside, down, 0.5), height)
    top_weight, bottom_weight = tl.where(inside, top_weight, 0.0), tl.where(inside, bottom_weight, 0.0)
    background = tl.where(inside, 0.0, fill.to(tl.float32))
    # With int64 sides, since clips and their frames pass 2³¹ elements.
    at = frames + tl.load(of_clip)
    top_left, top_right = at + (top * width + left) * CHANNELS, at + (top * width + right) * CHANNELS
    bottom_left, bottom_right = at + (bottom * width + left) * CHANNELS, at + (bottom * width + right) * CHANNELS
    store = out + clip * CHANNELS * num_frames * COUNT + pixel
    for _ in range(num_frames):
        for c in tl.static_range(CHANNELS):
            value = background + tl.load(top_left + c).to(tl.float32) * (top_weight * left_weight)
            value += tl.load(top_right + c).to(tl.float32) * (top_weight * right_weight)
            value += tl.load(bottom_left + c).to(tl.float32) * (bottom_weight * left_weight)
            value += tl.load(bottom_right + c).to(tl.float32) * (bottom_weight * right_weight)
            tl.store(store + num_frames.to(tl.int64) * (c * COUNT), value, mask=pixel < COUNT)
        top_left += height * width * CHANNELS
        top_right += height * width * CHANNELS
        bottom_left += height * width * CHANNELS
        bottom_right += height * width * CHANNELS
        store += COUNT


@triton.jit
def _two_taps(position, side):
    """Source lines around a position in pixel-edge coordinates, int32, and their weights.

    A position beyond the outermost centres takes their lines alone, so that it is moved there.
    """
    position = tl.minimum(tl.maximum(position - 0.5, 0.0), (side - 1).to(tl.float32))
    first = position.to(tl.int32)
    weight = position - first.to(tl.float32)
    return first, 1.0 - weight, tl.minimum(first + 1, (side - 1).to(tl.int32)), weight


def launch_warp(frames: Tensor, geometry: Tensor, matrix: Tensor, fill: int, out: Tensor) -> None:
    """Fill `out`, a contiguous (B, C, T, H, W); the arguments are those of the op."""
    clips, channels, num_frames, height, width = out.shape
    tile = pixel_tile(out.device)
    blocks = cdiv(height * width, tile["PIXELS"])
    _warp_kernel[(clips * blocks,)](
        frames,
        geometry,
        matrix,
        out,
        num_frames,
        blocks,
        fill,
        CHANNELS=channels,
        OUT_HEIGHT=height,
        OUT_WIDTH=width,
        **tile,
    )
