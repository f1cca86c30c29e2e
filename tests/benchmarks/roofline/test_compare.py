"""`python -m benchmarks.roofline`: the profiler's times are summed over the parts that are predicted."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks.roofline import __main__ as command
from benchmarks.roofline.devices import measure_rates
from benchmarks.roofline.work import ATTENTION, CASTS, MATRIX, OTHER


def event(key: str, device_us: float, kind: DeviceType = DeviceType.CPU, cpu_us: float = 1.0) -> Any:
    return SimpleNamespace(key=key, device_type=kind, self_device_time_total=device_us, self_cpu_time_total=cpu_us)


def test_time_is_that_of_operations_on_the_gpu() -> None:
    events = [
        event("aten::addmm", 2000.0),
        event("aten::mm", 1000.0),
        event("aten::linear", 0.0),
        event("aten::_flash_attention_backward", 500.0),
        event("aten::copy_", 250.0),
        event("videomae_kernels::gather_tokens", 125.0),
        event("aten::mystery", 60.0),
        event("Optimizer.step#AdamW.step", 7.0),  # no operation
        event("cudaLaunchKernel", 9.0),
        event("sm90_gemm_kernel", 3000.0, DeviceType.CUDA),  # the kernels of addmm and mm again
    ]
    found = command.sum_parts(events, on_gpu=True)
    wanted = {MATRIX: 3.0, ATTENTION: 0.5, CASTS: 0.25, "our kernels": 0.125, OTHER: 0.06}
    assert {part: ms for part, ms in found.items() if ms} == pytest.approx(wanted)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--size tiny --batch-size 2 --output {tmp_path / 'found.json'}"
    command.main(words.split())
    found = json.loads((tmp_path / "found.json").read_text())
    assert [record["variant"] for record in found["records"]] == list(command.VARIANTS)
    assert found["rates"]["memory"] > 0
    for record in found["records"]:
        assert record["measured_ms"] > 0 and record["host_ms"] > 0 and record["predicted_ms"] > 0
        parts = record["parts"]
        assert parts["measured"][MATRIX] > 0 and parts["predicted"][MATRIX] > 0
        assert record["predicted_ms"] == pytest.approx(sum(parts["predicted"].values()))
    ours = found["records"][1]["parts"]
    assert "our kernels" in ours["predicted"] and ours["measured"]["our kernels"] > 0
    assert "| **step** |" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_faster_with_bf16_and_copies_more_than_100_gb_per_s() -> None:
    rates = measure_rates(torch.device("cuda"), 4096)
    assert rates.matrix > rates.float32 > 1 and rates.attention > 1 and rates.memory > 100
