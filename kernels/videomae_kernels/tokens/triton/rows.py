"""Kernels and launchers of the ops that move rows of tokens. Gathering and scattering rows are one kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import cdiv, reject_float64, row_tile


@triton.jit(do_not_specialize=["num_rows", "out_rows"])
def _copy_rows_kernel(
    src,  # (B, src_rows, D), any strides
    row_map,  # (B, out_rows) row of src for each row of out, or -1
    fill,  # (D,) for rows that map to -1
    out,  # (B, out_rows, D) contiguous
    num_rows,  # B · out_rows
    out_rows,
    src_stride_b,
    src_stride_n,
    src_stride_d,
    fill_stride,
    WIDTH: tl.constexpr,  # D
    HAS_HOLES: tl.constexpr,  # whether row_map holds -1
    HAS_FILL: tl.constexpr,  # whether holes take fill, else zero
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # int32: see _tiling
    col = tl.program_id(1) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    in_rows, in_cols = row < num_rows, col < WIDTH
    inside = in_rows[:, None] & in_cols[None, :]
    source = tl.load(row_map + row, mask=in_rows, other=0).to(tl.int64)
    offset = (row // out_rows).to(tl.int64) * src_stride_b + source * src_stride_n
    address = src + offset[:, None] + col[None, :].to(tl.int64) * src_stride_d
    if HAS_HOLES:
        present = (source >= 0)[:, None]
        value = tl.load(address, mask=inside & present, other=0.0)
        if HAS_FILL:
            filling = tl.load(fill + col.to(tl.int64) * fill_stride, mask=in_cols, other=0.0)
            value = tl.where(present, value, filling[None, :])
    else:
        value = tl.load(address, mask=inside, other=0.0)
    tl.store(out + row[:, None].to(tl.int64) * WIDTH + col[None, :], value, mask=inside)


def _copy_rows(src: Tensor, row_map: Tensor, fill: Tensor | None, out: Tensor, holes: bool) -> None:
    batch, out_rows, width = out.shape
    tile = row_tile("copy_rows", width)
    grid = (cdiv(batch * out_rows, tile["BLOCK_ROWS"]), cdiv(width, tile["BLOCK_COLS"]))
    _copy_rows_kernel[grid](
        src,
        row_map,
        fill if fill is not None else src,
        out,
        batch * out_rows,
        out_rows,
        *src.stride(),
        fill.stride(0) if fill is not None else 0,
        WIDTH=width,
        HAS_HOLES=holes,
        HAS_FILL=fill is not None,
        **tile,
    )


def gather_tokens(x: Tensor, index: Tensor, out: Tensor) -> None:
    """Launch for `gather_tokens`."""
    _copy_rows(x, index.contiguous(), None, out, holes=False)


def masked_token_scatter(
    tokens: Tensor, index: Tensor, num_tokens: int, mask_token: Tensor | None, out: Tensor
) -> None:
    """Launch for `masked_token_scatter`: a gather by the inverse index, so each row is written once."""
    batch, count = index.shape
    inverse = torch.full((batch, num_tokens), -1, dtype=torch.int32, device=index.device)
    rank = torch.arange(count, dtype=torch.int32, device=index.device).expand(batch, -1)
    inverse.scatter_(1, index.long(), rank)
    _copy_rows(tokens, inverse, mask_token, out, holes=True)


@triton.jit(do_not_specialize=["num_rows"])
def _assemble_decoder_tokens_kernel(
    tokens,  # (B, V, d), any strides
    mask_token,  # (d,)
    position,  # (N, d), any strides
    visible,  # (B, V)
    decoded,  # (B, M)
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
    at_decoded = tl.load(decoded + sample * M + (place - V), mask=in_rows & (place >= V), other=0).to(tl.int64)
    token = tl.where(is_latent, at_visible, at_decoded)
    where = position + token[:, None] * pos_stride_n + col[None, :] * pos_stride_d
    pos = tl.load(where, mask=inside, other=0.0).to(tl.float32)
    latent = tokens + (sample * tok_stride_b + place * tok_stride_v)[:, None] + col[None, :] * tok_stride_d
    value = tl.load(latent, mask=inside & is_latent[:, None], other=0.0).to(tl.float32)
    masked = tl.load(mask_token + col * mask_stride, mask=in_cols, other=0.0).to(tl.float32)
    value = tl.where(is_latent[:, None], value, masked[None, :]) + pos
    tl.store(out + row[:, None].to(tl.int64) * WIDTH + col[None, :], value.to(out.dtype.element_ty), mask=inside)


def assemble_decoder_tokens(
    tokens: Tensor, mask_token: Tensor, position: Tensor, visible: Tensor, decoded: Tensor, out: Tensor
) -> None:
    """Launch for `assemble_decoder_tokens`."""
    reject_float64(tokens=tokens, mask_token=mask_token, position=position)
    batch, rows_per_sample, width = out.shape
    tile = row_tile("assemble_decoder_tokens", width)
    grid = (cdiv(batch * rows_per_sample, tile["BLOCK_ROWS"]), cdiv(width, tile["BLOCK_COLS"]))
    _assemble_decoder_tokens_kernel[grid](
        tokens,
        mask_token,
        position,
        visible.contiguous(),
        decoded.contiguous(),
        out,
        batch * rows_per_sample,
        *tokens.stride(),
        mask_token.stride(0),
        *position.stride(),
        V=visible.shape[1],
        M=decoded.shape[1],
        WIDTH=width,
        **tile,
    )
