"""Kernels and launchers of contrastive_loss and of its gradient: what lies between matrix products, on tiles of them.

Rows of x meet all rows of y, as many at a time as make their products as large as y in float32. The products and
those of the gradient are PyTorch's. Sums over rows go on from one tile to the next in a fixed order.
"""

from collections.abc import Iterator, Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import cdiv, pair_tile, reject_float64
from .. import pairs


@triton.jit
def _logits(products, scale, bias, place, inside, HAS_BIAS: tl.constexpr):
    """A tile of products, and of logits; what lies outside is 0."""
    product = tl.load(products + place, mask=inside, other=0.0)
    logit = product * tl.load(scale).to(tl.float32)
    if HAS_BIAS:
        logit += tl.load(bias).to(tl.float32)
    return product, logit


@triton.jit
def _positive(ids, pair, col, in_rows, in_cols, num_columns, RELATIONS: tl.constexpr):
    """Which of the pairs of a tile are positives: of rows that are those of columns `pair`."""
    positive = pair[:, None] == col[None, :]
    for relation in tl.static_range(RELATIONS):
        own = ids + tl.cast(num_columns, tl.int64) * relation
        of_rows = tl.load(own + pair, mask=in_rows, other=0)
        of_columns = tl.load(own + col, mask=in_cols, other=0)
        positive |= of_rows[:, None] == of_columns[None, :]
    return positive


@triton.jit
def _share(weight, pair, col, in_rows, in_cols, RELATIONS: tl.constexpr):
    """What each positive of a tile counts: see `share` of pairs.py."""
    if RELATIONS:
        of_rows = tl.load(weight + pair, mask=in_rows, other=0.0)
        of_columns = tl.load(weight + col, mask=in_cols, other=0.0)
        share = 0.5 * (of_rows[:, None] + of_columns[None, :])
    else:
        share = 1.0
    return share


@triton.jit
def _softplus(x):
    """log(1 + exp(x)), of small exponentials too: log(1 + e) = 2 artanh(e / (2 + e)), whose series ends below 2⁻²⁵."""
    small = tl.exp(-tl.abs(x))
    t = small / (2.0 + small)
    square = t * t
    series = 1.0 / 13.0
    series = series * square + 1.0 / 11.0
    series = series * square + 1.0 / 9.0
    series = series * square + 1.0 / 7.0
    series = series * square + 1.0 / 5.0
    series = series * square + 1.0 / 3.0
    return tl.maximum(x, 0.0) + 2.0 * t * (series * square + 1.0)


@triton.jit
def _log_sum_exp(logit, AXIS: tl.constexpr):
    """Over rows or columns of a tile, of which those outside are −∞."""
    most = tl.max(logit, axis=AXIS)
    most = tl.where(most == float("-inf"), 0.0, most)
    total = tl.sum(tl.exp(logit - tl.expand_dims(most, AXIS)), axis=AXIS)
    return tl.log(tl.where(total == 0.0, 1.0, total)) + most  # 0 outside only, where nobody looks


@triton.jit(do_not_specialize=["num_rows", "first"])
def _contrastive_loss_kernel(
    products,  # (R, M) float32: rows of x with rows of y
    scale,  # ()
    bias,  # ()
    ids,  # (RELATIONS, M)
    weight,  # (M,)
    sums,  # (2, blocks of columns, R): of the row's block, log-sum-exp and what positives or sigmoids add
    of_columns,  # (blocks of rows, M): log-sum-exp of the column's block
    num_rows,  # R
    num_columns,  # M
    first,  # column of the pair of row 0
    HAS_BIAS: tl.constexpr,
    RELATIONS: tl.constexpr,
    SIGMOID: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # int32: see _tiling
    col = tl.program_id(1) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    in_rows, in_cols = row < num_rows, col < num_columns
    inside = in_rows[:, None] & in_cols[None, :]
    place = row[:, None].to(tl.int64) * num_columns + col[None, :]
    _, logit = _logits(products, scale, bias, place, inside, HAS_BIAS)
    positive = _positive(ids, first + row, col, in_rows, in_cols, num_columns, RELATIONS)
    of_row = sums + tl.program_id(1).to(tl.int64) * num_rows + row
    other = tl.num_programs(1).to(tl.int64) * num_rows
    if SIGMOID:
        loss = _softplus(tl.where(positive, -logit, logit))
        tl.store(of_row + other, tl.sum(tl.where(inside, loss, 0.0), axis=1), mask=in_rows)
    else:
        share = _share(weight, first + row, col, in_rows, in_cols, RELATIONS)
        gain = tl.where(positive & inside, logit * share, 0.0)
        tl.store(of_row + other, -tl.sum(gain, axis=1), mask=in_rows)
        logit = tl.where(inside, logit, float("-inf"))
        tl.store(of_row, _log_sum_exp(logit, 1), mask=in_rows)
        of_column = of_columns + tl.program_id(0).to(tl.int64) * num_columns + col
        tl.store(of_column, _log_sum_exp(logit, 0), mask=in_cols)


def contrastive_loss(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    ids: Tensor | None,
    weight: Tensor | None,
    first: int,
    sigmoid: bool,
    terms: Tensor,
    columns: Tensor,
    rows: Tensor,
) -> None:
    """Launch for `contrastive_loss`."""
    reject_float64(x=x, y=y, scale=scale)
    tile = pair_tile("contrastive_loss")
    columns.fill_(-torch.inf)
    for i, _, products in _products(x, y.to(torch.float32)):
        blocks = _blocks(products, tile)
        sums = products.new_empty((2, blocks[1], len(products)))
        of_columns = products.new_empty((blocks[0], len(columns)))
        _contrastive_loss_kernel[blocks](
            products,
            *_arguments(scale, bias, ids, weight),
            sums,
            of_columns,
            *products.shape,
            first + i.start,
            **_constants(bias, ids, sigmoid),
            **tile,
        )
        torch.sum(sums[1], 0, out=terms[i])
        if not sigmoid:
            torch.logsumexp(sums[0], 0, out=rows[i])
            torch.logaddexp(columns, of_columns.logsumexp(0), out=columns)
    if not sigmoid:
        terms.add_(rows, alpha=0.5)


@triton.jit(do_not_specialize=["num_rows", "first"])
def _contrastive_loss_backward_kernel(
    products,  # (R, M) float32, which become gradients with respect to themselves
    scale,  # ()
    bias,  # ()
    ids,  # (RELATIONS, M)
    weight,  # (M,)
    grad,  # (R,): of the rows' terms
    grad_columns,  # (M,): of the columns' log-sum-exp
    rows,  # (R,): log-sum-exp
    columns,  # (M,): log-sum-exp
    partials,  # (blocks of rows, blocks of columns, 2): sums of a block for scale and bias
    num_rows,  # R
    num_columns,  # M
    first,  # column of the pair of row 0
    HAS_BIAS: tl.constexpr,
    RELATIONS: tl.constexpr,
    SIGMOID: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.program_id(1) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    in_rows, in_cols = row < num_rows, col < num_columns
    inside = in_rows[:, None] & in_cols[None, :]
    place = row[:, None].to(tl.int64) * num_columns + col[None, :]
    product, logit = _logits(products, scale, bias, place, inside, HAS_BIAS)
    positive = _positive(ids, first + row, col, in_rows, in_cols, num_columns, RELATIONS)
    of_row = tl.load(grad + row, mask=in_rows, other=0.0)[:, None]
    if SIGMOID:
        turned = tl.where(positive, -logit, logit)
        small = tl.exp(-tl.abs(turned))
        slope = tl.where(turned < 0.0, small, 1.0) / (1.0 + small)
        slope = tl.where(positive, -slope, slope) * of_row
    else:
        of_column = tl.load(grad_columns + col, mask=in_cols, other=0.0)[None, :]
        row_sum = tl.load(rows + row, mask=in_rows, other=0.0)[:, None]
        column_sum = tl.load(columns + col, mask=in_cols, other=0.0)[None, :]
        share = _share(weight, first + row, col, in_rows, in_cols, RELATIONS)
        slope = (0.5 * tl.exp(logit - row_sum) - tl.where(positive, share, 0.0)) * of_row
        slope += tl.exp(logit - column_sum) * of_column
    slope = tl.where(inside, slope, 0.0)
    of_block = partials + 2 * (tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1))
    tl.store(of_block, tl.sum(slope * product))
    tl.store(of_block + 1, tl.sum(slope))
    tl.store(products + place, slope * tl.load(scale).to(tl.float32), mask=inside)


def contrastive_loss_backward(
    grad: Tensor,
    grad_columns: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    ids: Tensor | None,
    weight: Tensor | None,
    columns: Tensor,
    rows: Tensor,
    first: int,
    sigmoid: bool,
    of_x: Tensor,
    of_y: Tensor,
    sums: Tensor,
) -> None:
    """Launch for `contrastive_loss_backward`; an empty `of_x` or `of_y` is not wanted."""
    reject_float64(x=x, y=y, scale=scale)
    tile = pair_tile("contrastive_loss_backward")
    sums.zero_()
    wide = y.to(torch.float32)
    total = torch.zeros_like(of_y, dtype=torch.float32)
    for i, part, products in _products(x, wide):
        blocks = _blocks(products, tile)
        partials = products.new_empty((*blocks, 2))
        _contrastive_loss_backward_kernel[blocks](
            products,
            *_arguments(scale, bias, ids, weight),
            grad[i],
            grad_columns,
            rows[i],
            columns,
            partials,
            *products.shape,
            first + i.start,
            **_constants(bias, ids, sigmoid),
            **tile,
        )
        sums += partials.sum((0, 1))
        if of_x.numel():
            of_x[i] = torch.mm(products, wide, out=torch.empty_like(part))
        if of_y.numel():
            total.addmm_(products.T, part)
    of_y.copy_(total)


def _products(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some rows of x, the same in float32, and their products with all rows of y, which the next ones overwrite.

    Autocast has no say in what writes into a given tensor.
    """
    step = pairs.tile_rows(x)
    memory = y.new_empty((step, len(y)))
    for begin in range(0, len(x), step):
        i = slice(begin, min(begin + step, len(x)))
        part = x[i].to(torch.float32, memory_format=torch.contiguous_format)
        yield i, part, torch.mm(part, y.T, out=memory[: len(part)])


def _blocks(products: Tensor, tile: Mapping[str, int]) -> tuple[int, int]:
    """Programs along rows and along columns."""
    return cdiv(products.shape[0], tile["BLOCK_ROWS"]), cdiv(products.shape[1], tile["BLOCK_COLS"])


def _arguments(scale: Tensor, bias: Tensor | None, ids: Tensor | None, weight: Tensor | None) -> tuple[Tensor, ...]:
    """Pointers of a kernel; what there is not is not read."""
    return scale, *(scale if tensor is None else tensor for tensor in (bias, ids, weight))


def _constants(bias: Tensor | None, ids: Tensor | None, sigmoid: bool) -> dict[str, int | bool]:
    """What a kernel is compiled for."""
    return {"HAS_BIAS": bias is not None, "RELATIONS": 0 if ids is None else len(ids), "SIGMOID": sigmoid}
