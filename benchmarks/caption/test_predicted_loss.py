"""The memory of the loss of next tokens on a GPU, predicted: the same bytes on every machine. No time is taken."""

from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from benchmarks.caption.losses import FULL, LENGTH, OURS, LossBatch, make_loss
from benchmarks.caption.sizes import LARGE_HEADS, TINY_HEADS
from benchmarks.memory.test_predicted import memory_fields
from benchmarks.settings import Settings
from videomae_fast.memory import MemoryProfile
from videomae_fast.memory.fake_cuda import DEVICE, fake_cuda

TOKENS = (4096, 32_768)
Row = tuple[str, int, bool, str]


def parametrize(settings: Settings) -> tuple[str, list[Row], list[str]]:
    """Heads of language models of 7 and 8 billion parameters, in bf16."""
    heads = TINY_HEADS if settings.options.size == ["tiny"] else LARGE_HEADS
    rows = [
        (h, tokens, lora, name) for h in heads for tokens in TOKENS for lora in (False, True) for name in (FULL, OURS)
    ]
    return "head, tokens, lora, name", rows, [f"{h}-{t} tokens-lora {lora}-{n}" for h, t, lora, n in rows]


@pytest.mark.benchmark(group="caption")
def test_predicted_loss(head: str, tokens: int, lora: bool, name: str, benchmark: BenchmarkFixture) -> None:
    record = benchmark.pedantic(predict, (head, tokens, lora, name), rounds=1)
    assert record["total_mib"] > record["peak_mib"] > 0
    benchmark.extra_info["record"] = record


def predict(head: str, tokens: int, lora: bool, name: str) -> dict[str, Any]:
    """The record of one implementation: the loss, and the gradients of its rows and of the adapter."""
    with fake_cuda():
        batch = LossBatch((LARGE_HEADS | TINY_HEADS)[head], tokens // LENGTH, "bf16", lora, DEVICE)
        model, rows = _as_model(batch)
        loss = make_loss(name, batch)
        with MemoryProfile(model) as profile:
            torch.autograd.backward(loss(), inputs=rows)
    return {
        "suite": "caption",
        "name": head,
        "case": str(batch),
        "variant": name,
        "predicted": True,
        **memory_fields(profile.figures),
    }


def _as_model(batch: LossBatch) -> tuple[nn.Module, list[nn.Parameter]]:
    """The leaves, whose weights are the head's and the adapter's; rows of the language model are inputs."""
    trained = [leaf for leaf in batch.leaves.values() if leaf.requires_grad]
    return batch.leaves, trained
