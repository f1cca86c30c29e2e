"""FLOPs, bytes and launches of small models, counted by hand; the time of an operation is the larger of two."""

import pytest
import torch
from torch import nn

from benchmarks.model.contenders import StepCase
from benchmarks.roofline.devices import ACHIEVED, DATASHEET, GPUS, HOST_SECONDS_PER_LAUNCH, Rates
from benchmarks.roofline.test_predicted import CROPPED, VARIANTS, figures, predict
from benchmarks.roofline.work import ATTENTION, CASTS, MATRIX, PARTS, WEIGHTS, Operation, Work, milliseconds, totals
from videomae_fast.memory.fake_cuda import DEVICE, fake_cuda

RATES = Rates(matrix=2.0, attention=1.0, float32=0.5, memory=4.0)


def test_an_operation_takes_the_longer_of_arithmetic_and_memory() -> None:
    flops, moved = 4 * 10**12, 2 * 10**9
    assert Operation(MATRIX, "matrix", flops, moved).seconds(RATES) == 2.0
    assert Operation(MATRIX, "float32", flops, moved).seconds(RATES) == 8.0
    assert Operation(ATTENTION, "attention", flops, moved).seconds(RATES) == 4.0
    assert Operation(CASTS, "matrix", 0, moved).seconds(RATES) == 0.5
    # one after the other: no overlap of one operation's arithmetic with another's traffic
    assert (
        milliseconds([(Operation(MATRIX, "matrix", flops, 0), 1), (Operation(CASTS, "matrix", 0, moved), 2)], RATES)
        == 3e3
    )


def test_a_linear_layer_under_autocast() -> None:
    """bf16 copies of input, weight and bias; a product forward and one backward; gradients back to float32."""
    with fake_cuda():
        layer, x = nn.Linear(8, 16), torch.ones(4, 8)
        with Work(layer) as work:
            with torch.autocast("cpu", torch.bfloat16):
                out = layer(x)
            out.backward(torch.ones(4, 16, dtype=torch.bfloat16))
    products = totals(work.of_part(MATRIX))
    assert products["tflop"] == 2 * (2 * 4 * 8 * 16) / 1e12  # x needs no gradient
    bf16 = (4 * 8 + 8 * 16 + 16 + 4 * 16, 4 * 16 + 4 * 8 + 8 * 16)  # addmm; the weight's gradient
    assert products["gb"] * 1e9 == 2 * sum(bf16) and products["kernel_launches"] == 2
    assert totals(work.of_part(CASTS))["gb"] * 1e9 == 6 * 4 * 8
    # weight and bias to bf16, their gradients to float32
    assert totals(work.of_part(WEIGHTS)) == {"tflop": 0, "gb": 2 * 6 * (128 + 16) / 1e9, "kernel_launches": 4}
    assert all(operation.rate == "matrix" for operation, _ in work.of_part(MATRIX))


def test_attention_and_float32_have_rates_of_their_own() -> None:
    with fake_cuda(), Work(nn.Identity()) as work:
        q = torch.ones(2, 3, 16, 8, dtype=torch.bfloat16)
        nn.functional.scaled_dot_product_attention(q, q, q)
        torch.ones(4, 8) @ torch.ones(8, 2)
    (attention, _), *_ = work.of_part(ATTENTION)
    assert (attention.rate, attention.flops) == ("attention", 2 * 2 * (2 * 3 * 16 * 16 * 8))
    ((product, _),) = work.of_part(MATRIX)
    assert product.rate == "float32"


def test_figures_add_up() -> None:
    with fake_cuda(), Work(nn.Identity()) as work:
        x = torch.ones(256, 256, dtype=torch.bfloat16)
        nn.functional.gelu(x @ x)
    found = figures(work, {"A": {DATASHEET: RATES}})
    parts = found["parts"]
    for figure in ("tflop", "gb", "kernel_launches"):
        assert sum(parts[figure].values()) == pytest.approx(found[figure])
    assert found["host_ms"] == pytest.approx(found["kernel_launches"] * HOST_SECONDS_PER_LAUNCH * 1e3)
    assert parts["ms"]["A"][DATASHEET]["GELU"] == pytest.approx(2 * 2 * 256**2 / 4e9 * 1e3)
    assert set(parts["tflop"]) <= set(PARTS)


@pytest.mark.parametrize("variant", ["published", *VARIANTS])
def test_records_of_steps(variant: str) -> None:
    """As the suite makes them: crops read other pixels and do the same arithmetic."""
    record = predict(StepCase("tiny", "bf16", 0.75, 0.5, 2, DEVICE), variant)
    assert record["predicted"] is True and record["parts"]["kernel_launches"]["optimizer"] == 2
    assert ("our kernels" in record["parts"]["gb"]) == variant.startswith("videomae_fast")
    for gpu in GPUS:
        by_kind = {kind: sum(parts.values()) for kind, parts in record["parts"]["ms"][gpu.name].items()}
        assert 0 < by_kind[DATASHEET] < by_kind[ACHIEVED]
    if variant == CROPPED:
        whole = predict(StepCase("tiny", "bf16", 0.75, 0.5, 2, DEVICE), "videomae_fast")
        assert whole["tflop"] == record["tflop"] and whole["gb"] != record["gb"]


def test_no_gpu_reaches_more_than_its_datasheet() -> None:
    for gpu in GPUS:
        states, reaches = gpu.rates[DATASHEET], gpu.rates[ACHIEVED]
        for rate in ("matrix", "attention", "float32", "memory"):
            assert 0 < getattr(reaches, rate) < getattr(states, rate)
        assert gpu.sources
