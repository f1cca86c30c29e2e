"""Groups of 1, 2 and 4 of four processes against one process that has all pairs.

Every process of a group passes its part of the pairs. The loss, and the gradients that DDP would make of the ranks',
have to be those of all pairs; ranks with different batches have to raise, all of them.
"""

import os
import sys
import tempfile
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from tests.kernels.tokens.test_contrast import IDS, KINDS, make_inputs, widened
from videomae_kernels import contrastive_loss
from videomae_kernels.tokens import pairs

RANKS, LOCAL, WIDTH = 4, 5, 7
CASES = [(size, kind, ids) for size in (1, 2, 4) for kind in KINDS for ids in IDS]


def gradients(inputs: dict, group: dist.ProcessGroup | None) -> list[Tensor]:
    """The loss, then the gradients of x, y, scale and bias, of linear towers with one weight each."""
    towers = [torch.linspace(0.5, 2, WIDTH, dtype=torch.float64).diag().requires_grad_() for _ in range(2)]
    numbers = {k: inputs[k].detach().requires_grad_() for k in ("scale", "bias") if k in inputs}
    features = {k: inputs[k] @ tower.to(inputs[k].dtype) for k, tower in zip(("x", "y"), towers, strict=True)}
    loss = contrastive_loss(**(inputs | features | numbers), group=group)
    return [loss.detach(), *torch.autograd.grad(3 * loss, [*towers, *numbers.values()])]


def check(rank: int, groups: dict[int, dist.ProcessGroup]) -> None:
    for size, kind, ids in CASES:
        torch.manual_seed(size)
        for dtypes in ((torch.float64,) * 2, (torch.float32, torch.bfloat16)):
            inputs = make_inputs(kind, size * LOCAL, WIDTH, dtypes=dtypes, ids=ids)
            inputs = widened(inputs, torch.float64) if dtypes[0] == torch.float64 else inputs
            wanted = gradients(inputs, None)
            own = slice(rank % size * LOCAL, (rank % size + 1) * LOCAL)
            part = {k: v[own] if isinstance(v, Tensor) and v.ndim else v for k, v in inputs.items()}
            loss, *found = gradients(part, groups[size])
            for gradient in found:  # as DDP averages
                dist.all_reduce(gradient, group=groups[size])
                gradient /= size
            close = {"rtol": 1e-12, "atol": 1e-13} if dtypes[0] == torch.float64 else {"rtol": 2e-2, "atol": 2e-2}
            for ours, theirs in zip([loss, *found], wanted, strict=True):
                torch.testing.assert_close(ours, theirs, **close)
        print(f"agree: {size} {kind} {'+'.join(ids)}")
    check_refusals(rank, groups[RANKS])
    check_one_row_each(rank, groups[RANKS])


def check_refusals(rank: int, group: dist.ProcessGroup) -> None:
    unequal = [
        (make_inputs("clip", 3 + (rank == 2)), "(4, 12, 0, 0, 0)"),
        (make_inputs("clip", 3, 4 if rank else 5), "(3, 5, 0, 0, 0)"),
        (make_inputs("siglip" if rank == 3 else "clip", 3), "(3, 12, 1, 0, 0)"),
        (make_inputs("clip", 3, ids=("y_ids",) if rank else ()), "(3, 12, 0, 0, 1)"),
    ]
    for inputs, words in unequal:
        try:
            contrastive_loss(**inputs, group=group)
        except ValueError as error:
            assert "must be the same on every rank" in str(error) and words in str(error), error
        else:
            raise AssertionError(f"no error on rank {rank}")
    print("refused: unequal ranks")


def check_one_row_each(rank: int, group: dist.ProcessGroup) -> None:
    """A rank needs no negatives of its own."""
    torch.manual_seed(0)
    inputs = make_inputs("clip", RANKS)
    part = {k: v[rank : rank + 1] if isinstance(v, Tensor) and v.ndim else v for k, v in inputs.items()}
    torch.testing.assert_close(contrastive_loss(**part, group=group), contrastive_loss(**inputs))
    print("agree: one row each")


def run(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=timedelta(seconds=30)
    )
    pairs.TILE = (3, 4)
    groups: dict[int, dist.ProcessGroup] = {}
    for size in (1, 2, 4):
        for first in range(0, RANKS, size):
            members = [*range(first, first + size)]
            group = dist.new_group(members)  # which every process has to make
            if rank in members:
                groups[size] = group
    check(rank, groups)
    dist.destroy_process_group()


def main() -> int:
    """Forks, so that torch is imported once; nothing has run yet that a fork would break."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(RANKS):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    run(rank, folder)
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    os._exit(status)
            children.append(child)
        return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    sys.exit(main())
