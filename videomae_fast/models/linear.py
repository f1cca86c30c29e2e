"""Linear maps: one function that calls the module of every matrix product, and what it can keep for backward.

Under autocast PyTorch casts every weight in a kernel of its own, and every gradient back. `autocast_copies` casts the
weights of a block in one kernel, and their gradients in another. A linear map whose input is cheap to make again
(`Source`) keeps what the input is made of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Copies = Mapping[nn.Module, tuple[Tensor, Tensor | None]]  # weight and bias by layer


@dataclass(frozen=True)
class Source:
    """How to make a tensor again, bitwise: `function(*tensors)`."""

    function: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]

    def of_rows(self, choose: Callable[[Tensor], Tensor]) -> "Source":
        """Of the rows that `choose` takes of a tensor (B, rows, …) whose rows depend on those of the first tensor."""
        return Source(self.function, (choose(self.tensors[0]), *self.tensors[1:]))


class Linear(nn.Linear):
    """An nn.Linear, with its parameters and names, that also takes the options of `linear`."""

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        out: slice | None = None,
        padding: int = 0,
        source: Source | None = None,
        add_bias: bool = True,
    ) -> Tensor:
        """The map of `linear`. `padding` > 0 appends zero outputs; < 0 ignores as many appended inputs.

        With a `source`, backward makes x again, and the copy of the weight too, unless it is padded.
        """
        kept = weight = self.weight if weight is None else weight
        if source is not None and not padding:
            kept = self.weight
        bias = None if not add_bias else self.bias if bias is None else bias
        if out is not None:
            kept, weight, bias = kept[out], weight[out], bias if bias is None else bias[out]
        if padding > 0:
            kept = weight = F.pad(weight, (0, 0, 0, padding))
            bias = bias if bias is None else F.pad(bias, (0, padding))
        elif padding < 0:
            kept = weight = F.pad(weight, (0, -padding))
        # A compiler decides by itself what backward makes again.
        if source is None or torch.compiler.is_compiling():
            return F.linear(x, weight, bias)
        tensors = (kept.detach(), *(tensor.detach() for tensor in source.tensors))
        return _LinearOfSource.apply(x, weight, bias, source.function, *tensors)


class _LinearOfSource(torch.autograd.Function):
    """F.linear(x, weight, bias) that keeps x = function(*tensors) as `tensors`, and the weight in its own precision."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        function: Callable[..., Tensor],
        kept_weight: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(kept_weight, *tensors)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *tensors = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[1]:
            of_weight = rows.t() @ ctx.function(*tensors).to(grad.dtype).flatten(0, -2)
        if ctx.needs_input_grad[0]:
            of_x = (rows @ weight.to(grad.dtype)).unflatten(0, grad.shape[:-1])
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias, None, None, *(None for _ in tensors)


def linear(
    x: Tensor,
    layer: nn.Module,
    *,
    bias: Tensor | None = None,
    copies: Copies | None = None,
    out: slice | None = None,
    padding: int = 0,
    source: Source | None = None,
    add_bias: bool = True,
) -> Tensor:
    """Compute a linear map by calling the module that owns its weight.

    Every matrix product of a model goes through here but that of the patch embedding, which is the op `embed_tokens`.

        out[…, o] = Σ_i weight[o, i] · x[…, i] + bias[o]

    The module is called and its weight is never read, so an FP8 or LoRA layer in its place, a parametrised weight, and
    forward and FSDP hooks all take effect. A layer of another class than `Linear` is called with `x` alone. This
    function then selects the outputs and adds the bias, which gives the same map up to rounding.

    Args:
        x: (…, in) floating.
        layer: maps (…, in) to (…, all outputs).
        bias: (all outputs,), for a layer whose bias is a parameter of another module.
        copies: weights and biases that `autocast_copies` made; a `Linear` among them computes with these.
        out: the outputs to compute; None computes all.
        padding: only for a `Linear`: > 0 appends this many zero outputs; < 0 says that x has this many zero inputs
            more than the weight.
        source: what x is made of. A `Linear` then keeps the source for backward, and not x. Results are bitwise the
            same.
        add_bias: only for a `Linear`: False leaves the bias to the caller.

    Returns:
        (…, outputs), in the autocast dtype, or in the dtype of x outside autocast.

    Raises:
        TypeError: padding is not 0, or add_bias is False, and the layer is of another class than `Linear`.
    """
    if isinstance(layer, Linear):
        weight, copied_bias = copies[layer] if copies is not None and layer in copies else (None, None)
        return layer(x, weight, bias if copied_bias is None else copied_bias, out, padding, source, add_bias)
    if padding or not add_bias:
        option = "padding" if padding else "add_bias=False"
        raise TypeError(f"{option} needs a {Linear.__module__}.Linear, got {type(layer).__name__}")
    y = layer(x)
    if bias is not None:
        y = y + bias.to(y.dtype)
    return y if out is None else y[..., out]


def autocast_copies(
    device_type: str, layers: Sequence[nn.Module], joined: tuple[nn.Module, Sequence[Tensor]] | None = None
) -> Copies:
    """Copy the weights and biases of layers into the autocast dtype, all in one kernel launch.

    Backward casts their gradients in one launch, too, when it has the last of them. So the layers should be those of
    one block: DDP then sends the gradients of one block during backward of the next. What autocast would not cast is
    not copied either: outside autocast, or where FSDP2's own mixed precision has cast the weights already, there are
    no copies.

    A layer is left to autocast where something may act on its weight at its call: a class other than `Linear`
    (FP8, LoRA, a parametrised weight) or a forward pre-hook (FSDP2 on the layer itself, weight norm, DeepSpeed).

    Args:
        device_type: of the weights, such as "cuda".
        layers: modules that compute linear maps.
        joined: one of the layers, and the parts of its bias, of equal length, which another module owns. Their copies
            lie one after the other.

    Returns:
        The copies, by layer.
    """
    # A compiler fuses the casts with what surrounds them.
    if torch.compiler.is_compiling() or not torch.is_autocast_enabled(device_type):
        return {}
    copied = [layer for layer in layers if owns_alone(layer) and layer.weight.dtype == torch.float32]
    if not copied:
        return {}
    biased = [layer for layer in copied if layer.bias is not None]
    parts = joined[1] if joined is not None and joined[0] in copied else ()
    tensors = *(layer.weight for layer in copied), *(layer.bias for layer in biased), *parts
    copies = _Cast.apply(torch.get_autocast_dtype(device_type), len(parts), *tensors)
    biases: dict[nn.Module, Tensor] = dict(zip(biased, copies[len(copied) :], strict=False))
    if joined is not None and parts:
        biases[joined[0]] = copies[-1]
    return {layer: (weight, biases.get(layer)) for layer, weight in zip(copied, copies, strict=False)}


def owns_alone(layer: nn.Module) -> TypeGuard[Linear]:
    """Whether the parameters of a layer may be read before it is called: nothing else acts on them at the call."""
    return type(layer) is Linear and not layer._forward_pre_hooks


class _Cast(torch.autograd.Function):
    """Copies of `tensors` in `dtype`; the last `joined` of them, of equal length, become one."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, joined: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.joined = joined
        ctx.set_materialize_grads(False)
        copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors[: len(tensors) - joined]]
        places = list(copies)
        if joined:
            copies.append(tensors[-1].new_empty(joined * len(tensors[-1]), dtype=dtype))
            places += copies[-1].chunk(joined)
        torch._foreach_copy_(places, list(tensors))
        needed = ctx.needs_input_grad[2:]
        if not all(needed):  # no gradients of frozen weights are computed
            last = [any(needed[len(copies) - 1 :])] if joined else []
            differentiable = [*needed[: len(tensors) - joined], *last]
            ctx.mark_non_differentiable(*(copy for copy, d in zip(copies, differentiable, strict=True) if not d))
        return tuple(copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.joined:
            *first, last = grads
            grads = *first, *([None] * ctx.joined if last is None else last.chunk(ctx.joined))
        needed = ctx.needs_input_grad[2:]
        came = [grad if need else None for grad, need in zip(grads, needed, strict=True)]
        cast = [None if grad is None else torch.empty_like(grad, dtype=torch.float32) for grad in came]
        sources = [grad for grad in came if grad is not None]
        if sources:
            torch._foreach_copy_([grad for grad in cast if grad is not None], sources)
        return None, None, *cast
