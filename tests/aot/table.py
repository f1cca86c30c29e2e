"""The table of what every kernel uses (kernels.md): made here, compared in test_aot.py and .ci/versions/triton.py.

    python tests/aot/table.py        # compile everything for every target and rewrite kernels.md

The table names the Triton version it was made with. That version has to reproduce it line by line; any other has to
keep within its bounds, since compilers differ: no spills, at most REGISTER_MARGIN registers more, shared memory that
exists, and accesses that are as wide.
"""

import difflib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("kernels.md")
REWRITE = "python tests/aot/table.py"
# target: bytes of shared memory one program can have
SHARED_LIMITS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}
# The largest differences that Triton 3.2 to 3.9 show lie in kernels for planar clips, which Triton lays out anew.
REGISTER_MARGIN = 192
COLUMNS = "| case | kernel | launch | target | registers | spills | shared | loads | stores |"


class Row(NamedTuple):
    """One compiled launch, as the table shows it; `key` names it, the rest was measured on the binary."""

    case: str
    kernel: str
    launch: int  # of this kernel within the case: 2 is the one in backward
    target: str
    registers: int
    spills: int  # bytes; on AMD registers
    shared: int  # bytes
    loads: str
    stores: str

    @property
    def key(self) -> tuple[Any, ...]:
        return self[:4]

    def __str__(self) -> str:
        return f"| {' | '.join(map(str, self))} |"


def compile_target(target: str, triton: Path | None = None, model: str | None = None) -> dict[str, Any]:
    """What compile_kernels.py prints; in a process of its own, with the Triton installed in the folder `triton`.

    With `model`, such as "ViT-B", the cases of other models are left out.
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    paths = [ROOT, ROOT / "kernels", *([triton] if triton else [])]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, reversed(paths)))
    command = [sys.executable, str(Path(__file__).with_name("compile_kernels.py")), target, *([model] if model else [])]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{process.stderr}")
    return json.loads(process.stdout)


def rows(report: dict[str, Any]) -> list[Row]:
    """The lines of one report of `compile_target`."""
    launches: Counter[tuple[str, str]] = Counter()
    found = []
    for r in report["compiled"]:
        launches[r["case"], r["kernel"]] += 1
        counts = r["registers"], r["spills"], r["shared"], widths(r["loads"]), widths(r["stores"])
        found.append(Row(r["case"], r["kernel"], launches[r["case"], r["kernel"]], r["target"], *counts))
    return found


def widths(accesses: dict[str, int]) -> str:
    """{"128": 4, "32": 2} as "128b x4, 32b x2", widest first."""
    return ", ".join(f"{bits}b x{accesses[bits]}" for bits in sorted(accesses, key=int, reverse=True))


def widest(accesses: str) -> int:
    return int(accesses.split("b")[0]) if accesses else 0


def render(version: str, lines: list[Row]) -> str:
    """The file's text."""
    note = f"Triton {version}\n\nCompiled ahead of time, never run; `{REWRITE}` rewrites it."
    rule = "|" + " --- |" * (COLUMNS.count("|") - 1)
    return "\n".join([note, "", COLUMNS, rule, *map(str, sorted(lines))]) + "\n"


def parse(text: str) -> tuple[str, dict[tuple[Any, ...], Row]]:
    """(Triton version, rows by key) of the file's text."""
    found = {}
    for line in text.splitlines():
        cells = line.strip("| ").split(" | ")
        if len(cells) == len(Row._fields) and cells[2].isdigit():
            row = Row(*(int(c) if f in (2, 4, 5, 6) else c for f, c in enumerate(cells)))
            found[row.key] = row
    return text.split()[1], found


def difference(text: str, version: str, lines: list[Row], model: str | None = None) -> str:
    """What `lines`, compiled with Triton `version`, violate of the table in `text`; empty if nothing.

    With `model`, `lines` need no cases of other models.
    """
    expected_version, table = parse(text)
    targets = {row.target for row in lines}
    expected = [row for row in table.values() if row.target in targets and _is_of(row.case, model)]
    if version == expected_version:
        diff = difflib.unified_diff([*map(str, sorted(expected))], [*map(str, sorted(lines))], "kernels.md", "now", n=0)
        return "\n".join([*diff])
    missing = {row.key for row in expected} - {row.key for row in lines}
    problems = [f"not compiled: {table[key]}" for key in sorted(missing)]
    for row in lines:
        problems += [f"{problem}: {row}" for problem in exceeded(row, table.get(row.key))]
    return "\n".join(problems)


def _is_of(case: str, model: str | None) -> bool:
    """Whether a case is one of the model, or of no model."""
    return model is None or not case.startswith("ViT-") or case.startswith(f"{model} ")


def exceeded(row: Row, bound: Row | None) -> list[str]:
    """The bounds that a row passes."""
    if bound is None:
        return ["not in kernels.md"]
    found = {
        "spills": row.spills > 0,
        f"more than {SHARED_LIMITS[row.target]} bytes of shared memory": row.shared > SHARED_LIMITS[row.target],
        f"more than {bound.registers} + {REGISTER_MARGIN} registers": row.registers > bound.registers + REGISTER_MARGIN,
        f"loads narrower than {bound.loads}": widest(row.loads) < widest(bound.loads),
        f"stores narrower than {bound.stores}": widest(row.stores) < widest(bound.stores),
    }
    return [problem for problem, is_so in found.items() if is_so]


if __name__ == "__main__":
    reports = [compile_target(target) for target in SHARED_LIMITS]
    FILE.write_text(render(reports[0]["triton"], [row for report in reports for row in rows(report)]), encoding="utf-8")
    print(f"wrote {FILE}")
