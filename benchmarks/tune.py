"""Try other tiles for every kernel on a GPU: `python -m benchmarks.tune --size base --size giant`.

For each entry of the tables in videomae_kernels/_tiling.py it prints the present entry and the fastest one found. It
changes no file: an entry is worth committing when it wins at ViT-B and at ViT-g. Caches are cold, times are medians,
and results are checked before anything is timed, as in the ops suite.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.harness.measure import clock
from benchmarks.ops.masks import MASK_OPS
from benchmarks.ops.pixels import PIXEL_OPS
from benchmarks.ops.tokens import TOKEN_OPS
from benchmarks.ops.workload import CROPS, OURS, Op, OpCase, build
from benchmarks.settings import SIZES

CHOICES = {
    "elements": (512, 1024, 2048, 4096, 8192, 16384),
    "access_bytes": (1, 4, 8, 16),
    "num_warps": (1, 2, 4, 8, 16),
}


def tables() -> tuple[dict[str, Any], ...]:
    """The tables that launchers read."""
    from videomae_kernels import _tiling

    return _tiling.TILES, _tiling.TOKEN_TILES


def candidates(kernel: str, present: Any) -> Iterator[Any]:
    """The present entry first, then all others."""
    yield present
    first, second = (name for name in present.__dataclass_fields__)
    for a in CHOICES[first]:
        for b in CHOICES[second]:
            if (entry := replace(present, **{first: a, second: b})) != present:
                yield entry


def find_cases(size: str, batch_size: int, device: torch.device) -> dict[str, tuple[Op, OpCase]]:
    """For each kernel that the ops suite launches, the first case that launches it."""
    found: dict[str, tuple[Op, OpCase]] = {}
    for op in (*TOKEN_OPS, *PIXEL_OPS, *MASK_OPS):
        for direction in op.directions:
            for clip in (clip for clip in op.clips if clip not in CROPS[1:]):  # other crops read the same entries
                case = OpCase(op.name, direction, size, clip, "bf16" if op.floating else "", batch_size, device)
                for kernel in _kernels_of(op, case):
                    found.setdefault(kernel, (op, case))
    return found


def _kernels_of(op: Op, case: OpCase) -> list[str]:
    """The entries that a case reads: all entries are removed, and each is restored when the case fails without it."""
    ours = build(op, case).variants[OURS]  # which makes masks, with kernels of their own
    before = [dict(table) for table in tables()]
    read: list[str] = []
    try:
        for table in tables():
            table.clear()
        while True:
            try:
                ours.results(case)
                return read
            except KeyError as missing:
                read.append(missing.args[0])
                for table, entries in zip(tables(), before, strict=True):
                    table.update({kernel: tile for kernel, tile in entries.items() if kernel == read[-1]})
                if read[-1] not in {kernel for table in tables() for kernel in table}:
                    raise
    finally:
        for table, entries in zip(tables(), before, strict=True):
            table.clear()
            table.update(entries)


def tune(kernel: str, op: Op, case: OpCase, rounds: int) -> list[tuple[float, Any]]:
    """(median ms, entry) of every entry that works, the present one first; the table is left as it was."""
    table = next(table for table in tables() if kernel in table)
    present, found = table[kernel], []
    try:
        for entry in candidates(kernel, present):
            table[kernel] = entry
            try:
                found.append((_median_ms(op, case, rounds), entry))
            except Exception as error:
                if entry == present:
                    raise
                print(f"  {entry}: {type(error).__name__}, {str(error).splitlines()[0] if str(error) else ''}")
    finally:
        table[kernel] = present
    return found


def _median_ms(op: Op, case: OpCase, rounds: int) -> float:
    workload = build(op, case)
    workload.error(OURS, case)
    ready, seconds = workload.variants[OURS].setup(case), []
    for _ in range(rounds):
        call = ready()
        start = clock()
        call()
        seconds.append(clock() - start)
    return statistics.median(seconds) * 1e3


def main(argv: list[str] | None = None) -> None:
    """Tune every kernel at the sizes asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("--size", action="append", choices=tuple(SIZES), help="may be repeated (default: base, giant)")
    parser.add_argument("--batch-size", type=int, default=128, help="clips (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="samples of each entry (default: %(default)s)")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("tiles are tuned on a GPU, and torch sees none")
    for size in args.size or ("base", "giant"):
        cases = find_cases(size, args.batch_size, torch.device("cuda"))
        for kernel in (kernel for table in tables() for kernel in table):
            if kernel not in cases:
                print(f"ViT-{size} {kernel}: no benchmark launches it")
                continue
            (present_ms, present), *others = tune(kernel, *cases[kernel], args.rounds)
            best_ms, best = min([(present_ms, present), *others], key=lambda found: found[0])
            print(
                f"ViT-{size} {kernel}: {present_ms:.4f} ms with {present}; best {best_ms:.4f} ms with {best}",
                flush=True,
            )


if __name__ == "__main__":
    main()
