"""Kernel and launcher of ops.assemble_decoder_tokens."""

import triton
import triton.language as tl
from torch import Tensor

from ._tiling import reject_float64, row_tile


@triton.jit(do_not_specialize=["num_rows"])
def _assemble_decoder_tokens_kernel(
    tokens,  # (B, V, d), any strides
    mask_token,  # (d,)
    position,  # (N, d), any strides
    visible,  # (B, V)
    decode,  # (B, M)
    out,  # (B, V + M, d) contiguous
    num_rows,  # B · (V + M)
    tok_stride_b,
    tok_stride_v,
    tok_stride_d,
    mask_stride,
    pos_stride_n,
    pos_stride_d,
    V: tl.constexpr,
    M: tl.constexpr,
    WIDTH: tl.constexpr,  # d
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # int32: see _tiling
    col = tl.program_id(1).to(tl.int64) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    in_rows, in_cols = row < num_rows, col < WIDTH
    inside = in_rows[:, None] & in_cols[None, :]
    sample, place = (row // (V + M)).to(tl.int64), row % (V + M)
    is_latent = place < V
    at_visible = tl.load(visible + sample * V + place, mask=in_rows & is_latent, other=0).to(tl.int64)
    at_decode = tl.load(decode + sample * M + (place - V), mask=in_rows & (place >= V), other=0).to(tl.int64)
    token = tl.where(is_latent, at_visible, at_decode)
    where = position + token[:, None] * pos_stride_n + col[None, :] * pos_stride_d
    pos = tl.load(where, mask=inside, other=0.0).to(tl.float32)
    latent = tokens + (sample * tok_stride_b + place * tok_stride_v)[:, None] + col[None, :] * tok_stride_d
    value = tl.load(latent, mask=inside & is_latent[:, None], other=0.0).to(tl.float32)
    masked = tl.load(mask_token + col * mask_stride, mask=in_cols, other=0.0).to(tl.float32)
    value = tl.where(is_latent[:, None], value, masked[None, :]) + pos
    tl.store(out + row[:, None].to(tl.int64) * WIDTH + col[None, :], value.to(out.dtype.element_ty), mask=inside)


def assemble_decoder_tokens(
    tokens: Tensor, mask_token: Tensor, position: Tensor, visible: Tensor, decode: Tensor, out: Tensor
) -> None:
    """Launch for `ops.assemble_decoder_tokens`."""
    reject_float64(tokens=tokens, mask_token=mask_token, position=position)
    batch, rows_per_sample, width = out.shape
    tile = row_tile("assemble_decoder_tokens", width)
    grid = (triton.cdiv(batch * rows_per_sample, tile["BLOCK_ROWS"]), triton.cdiv(width, tile["BLOCK_COLS"]))
    _assemble_decoder_tokens_kernel[grid](
        tokens,
        mask_token,
        position,
        visible,
        decode,
        out,
        batch * rows_per_sample,
        *tokens.stride(),
        mask_token.stride(0),
        *position.stride(),
        V=visible.shape[1],
        M=decode.shape[1],
        WIDTH=width,
        **tile,
    )
