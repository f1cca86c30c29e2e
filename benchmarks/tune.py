"""Try other tiles for every kernel on a GPU: `python -m benchmarks.tune --size base --size giant`.

For each entry of the tables in videomae_kernels/_tiling.py it prints the present entry and the fastest one found, and
`--output` keeps them as JSON, with the proposed entries as lines of the tables. It changes no file: an entry is worth
committing when it wins at ViT-B and at ViT-g. Caches are cold, times are medians, and results are checked before
anything is timed, as in the ops suite. The present entry is timed first and last: a gain within that spread is noise.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.measure import clock, device_name, machine
from benchmarks.harness.results import Results, load_newest
from benchmarks.harness.run import ROOT
from benchmarks.harness.targets import shortfalls
from benchmarks.ops.align import ALIGN_OPS
from benchmarks.ops.contrast import CONTRAST_OPS
from benchmarks.ops.layers import LAYER_OPS
from benchmarks.ops.masks import MASK_OPS
from benchmarks.ops.pixels import PIXEL_OPS
from benchmarks.ops.tokens import TOKEN_OPS
from benchmarks.ops.workload import CROPS, OURS, Op, OpCase, build
from benchmarks.settings import SIZES
from videomae_kernels import runs_triton

CHOICES = {
    "elements": (512, 1024, 2048, 4096, 8192, 16384),
    "access_bytes": (1, 4, 8, 16),
    "num_warps": (1, 2, 4, 8, 16),
    "rows": (1, 2, 4, 8),
    "columns": (4, 8, 16, 32),
}


def tables() -> tuple[dict[str, Any], ...]:
    """The tables that launchers read."""
    from videomae_kernels import _tiling

    return _tiling.TILES, _tiling.TOKEN_TILES, _tiling.THREAD_TILES


def candidates(kernel: str, entry: Any, dimension: str) -> list[Any]:
    """All entries that differ from `entry` in one dimension only."""
    return [replace(entry, **{dimension: value}) for value in CHOICES[dimension] if value != getattr(entry, dimension)]


def find_cases(
    size: str, batch_size: int, device: torch.device, wanted: Sequence[str] = ()
) -> dict[str, tuple[Op, OpCase]]:
    """For each kernel that the ops suite launches, or each of `wanted`, the first case that launches it."""
    found: dict[str, tuple[Op, OpCase]] = {}
    for op in (*TOKEN_OPS, *LAYER_OPS, *ALIGN_OPS, *CONTRAST_OPS, *PIXEL_OPS, *MASK_OPS):
        for direction in op.directions:
            for clip in (clip for clip in op.clips if clip not in CROPS):  # crops read no entry: `crop_tile` is a rule
                if wanted and found.keys() >= set(wanted):
                    return {kernel: found[kernel] for kernel in wanted}
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


def tune(kernel: str, op: Op, case: OpCase, rounds: int, out_of_time: Callable[[], bool]) -> list[tuple[float, Any]]:
    """(median ms, entry) of every entry that works, in the order tried; the table is left as it was.

    The present entry comes first and last. Between them, one dimension at a time, from the best entry so far.
    """
    table = next(table for table in tables() if kernel in table)
    present = table[kernel]
    found: list[tuple[float, Any]] = []

    def measure(entry: Any) -> None:
        table[kernel] = entry
        try:
            found.append((_median_ms(op, case, rounds), entry))
        except Exception as error:
            if entry == present:
                raise
            print(f"  {entry}: {type(error).__name__}, {str(error).splitlines()[0] if str(error) else ''}")

    try:
        measure(present)
        for dimension in present.__dataclass_fields__:
            for entry in candidates(kernel, _fastest(found), dimension):
                if not out_of_time():
                    measure(entry)
        measure(present)
    finally:
        table[kernel] = present
    return found


def _fastest(found: list[tuple[float, Any]]) -> Any:
    return min(found, key=lambda sample: sample[0])[1]


def summary(size: str, kernel: str, found: list[tuple[float, Any]]) -> dict[str, Any]:
    """What `tune` found, as a record: the best entry, and whether its gain is more than the spread."""
    (first, present), *_, (last, _) = found
    best_ms, best = min(found, key=lambda sample: sample[0])
    return {
        "size": size,
        "kernel": kernel,
        "present": repr(present),
        "present_ms": [first, last],
        "best": repr(best),
        "best_ms": best_ms,
        "tried": len(found) - 1,
        "wins": best_ms < min(first, last) - abs(first - last),
    }


def proposed(records: list[dict[str, Any]]) -> list[str]:
    """The entries that win at every size they were tuned at, as lines of the tables in _tiling.py."""
    lines = []
    for kernel in dict.fromkeys(record["kernel"] for record in records):
        rows = [record for record in records if record["kernel"] == kernel]
        if all(row["wins"] for row in rows) and len({row["best"] for row in rows}) == 1:
            gains = ", ".join(f"ViT-{r['size']} {min(r['present_ms']):.4f} -> {r['best_ms']:.4f} ms" for r in rows)
            lines.append(f'    "{kernel}": {rows[0]["best"]},  # {gains}')
    return lines


def in_order(cases: dict[str, tuple[Op, OpCase]], results: Results | None) -> list[str]:
    """The kernels of the cases, those first whose ops are furthest from their number in `results`."""
    missed = [shortfall.name for shortfall in shortfalls(results)] if results else []
    last = len(missed)
    return sorted(cases, key=lambda k: missed.index(cases[k][1].op) if cases[k][1].op in missed else last)


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


def _newest(folder: Path | None, device: torch.device) -> Results | None:
    found = load_newest(folder) if folder else []
    return next((results for results in found if results["device"] == device_name(device)), None)


def main(argv: list[str] | None = None) -> None:
    """Tune the kernels at the sizes asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("--size", action="append", choices=tuple(SIZES), help="may be repeated (default: base, giant)")
    parser.add_argument("--batch-size", type=int, default=128, help="clips (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="samples of each entry (default: %(default)s)")
    parser.add_argument("--kernel", action="append", help="may be repeated (default: all)")
    parser.add_argument(
        "--worst-of", type=Path, metavar="FOLDER", help="begin with the ops that miss their number in these results"
    )
    parser.add_argument("--time-limit", type=float, default=math.inf, metavar="SECONDS", help="try nothing after it")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep what was found as JSON")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not runs_triton(device):
        parser.error("tiles are tuned on a GPU, and torch sees none")
    end, records = time.monotonic() + args.time_limit, []
    sizes = args.size or ("base", "giant")
    cases = {size: find_cases(size, args.batch_size, device, args.kernel or ()) for size in sizes}
    order = in_order(cases[sizes[0]], _newest(args.worst_of, device))
    asked = args.kernel or [kernel for table in tables() for kernel in table]
    for kernel in (kernel for kernel in asked if kernel not in order):
        print(f"ViT-{sizes[0]} {kernel}: no benchmark launches it")
    for kernel, size in ((kernel, size) for kernel in order if kernel in asked for size in sizes):
        if time.monotonic() > end or kernel not in cases[size]:
            continue
        found = tune(kernel, *cases[size][kernel], args.rounds, lambda: time.monotonic() > end)
        records.append(summary(size, kernel, found))
        before, after = min(records[-1]["present_ms"]), records[-1]["best_ms"]
        print(
            f"ViT-{size} {kernel}: {before:.4f} ms with {records[-1]['present']}; "
            f"best {after:.4f} ms with {records[-1]['best']}",
            flush=True,
        )
        if args.output:
            about = machine(ROOT, device)
            args.output.write_text(
                json.dumps({**about, "records": records, "proposed": proposed(records)}, indent=1) + "\n",
                encoding="utf-8",
            )
    print("\n".join(["Proposed entries:", *proposed(records)]))


if __name__ == "__main__":
    main()
