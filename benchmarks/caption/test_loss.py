"""The loss of next tokens and its gradients, timed: all logits at once and ours, round by round."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch

from benchmarks.caption.losses import FULL, LIBRARIES, OURS, LossBatch, gradients
from benchmarks.caption.sizes import LARGE_HEADS, SMALL_HEADS, TINY_HEADS, Head
from benchmarks.harness.measure import peak_mib
from benchmarks.settings import Settings

ROUNDS = 3
TOKENS = {"cpu": (512, 2048), "cuda": (4096, 32_768)}
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}  # relative to the largest value
Row = tuple[str, LossBatch, str, int]


def parametrize(settings: Settings) -> tuple[str, list[Row], list[str]]:
    """Small heads on a CPU, large ones on a GPU, frozen; without an adapter and with one."""
    heads: dict[str, Head] = LARGE_HEADS if settings.on_gpu else SMALL_HEADS
    if settings.options.size == ["tiny"]:
        heads = TINY_HEADS
    samples = settings.rounds(gpu=12, cpu=3)
    rows = [
        (head, LossBatch(heads[head], tokens // 512, precision, lora, settings.device), name, share)
        for head in heads
        for precision in settings.precisions(gpu=["bf16"])
        for tokens in TOKENS[settings.device.type]
        for lora in (False, True)
        for number in range(ROUNDS)
        if (share := len(range(number, samples, ROUNDS)))
        for name in (FULL, OURS, *(LIBRARIES if settings.on_gpu and not lora else ()))
    ]
    return "head, batch, name, samples", rows, [f"{row[1]}-{row[2]}-{number}" for number, row in enumerate(rows)]


def test_loss(benchmark: Any, head: str, batch: LossBatch, name: str, samples: int) -> None:
    record = {"suite": "caption", "name": head, "case": str(batch), "variant": name, "predicted": False}
    benchmark.group = f"{head}: {batch}"
    benchmark.extra_info["record"] = record
    try:
        record |= _checked(name, batch)
    except (ImportError, torch.OutOfMemoryError) as error:
        record["not_run"] = "out of memory" if isinstance(error, torch.OutOfMemoryError) else "not installed"
        benchmark.pedantic(lambda: None)
        return
    benchmark.pedantic(gradients, (name, _made(batch)), rounds=samples, warmup_rounds=1)


@lru_cache(maxsize=1)
def _made(batch: LossBatch) -> LossBatch:
    """The batch with its tensors, the same for all that follow each other: those of pytest have none."""
    return replace(batch)


@lru_cache(maxsize=8)
def _checked(name: str, batch: LossBatch) -> dict[str, Any]:
    """The error and the memory; AssertionError if the gradients are not those of all logits in float32."""
    batch = _made(batch)
    found, truth = gradients(name, batch), _truth(batch)
    errors = {leaf: float((found[leaf].float() - at).abs().max() / at.abs().max()) for leaf, at in truth.items()}
    assert max(errors.values()) <= TOLERANCE[batch.precision], f"{name} is wrong: {errors}"
    found.clear()
    return {"error": max(errors.values()), "peak_mib": peak_mib(lambda: gradients(name, batch), batch.device)}


@lru_cache(maxsize=1)
def _truth(batch: LossBatch) -> dict[str, torch.Tensor]:
    wide = replace(batch, precision="fp32")
    for name, leaf in _made(batch).leaves.items():
        wide.leaves[name].data.copy_(leaf.data)
    return gradients(FULL, wide)


@pytest.fixture(autouse=True, scope="module")
def _forget() -> Any:
    yield
    for kept in (_made, _checked, _truth):
        kept.cache_clear()
