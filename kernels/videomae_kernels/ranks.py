"""Rows of all processes of a group, with the gradient that each of them is due."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._checks import describe


class _Gather(torch.autograd.Function):
    """all_gather along the first dimension; backward sums what every process says about a process's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group, ctx.rows = group, x.shape[0]
        out = x.new_empty((group.size(), *x.shape))
        torch.distributed.all_gather(list(out), x.contiguous(), group=group)
        return out.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=ctx.group)
        return total[ctx.group.rank() * ctx.rows :][: ctx.rows], None


def gather_rows(x: Tensor, group: Any) -> Tensor:
    """(W · n, …): x (n, …) of all W processes of the group, in the order of their ranks.

    The gradient of x is the sum over processes of their gradients of its rows. All processes call it with one shape.
    """
    return _Gather.apply(x, group)


def check_group(group: Any, name: str) -> None:
    """A process group that this process is a member of."""
    if not torch.distributed.is_available() or not isinstance(group, torch.distributed.ProcessGroup):
        raise TypeError(f"{name} must be a torch.distributed process group of this process, got {describe(group)}")


def check_agreement(numbers: Sequence[int], what: str, device: torch.device, group: Any) -> None:
    """All processes of the group must come with the same `numbers`, which `what` names; else all of them raise."""
    own = torch.tensor([numbers], dtype=torch.int64, device=device)
    found = [tuple(row) for row in gather_rows(own, group).tolist()]
    if len(set(found)) > 1:
        raise ValueError(f"{what} must be the same on every rank, got {', '.join(map(str, found))} on ranks 0, 1, …")
