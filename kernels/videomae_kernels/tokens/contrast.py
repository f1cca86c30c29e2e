"""contrastive_loss: CLIP's and SigLIP's loss of all pairs of rows, tile by tile, without keeping their products."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import FLOATING, INT64, check_choice, check_tensor
from .._custom_op import arithmetic_dtype, define_op
from .._values import checks_values
from ..ranks import check_agreement, check_group, gather_rows
from . import pairs

KINDS = ("clip", "siglip")


def _reference(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    ids: Tensor | None,
    weight: Tensor | None,
    first: int,
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Row i of x belongs to row first + i of y. Of pairs are `ids` (1 or 2, m) and `weight` (m,), 1 / `counts`."""
    terms, columns, rows = _allocate(x, y, scale, bias, ids, weight, first, sigmoid)
    terms.zero_()
    columns.fill_(-torch.inf)
    rows.fill_(-torch.inf)
    for i, j in pairs.tiles(x, y):
        logits = pairs.logits(pairs.products(x, y, i, j, terms.dtype), scale, bias)
        positive = pairs.positive(ids, i, j, first, logits)
        if sigmoid:
            terms[i] -= F.logsigmoid(torch.where(positive, logits, -logits)).sum(1)
        else:
            terms[i] -= torch.where(positive, logits * pairs.share(weight, i, j, first), 0).sum(1)
            rows[i] = torch.logaddexp(rows[i], logits.logsumexp(1))
            columns[j] = torch.logaddexp(columns[j], logits.logsumexp(0))
    if not sigmoid:
        terms += rows / 2
    return terms, columns, rows


def _allocate(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    ids: Tensor | None,
    weight: Tensor | None,
    first: int,
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What each row of x adds to the loss (n,), and of softmaxes the log-sum-exp of columns (m,) and of rows (n,).

    Half the log-sum-exp of a row is in the row's term already; what is not in it is half that of the columns.
    """
    dtype = arithmetic_dtype(x, y)
    sizes = (x.shape[0], 0, 0) if sigmoid else (x.shape[0], y.shape[0], x.shape[0])
    terms, columns, rows = (x.new_empty(size, dtype=dtype) for size in sizes)
    return terms, columns, rows


def _launch(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    ids: Tensor | None,
    weight: Tensor | None,
    first: int,
    sigmoid: bool,
    *outputs: Tensor,
) -> None:
    from .triton.contrast import contrastive_loss

    contrastive_loss(x, y, scale, bias, ids, weight, first, sigmoid, *outputs)


def _backward_reference(
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
    wants_x: bool,
    wants_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    of_x, of_y = (z.new_zeros(z.shape if wants else 0, dtype=grad.dtype) for z, wants in ((x, wants_x), (y, wants_y)))
    sums = grad.new_zeros(2)
    for i, j in pairs.tiles(x, y):
        products = pairs.products(x, y, i, j, grad.dtype)
        logits = pairs.logits(products, scale, bias)
        positive = pairs.positive(ids, i, j, first, logits)
        if sigmoid:
            sign = torch.where(positive, -1.0, 1.0).to(grad.dtype)
            slope = torch.sigmoid(logits * sign).mul_(sign).mul_(grad[i, None])
        else:
            slope = (logits - rows[i, None]).exp_().div_(2).sub_(positive * pairs.share(weight, i, j, first))
            slope.mul_(grad[i, None]).addcmul_((logits - columns[j]).exp_(), grad_columns[j])
        sums += torch.stack(((slope * products).sum(), slope.sum()))
        slope *= scale
        if wants_x:
            of_x[i].addmm_(slope, y[j].to(grad.dtype))
        if wants_y:
            of_y[j].addmm_(slope.T, x[i].to(grad.dtype))
    return of_x.to(x.dtype), of_y.to(y.dtype), sums


def _backward_allocate(
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
    wants_x: bool,
    wants_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and y, each empty if it is not wanted, and those of scale and bias (2,)."""
    return x.new_empty(x.shape if wants_x else 0), y.new_empty(y.shape if wants_y else 0), grad.new_empty(2)


def _backward_launch(
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
    wants_x: bool,
    wants_y: bool,
    *outputs: Tensor,
) -> None:
    from .triton.contrast import contrastive_loss_backward

    contrastive_loss_backward(
        grad, grad_columns, x, y, scale, bias, ids, weight, columns, rows, first, sigmoid, *outputs
    )


_op = define_op("contrastive_loss", _reference, _allocate, _launch, workspace=pairs.workspace)
_backward_op = define_op(
    "contrastive_loss_backward",
    _backward_reference,
    _backward_allocate,
    _backward_launch,
    workspace=pairs.backward_workspace,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, columns, rows = output
    ctx.first, ctx.sigmoid = inputs[6:]
    ctx.set_materialize_grads(False)  # of the log-sum-exp of rows, which has none
    ctx.mark_non_differentiable(rows)
    ctx.save_for_backward(*inputs[:6], columns, rows)


def _backward(ctx: Any, grad: Tensor | None, grad_columns: Tensor | None, of_rows: None) -> tuple[Tensor | None, ...]:
    if grad is None and grad_columns is None:
        return (None,) * 8
    x, y, scale, bias, ids, weight, columns, rows = ctx.saved_tensors
    grad = columns.new_zeros(x.shape[0]) if grad is None else grad.contiguous()
    grad_columns = torch.zeros_like(columns) if grad_columns is None else grad_columns.contiguous()
    needed = ctx.needs_input_grad
    of_x, of_y, sums = _backward_op(
        grad, grad_columns, x, y, scale, bias, ids, weight, columns, rows, ctx.first, ctx.sigmoid, *needed[:2]
    )
    of_scale = sums[0].to(scale.dtype) if needed[2] else None
    of_bias = sums[1].to(bias.dtype) if needed[3] else None
    return of_x if needed[0] else None, of_y if needed[1] else None, of_scale, of_bias, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)


def contrastive_loss(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    kind: str = "clip",
    *,
    x_ids: Tensor | None = None,
    y_ids: Tensor | None = None,
    group: Any = None,
) -> Tensor:
    """CLIP's or SigLIP's loss of n pairs, where row i of x belongs to row i of y.

        S = scale · x yᵀ + bias,    P[i, j] = [i = j or x_ids[i] = x_ids[j] or y_ids[i] = y_ids[j]]
        clip:    loss = −½ mean over i of Σⱼ T[i, j] · (log softmax(S)[i, j] + log softmax(Sᵀ)[i, j]),
                 T[i, j] = P[i, j] / Σₖ P[i, k]
        siglip:  loss = −mean over i of Σⱼ log σ(±S[i, j]),    + where P[i, j], else −

    Rows are used as they come: normalise them before. Products of tiles are made, reduced for both directions and
    dropped, and made again in backward: memory grows as n·D, forward and backward, not as n². Maxima are subtracted
    before exponentials, so that large scales do not overflow. Products are matrix products of PyTorch in float32, which
    on a GPU follow `torch.backends.cuda.matmul`; TF32 rounds no float16 or bfloat16 row. Backward keeps x, y, ids, and
    for clip two float32 numbers of each pair, with ids three. Differentiable in x, y, scale and bias; of a side without
    a gradient none is computed. Where ids make all pairs positives of each other, nothing pushes rows apart: the loss
    makes all products alike (clip, at least log n) or large (siglip).

    Args:
        x: (n, D) floating, normalised features of one side, of any strides.
        y: (n, D) floating, of the other side; its dtype may differ.
        scale: () floating, what logits are multiplied by (one over a temperature).
        bias: () floating, what is added to them, or None; of siglip only, since clip's softmax cancels it.
        kind: "clip" or "siglip".
        x_ids: (n,) int64, what of x is the same (a video in several pairs): pairs with equal ids are positives of each
            other. None: no two are the same.
        y_ids: the same of y (a caption in several pairs).
        group: a process group whose every rank passes its own n rows: the loss, the same on each rank, is that of all
            W · n pairs. Gradients are W times those of the rank's rows and, for scale and bias, W times the part of the
            rank's rows, so that the average over ranks that DDP takes is the gradient of one process. Features of y of
            all ranks are gathered: W · n · D float32. None: this process alone. All ranks must pass the same n, which
            is checked on a CPU and, since it is a host sync on a GPU, there inside `check_indices()`.

    Returns:
        Scalar float32; float64 on a CPU if x or y is. Autocast has no say in it.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed, or there is but one pair.
        TypeError: a dtype or type of an argument is not allowed.

    References:
        CLIP (arXiv 2103.00020), figure 3; SigLIP (arXiv 2303.15343), equation 1; several positives: InternVideo2's
        second stage, multi_modality/models/criterions.py (OpenGVLab/InternVideo); tiles: Inf-CL (arXiv 2410.17243).
    """
    check_tensor(x, "x", FLOATING, ("n", "D"))
    check_tensor(y, "y", FLOATING, tuple(x.shape), x)
    check_tensor(scale, "scale", FLOATING, (), x)
    sigmoid = check_choice(kind, "kind", KINDS) == "siglip"
    if bias is not None:
        check_tensor(bias, "bias", FLOATING, (), x)
        if not sigmoid:
            raise ValueError("bias must be None for kind 'clip', whose softmax cancels it")
    given = [(each, name) for each, name in ((x_ids, "x_ids"), (y_ids, "y_ids")) if each is not None]
    for each, name in given:
        check_tensor(each, name, INT64, (x.shape[0],), x)
    if x.shape[1] == 0:
        raise ValueError(f"x must have at least one feature, got shape {tuple(x.shape)}")
    ids = torch.stack([each for each, _ in given]) if given else None
    rank = 0
    if group is not None:
        check_group(group, "group")
        rank = group.rank()
        if checks_values(x.device):
            names = "rows and features of x, kind, and which of x_ids and y_ids are given,"
            check_agreement((*x.shape, sigmoid, x_ids is not None, y_ids is not None), names, x.device, group)
        y = gather_rows(y.to(arithmetic_dtype(x, y)), group)  # widened, so that gradients are summed in float32
        ids = None if ids is None else gather_rows(ids.T, group).T.contiguous()
    if y.shape[0] < 2:
        raise ValueError(f"x must have two rows or more, since one pair has no negative: got {y.shape[0]}")
    weight = None if ids is None or sigmoid else pairs.counts(ids).to(arithmetic_dtype(x, y)).reciprocal_()
    terms, columns, _ = _op(x, y, scale, bias, ids, weight, rank * x.shape[0], sigmoid)
    if group is not None:
        of_ranks = gather_rows(torch.cat((terms, columns))[None], group)
        terms, columns = of_ranks[:, : x.shape[0]], of_ranks[:, x.shape[0] :].logsumexp(0)
    return terms.mean() if sigmoid else terms.mean() + columns.mean() / 2
