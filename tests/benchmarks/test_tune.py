"""Tuning, on the interpreter: cases that launch a kernel are found, and the tables are left as they were."""

import pytest
import torch

from benchmarks import tune
from benchmarks.ops.workload import Op, OpCase

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
    assert directions["bias_gelu_backward"] == ("bias_gelu", "backward")
    assert directions["loss"] == ("masked_patch_loss", "forward")
    assert directions["gradient"] == ("masked_patch_loss", "backward")
    assert directions["gather_backward"] == ("tube_mask_gather", "backward")
    assert directions["cropped_gather"] == ("tube_mask_gather", "forward")
    assert directions["cropped_targets"] == ("patch_targets", "forward")
    assert directions["cropped_loss"] == ("masked_patch_loss", "forward")
    assert directions["cropped_gradient"] == ("masked_patch_loss", "backward")
    assert {case.op for _, case in cases.values()} >= {"tube_mask_index", "mask_to_index", "running_cell_select"}
    assert tune._median_ms(*cases["copy_rows"], rounds=2) > 0


def test_tuning_leaves_the_table_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    table = next(table for table in tune.tables() if "mask_to_index" in table)
    present = table["mask_to_index"]
    tried = []

    def measure(op: object, case: object, rounds: int) -> float:
        tried.append(table["mask_to_index"])
        if len(tried) == 3:
            raise RuntimeError("out of resources")
        return float(len(tried))

    monkeypatch.setattr(tune, "_median_ms", measure)
    op = Op("mask_to_index", lambda case: pytest.fail("nothing is built"))
    case = OpCase("mask_to_index", "forward", "tiny", "", "", 1, DEVICE)
    found = tune.tune("mask_to_index", op, case, rounds=1)
    assert tried[0] == present and len(tried) == len(set(tried)) > 10
    assert [entry for _, entry in found] == tried[:2] + tried[3:]
    assert table["mask_to_index"] == present


def test_a_gpu_is_needed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        tune.main([])
    assert "tuned on a GPU" in capsys.readouterr().err
