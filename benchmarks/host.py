"""Host time of an op's call: `python -m benchmarks.host` prints a table of CPU time on inputs that take none.

Each op is called as this package registers it (`torch.library.Library`) and as `torch.library.custom_op` would register
the same implementation, in turns. Figures are the least of many samples of the process's CPU time, in microseconds.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from videomae_kernels.tokens import decoder_input, rows

CALLS = 50  # in a sample
NAMESPACE = "videomae_benchmarks"


def registered_as_custom_op(op: Any, backward: Callable[..., Any], setup_context: Callable[..., None]) -> Any:
    """The implementation of `op`, registered by `torch.library.custom_op` and its `register_autograd`."""
    name = op.name.split("::")[1]
    schema = str(op.overload._schema).split(name, 1)[1]
    usual = torch.library.custom_op(f"{NAMESPACE}::{name}", op._run, mutates_args=(), schema=schema)
    usual.register_fake(op._allocate)
    usual.register_autograd(backward, setup_context=setup_context)
    return usual


def cases() -> Iterator[tuple[str, Any, Any, tuple[Any, ...]]]:
    """(name, our op, custom op, arguments) of the token ops."""
    index, tokens, row = torch.tensor([[1, 3], [0, 2]]), torch.randn(2, 2, 8), torch.randn(8)
    gather = registered_as_custom_op(rows.gather_op, rows._gather_backward, rows._gather_setup_context)
    yield "gather_tokens", rows.gather_op, gather, (torch.randn(2, 4, 8), index)
    scatter = registered_as_custom_op(rows.scatter_op, rows._scatter_backward, rows._scatter_setup_context)
    yield "masked_token_scatter", rows.scatter_op, scatter, (tokens, index, 4, row)
    assemble = registered_as_custom_op(decoder_input._op, decoder_input._backward, decoder_input._setup_context)
    yield "assemble_decoder_tokens", decoder_input._op, assemble, (tokens, row, torch.randn(4, 8), index, index)


def race(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least microseconds of CPU time of each call, all called in turns."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(CALLS):
                call()
            least[name] = min(least[name], (time.process_time() - start) / CALLS * 1e6)
    return least


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="samples of each (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print("| op | gradient | implementation | as registered | custom_op |\n| --- | --- | --- | --- | --- |")
    for name, ours, usual, arguments in cases():
        for grad in (False, True):
            given = [x if isinstance(x, int) else x.requires_grad_(grad and x.is_floating_point()) for x in arguments]
            inputs = [x if isinstance(x, int) else x.detach() for x in given]
            calls = {
                "implementation": lambda run=ours._run, inputs=inputs: run(*inputs),
                "ours": lambda op=ours, given=given: op(*given),
                "usual": lambda op=usual, given=given: op(*given),
            }
            times = " | ".join(f"{us:.1f}" for us in race(calls, args.rounds).values())
            print(f"| {name} | {'yes' if grad else 'no'} | {times} |", flush=True)


if __name__ == "__main__":
    main()
