"""What the processes of a run must agree on, and rows that they gather."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from videomae_kernels import ranks


def process_group() -> Any:
    """The group of all processes; None if this process is alone."""
    alone = not torch.distributed.is_available() or not torch.distributed.is_initialized()
    return None if alone or torch.distributed.get_world_size() == 1 else torch.distributed.group.WORLD


def check_equal(value: int, name: str, device: torch.device, group: Any) -> None:
    """Make sure that every process came with the same number; all of them raise if not.

    Args:
        value: of this process.
        name: of the option, for the message.
        device: that the group communicates by.
        group: as `process_group` returns it.

    Raises:
        ValueError: the numbers differ.
    """
    if group is None:
        return
    found = gather_rows(torch.tensor([value], device=device), group).tolist()
    if len(set(found)) > 1:
        raise ValueError(f"{name} must be the same in every process, got {', '.join(map(str, found))}")


def gather_uneven(rows: Sequence[Tensor] | None, device: torch.device, group: Any) -> list[Tensor]:
    """The rows of all processes, which may have different numbers of them.

    Args:
        rows: tensors (n, …) of this process; None if it has no row.
        device: that the group communicates by.
        group: as `process_group` returns it.

    Returns:
        The tensors of all processes, joined in the order of the ranks; of no process, empty ones.
    """
    if group is None:
        return [torch.empty(0, device=device)] * 4 if rows is None else list(rows)
    shapes: list[Any] = [None] * group.size()
    own = None if rows is None else [(tuple(row.shape[1:]), row.dtype, len(row)) for row in rows]
    torch.distributed.all_gather_object(shapes, own, group=group)
    known = next((shape for shape in shapes if shape is not None), None)
    if known is None:
        return [torch.empty(0, device=device)] * 4
    most = max(shape[0][2] for shape in shapes if shape is not None)
    joined = []
    for number, (width, dtype, _) in enumerate(known):
        padded = torch.zeros((most, *width), dtype=dtype, device=device)
        if rows is not None:
            padded[: len(rows[number])] = rows[number]
        found = gather_rows(padded, group).unflatten(0, (group.size(), most))
        joined.append(torch.cat([each[: shape[number][2]] for each, shape in zip(found, shapes, strict=True) if shape]))
    return joined


def gather_rows(x: Tensor, group: Any) -> Tensor:
    """(W · n, …): x (n, …) of all processes, in the order of their ranks, with the sum of their gradients.

    Args:
        x: of this process, of the shape that the others have.
        group: as `process_group` returns it.

    Returns:
        The rows; x itself for a process that is alone.
    """
    if group is None:
        return x
    if x.dtype == torch.bool:
        return gather_rows(x.byte(), group).bool()
    return ranks.gather_rows(x, group)
