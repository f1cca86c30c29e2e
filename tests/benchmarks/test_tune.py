"""Tuning, on the interpreter: cases that launch a kernel are found, and the tables are left as they were."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import tune
from benchmarks.ops.workload import OURS, Op, OpCase

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.mark.slow
def test_cases_are_found_and_timed() -> None:
    before = [list(table.items()) for table in tune.tables()]
    cases = tune.find_cases("tiny", 1, DEVICE)
    assert [list(table.items()) for table in tune.tables()] == before
    directions = {kernel: (case.op, case.direction) for kernel, (_, case) in cases.items()}
    assert directions["copy_rows"] == ("gather_tokens", "forward")
    assert directions["layer_norm"] == ("layer_norm", "forward")
    assert directions["layer_norm_backward"] == ("layer_norm", "backward")
    assert directions["rms_norm"] == ("rms_norm", "forward")
    assert directions["rms_norm_backward"] == ("rms_norm", "backward")
    assert directions["bias_gelu_backward"] == ("bias_gelu", "backward")
    assert directions["alignment_loss"] == ("alignment_loss", "forward")
    assert directions["alignment_loss_backward"] == ("alignment_loss", "backward")
    assert directions["contrastive_loss"] == ("contrastive_loss", "forward")
    assert directions["contrastive_loss_backward"] == ("contrastive_loss", "backward")
    assert directions["loss"] == ("masked_patch_loss", "forward")
    assert directions["gradient"] == ("masked_patch_loss", "backward")
    assert directions["gather_backward"] == ("tube_mask_gather", "backward")
    assert {case.op for _, case in cases.values()} >= {"tube_mask_index", "mask_to_index", "running_cell_select"}
    assert tune._median_ms(*cases["copy_rows"], rounds=2) > 0


def search(
    monkeypatch: pytest.MonkeyPatch, kernel: str, ms: Callable[[Any, int], float], tries: float = math.inf
) -> list[tuple[float, Any]]:
    """Tune with made-up times: `ms(entry, number of the measurement)`."""
    table = next(table for table in tune.tables() if kernel in table)
    present, tried = table[kernel], []

    def measure(op: object, case: object, rounds: int) -> float:
        tried.append(table[kernel])
        return ms(table[kernel], len(tried))

    monkeypatch.setattr(tune, "_median_ms", measure)
    op = Op(kernel, lambda case: pytest.fail("nothing is built"))
    found = tune.tune(kernel, op, OpCase(kernel, "forward", "tiny", "", "", 1, DEVICE), 1, lambda: len(tried) >= tries)
    assert table[kernel] == present and tried[0] == tried[-1] == present
    assert len(set(tried)) == len(tried) - 1
    return found


def test_the_search_finds_the_best_of_both_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = search(monkeypatch, "copy_rows", lambda entry, _: abs(entry.elements - 8192) + abs(entry.num_warps - 8) + 1)
    record = tune.summary("base", "copy_rows", found)
    assert record["best"] == "Tile(elements=8192, num_warps=8)" and record["wins"] and record["best_ms"] == 1
    assert record["tried"] == 1 + 5 + 4


def test_an_entry_that_fails_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(entry: Any, number: int) -> float:
        if number == 3:
            raise RuntimeError("out of resources")
        return float(number)

    assert [ms for ms, _ in search(monkeypatch, "mask_to_index", measure)][:3] == [1.0, 2.0, 4.0]


def test_a_gain_within_the_spread_is_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The present entry takes 2.0 and, measured again, 1.5: 1.2 is no better."""
    times = {1: 2.0, 2: 1.2, 11: 1.5}
    record = tune.summary("base", "copy_rows", search(monkeypatch, "copy_rows", lambda _, n: times.get(n, 3.0)))
    assert record["present_ms"] == [2.0, 1.5] and record["best_ms"] == 1.2 and not record["wins"]


def test_the_search_stops_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(search(monkeypatch, "copy_rows", lambda *_: 1.0, tries=4)) == 5  # the present entry is measured again


def test_only_what_wins_at_every_size_is_proposed() -> None:
    def record(kernel: str, size: str, best: str, wins: bool) -> dict[str, Any]:
        return {"kernel": kernel, "size": size, "best": best, "wins": wins, "present_ms": [2.0, 2.1], "best_ms": 1.0}

    records = [
        *(record("a", size, "Tile(elements=512, num_warps=1)", True) for size in ("base", "giant")),
        *(record("b", size, best, True) for size, best in (("base", "Tile(1, 1)"), ("giant", "Tile(2, 1)"))),
        *(record("c", size, "Tile(1, 1)", size == "base") for size in ("base", "giant")),
    ]
    (line,) = tune.proposed(records)
    assert line.startswith('    "a": Tile(elements=512, num_warps=1),  # ViT-base 2.0000 -> 1.0000 ms')


def test_what_is_furthest_from_its_number_comes_first() -> None:
    cases = {
        kernel: (Op(op, lambda case: pytest.fail("built")), OpCase(op, "forward", "base", "", "", 1, DEVICE))
        for kernel, op in (("x", "gather_tokens"), ("y", "mask_to_index"), ("z", "patch_targets"))
    }

    def measured(op: str, share: float) -> dict[str, Any]:
        names = {"suite": "ops", "name": op, "case": "c", "variant": OURS, "size": "base"}
        return names | {"p50_ms": 1.0, "roofline": share}

    results = {"driver": "1", "records": [measured("mask_to_index", 0.5), measured("patch_targets", 0.1)]}
    assert tune.in_order(cases, results) == ["z", "y", "x"]
    assert tune.in_order(cases, None) == ["x", "y", "z"]


@pytest.mark.slow
def test_the_command_keeps_what_it_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--size tiny --batch-size 1 --rounds 1 --kernel copy_rows --time-limit 1"
    tune.main([*words.split(), "--output", str(tmp_path / "tiles.json")])
    found = json.loads((tmp_path / "tiles.json").read_text())
    assert [record["kernel"] for record in found["records"]] == ["copy_rows"] and found["device"]
    assert "Proposed entries:" in capsys.readouterr().out


def test_a_gpu_is_needed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(SystemExit):
        tune.main([])
    assert "tuned on a GPU" in capsys.readouterr().err
