"""The loss of a language model's next token: rows and vocabulary in chunks, never a matrix of rows × vocabulary.

It is plain PyTorch, and its matrix products are in float32 (float64 if an input is). Rows and weights in half precision
are widened first, which is exact but keeps these products off a GPU's half-precision tensor cores. With
`torch.set_float32_matmul_precision("high")` they run on the TF32 ones: bfloat16 and float16 fit there exactly, slopes
of logits and float32 inputs are rounded. Other libraries, which multiply in half precision, are there by name.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._optional import EXTRAS, require
from .values import can_be_read

TILE = (1024, 4096)  # rows and tokens of the vocabulary whose logits there are at a time: 16 MiB in float32
IGNORE = -100


def language_model_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    adapter: tuple[Tensor, Tensor] | None = None,
    ignore_index: int | None = IGNORE,
    implementation: str = "torch",
) -> Tensor:
    """The mean cross-entropy of the tokens that rows predict.

        logits = hidden · weightᵀ + bias (+ adapter[0] · adapter[1]ᵀ)
        loss = mean over rows r with a target of −log softmax(logits[r])[targets[r]]

    Rows without a target are taken out first, and nothing of them is computed. Logits of a tile of `TILE` are made,
    reduced and dropped, and made again in backward, in float32: memory grows with the rows and with the vocabulary, not
    with their product. On a GPU matrix products follow `torch.backends.cuda.matmul`. Gradients are exact, and none is
    computed for what needs none, such as a frozen weight.

    Args:
        hidden: (…, D) floating, the rows that the head of the language model reads.
        weight: (V, D) floating, of the head; its dtype may differ.
        targets: (…) int64. `targets[r]` is the token that row r predicts, so the caller has shifted them.
        bias: (V,) floating, of the head, or None.
        adapter: what LoRA adds to the head: x·Aᵀ times its scale, (…, R), and B, (V, R); None: nothing.
        ignore_index: target of a row without one. Finding these rows is a host sync on a GPU. None: every row has a
            target, and there is no sync.
        implementation: "torch"; or by name another library's, on CUDA devices: "liger" (Liger Kernel), which has no
            adapter, or "cut-cross-entropy" (apple/ml-cross-entropy, its small gradients kept), which has neither
            adapter nor bias. Their precision is their own.

    Returns:
        Scalar float32 (float64 if an input is), whatever autocast says.

    Raises:
        ValueError: a shape or, on a CPU, a target is not allowed; no row has a target; no implementation has this name,
            or it cannot do what is asked.
        TypeError: a dtype is not allowed.
        ImportError: the package of the implementation is missing; the message names the extra.

    References:
        Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models, arXiv 2411.09009, for the tiles;
        Hu et al., LoRA, ICLR 2022, for the adapter.
    """
    _check(hidden, weight, targets, bias, adapter)
    rows, wanted = hidden.flatten(0, -2), targets.flatten()
    low, high = (None, None) if adapter is None else (adapter[0].flatten(0, -2), adapter[1])
    if ignore_index is not None:
        kept = (wanted != ignore_index).nonzero()[:, 0]
        if len(kept) < len(wanted):
            rows, wanted = rows.index_select(0, kept), wanted.index_select(0, kept)
            low = low if low is None else low.index_select(0, kept)
    if not len(wanted):
        raise ValueError(f"targets have no token to predict: all {targets.numel()} are ignore_index {ignore_index}")
    _check_range(wanted, weight)
    if implementation != "torch":
        return _foreign(implementation, rows, weight, wanted, bias, low)
    terms: Tensor = _CrossEntropy.apply(rows, weight, wanted, bias, low, high)
    return terms.mean()


def next_token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    adapter: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The log-probability of the token that each row predicts, in the tiles of `language_model_loss`.

        log p[r] = log softmax(logits[r])[targets[r]],    with logits as there

    Args:
        hidden: (…, D) floating, the rows that the head of the language model reads.
        weight: (V, D) floating, of the head.
        targets: (…) int64, at least one.
        bias: (V,) floating, of the head, or None.
        adapter: as in `language_model_loss`.

    Returns:
        (…) float32 (float64 if an input is), with exact gradients.

    Raises:
        ValueError: a shape or, on a CPU, a target is not allowed, or there is none.
        TypeError: a dtype is not allowed.
    """
    _check(hidden, weight, targets, bias, adapter)
    if not targets.numel():
        raise ValueError("targets have no token to predict: there are no rows")
    rows, wanted = hidden.flatten(0, -2), targets.flatten()
    _check_range(wanted, weight)
    low, high = (None, None) if adapter is None else (adapter[0].flatten(0, -2), adapter[1])
    terms: Tensor = _CrossEntropy.apply(rows, weight, wanted, bias, low, high)
    return -terms.view(targets.shape)


class _CrossEntropy(torch.autograd.Function):
    """−log softmax(logits)[target] of each row, (R,)."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        low: Tensor | None,
        high: Tensor | None,
    ) -> Tensor:
        dtype = _arithmetic(rows, weight, bias, low, high)
        normaliser = rows.new_full((len(rows),), -torch.inf, dtype=dtype)
        chosen = rows.new_zeros(len(rows), dtype=dtype)
        with torch.autocast(rows.device.type, enabled=False):
            for j, i, logits in _tiles(rows, weight, bias, low, high, dtype):
                normaliser[i] = torch.logaddexp(normaliser[i], logits.logsumexp(1))
                place, inside = _places(targets[i], j)
                chosen[i] += torch.where(inside, logits.gather(1, place), 0)[:, 0]
        ctx.save_for_backward(rows, weight, targets, bias, low, high, normaliser)
        return normaliser - chosen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, targets, bias, low, high, normaliser = ctx.saved_tensors
        needs_rows, needs_weight, _, needs_bias, needs_low, needs_high = ctx.needs_input_grad
        dtype = grad.dtype
        of_rows = rows.new_zeros(rows.shape, dtype=dtype) if needs_rows else None
        of_low = low.new_zeros(low.shape, dtype=dtype) if needs_low else None
        of_weight = torch.empty_like(weight) if needs_weight else None
        of_bias = torch.empty_like(bias) if needs_bias else None
        of_high = torch.empty_like(high) if needs_high else None
        with torch.autocast(rows.device.type, enabled=False):
            for j in _chunks(len(weight), TILE[1]):
                part = weight[j].to(dtype)
                # Sums over rows are in float32 until all rows of the chunk of the vocabulary are in them.
                sums = [None if of is None else of[j].to(dtype).zero_() for of in (of_weight, of_bias, of_high)]
                for i in _chunks(len(rows), TILE[0]):
                    slope = _logits(rows[i], part, bias, low, high, i, j, dtype).sub_(normaliser[i, None]).exp_()
                    place, inside = _places(targets[i], j)
                    slope.scatter_(1, place, slope.gather(1, place) - inside.to(dtype)).mul_(grad[i, None])
                    if of_rows is not None:
                        of_rows[i].addmm_(slope, part)
                    if of_low is not None:
                        of_low[i].addmm_(slope, high[j].to(dtype))
                    if sums[0] is not None:
                        sums[0].addmm_(slope.T, rows[i].to(dtype))
                    if sums[1] is not None:
                        sums[1].add_(slope.sum(0))
                    if sums[2] is not None:
                        sums[2].addmm_(slope.T, low[i].to(dtype))
                for of, total in zip((of_weight, of_bias, of_high), sums, strict=True):
                    if of is not None and total is not None:
                        of[j] = total
        of_rows = None if of_rows is None else of_rows.to(rows.dtype)
        return of_rows, of_weight, None, of_bias, None if of_low is None else of_low.to(low.dtype), of_high


def _tiles(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    low: Tensor | None,
    high: Tensor | None,
    dtype: torch.dtype,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tokens of the vocabulary, rows, and their logits; the weight is cast once for each chunk of the vocabulary."""
    for j in _chunks(len(weight), TILE[1]):
        part = weight[j].to(dtype)
        for i in _chunks(len(rows), TILE[0]):
            yield j, i, _logits(rows[i], part, bias, low, high, i, j, dtype)


def _logits(
    rows: Tensor,
    part: Tensor,
    bias: Tensor | None,
    low: Tensor | None,
    high: Tensor | None,
    i: slice,
    j: slice,
    dtype: torch.dtype,
) -> Tensor:
    logits = rows.to(dtype) @ part.T
    if low is not None and high is not None:
        logits.addmm_(low[i].to(dtype), high[j].to(dtype).T)
    return logits if bias is None else logits.add_(bias[j])


def _places(targets: Tensor, j: slice) -> tuple[Tensor, Tensor]:
    """Columns (n, 1) of the targets in a chunk of the vocabulary, and whether they are in it."""
    place = targets[:, None] - j.start
    return place.clamp(0, j.stop - j.start - 1), (place >= 0) & (place < j.stop - j.start)


def _chunks(length: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, length)) for first in range(0, length, size))


def _arithmetic(*tensors: Tensor | None) -> torch.dtype:
    wide = any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def _liger(rows: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
    functional = require("liger_kernel.transformers.functional")
    loss: Tensor = functional.liger_fused_linear_cross_entropy(rows, weight, targets, bias, reduction="mean")
    return loss


def _cut(rows: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
    function = require("cut_cross_entropy").linear_cross_entropy
    loss: Tensor = function(rows, weight, targets, reduction="mean", impl="cce", filter_eps=None)
    return loss


# The package of each other library, whether its function has a bias, and the call.
_FOREIGN: dict[str, tuple[str, bool, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]]] = {
    "liger": ("liger_kernel", True, _liger),
    "cut-cross-entropy": ("cut_cross_entropy", False, _cut),
}
IMPLEMENTATIONS = ("torch", *_FOREIGN)


def check_implementation(name: str) -> str:
    """Make sure that an implementation of the loss exists and that its package is installed.

    Args:
        name: one of IMPLEMENTATIONS.

    Returns:
        `name`.

    Raises:
        ValueError: IMPLEMENTATIONS has no such name.
        ImportError: the package is missing or cannot be imported; the message names the extra.
    """
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {IMPLEMENTATIONS}, got '{name}'")
    if name in _FOREIGN:
        require(_FOREIGN[name][0])
    return name


def _foreign(
    name: str, rows: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, low: Tensor | None
) -> Tensor:
    check_implementation(name)
    package, has_bias, call = _FOREIGN[name]
    if low is not None:
        raise ValueError(f"implementation='{name}' has no adapter on the head: use 'torch', or adapt other layers")
    if bias is not None and not has_bias:
        raise ValueError(f"implementation='{name}' has no bias, and the head has one: use 'torch'")
    if rows.device.type != "cuda":
        raise ValueError(
            f"implementation='{name}' (extra '{EXTRAS[package]}') runs on CUDA devices only, got tensors on "
            f"{rows.device}"
        )
    return call(rows, weight, targets, bias)


def _check_range(targets: Tensor, weight: Tensor) -> None:
    if can_be_read(targets):
        first, last = int(targets.min()), int(targets.max())
        if first < 0 or last >= len(weight):
            raise ValueError(f"targets must be from 0 to {len(weight) - 1}, got {first} to {last}")


def _check(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, adapter: tuple[Tensor, Tensor] | None
) -> None:
    low, high = adapter if adapter is not None else (None, None)
    named = {"hidden": hidden, "weight": weight, "bias": bias, "adapter[0]": low, "adapter[1]": high}
    for name, tensor in named.items():
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating, got {tensor.dtype}")
    if targets.dtype != torch.int64:
        raise TypeError(f"targets must be int64, got {targets.dtype}")
    if hidden.ndim < 2 or weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden and weight must be (…, D) and (V, D), got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(f"targets must be {tuple(hidden.shape[:-1])}, as hidden has rows, got {tuple(targets.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},), as weight has rows, got {tuple(bias.shape)}")
    if low is None or high is None:
        return
    if low.shape[:-1] != targets.shape or high.shape[:1] != weight.shape[:1] or low.shape[-1:] != high.shape[1:]:
        raise ValueError(
            f"adapter must be ({', '.join(map(str, targets.shape))}, R) and ({weight.shape[0]}, R), got "
            f"{tuple(low.shape)} and {tuple(high.shape)}"
        )
