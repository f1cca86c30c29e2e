"""Every Triton kernel compiles for every target, without spills and with wide memory accesses. Needs no GPU."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("compile_kernels.py")
SHARED_LIMIT = 163 * 1024  # bytes a program can have on sm_80, the smallest of the NVIDIA targets
SHARED_LIMITS = {"gfx942": 64 * 1024}
REGISTER_LIMIT = 168  # three programs of 128 threads fit into the 65,536 registers of an SM

targets = pytest.mark.parametrize(
    "target",
    ["sm_80", "sm_90", pytest.param("sm_100", marks=pytest.mark.slow), pytest.param("gfx942", marks=pytest.mark.slow)],
)


@functools.cache
def compiled(target: str) -> dict[str, Any]:
    """What compile_kernels.py prints; a process of its own, since this one may run Triton's interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [sys.executable, str(SCRIPT), target]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def records(target: str, kernel: str = "", case: str = "") -> list[dict[str, Any]]:
    found = [r for r in compiled(target)["compiled"] if kernel in r["kernel"] and case in r["case"]]
    assert found, f"no {kernel} {case} was compiled for {target}"
    return found


@targets
def test_every_kernel_is_compiled(target: str) -> None:
    report = compiled(target)
    assert report["entries"] == sorted({r["kernel"] for r in report["compiled"]})


@targets
def test_nothing_spills(target: str) -> None:
    assert [r for r in records(target) if r["spills"]] == []


@targets
def test_resources_within_limits(target: str) -> None:
    limit = SHARED_LIMITS.get(target, SHARED_LIMIT)
    assert [r for r in records(target) if r["shared"] > limit or r["registers"] > REGISTER_LIMIT] == []


@targets
@pytest.mark.parametrize(
    ("kernel", "case"),
    [
        ("token_rows._copy_rows_kernel", "ViT-B gather_tokens float32"),
        ("token_rows._copy_rows_kernel", "ViT-B gather_tokens bfloat16"),
        ("token_rows._copy_rows_kernel", "ViT-B masked_token_scatter float32"),
        ("token_rows._copy_rows_kernel", "ViT-B masked_token_scatter bfloat16"),
        ("tube_mask_gather._tube_mask_gather_kernel", "ViT-B tube_mask_gather float32 BCTHW"),
    ],
)
def test_accesses_of_128_bits(target: str, kernel: str, case: str) -> None:
    """Rows move in 128-bit accesses: all stores, and as many loads; narrower loads fetch only indices and constants."""
    for record in records(target, kernel, case):
        assert set(record["stores"]) == {"128"}, record
        assert record["loads"].get("128", 0) >= record["stores"]["128"], record
