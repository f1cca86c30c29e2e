"""The classifier under FSDP2 with a bf16 policy, blocks sharded one by one: its hooks act on a block that means."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from tests.models.test_classify import TINY, build

BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_as_bf16_copies_of_the_parameters(checkpointing: bool, process_group: None) -> None:
    alone = build(replace(TINY, activation_checkpointing=checkpointing)).float()
    model = copy.deepcopy(alone)
    mesh = init_device_mesh("cpu", (1,))
    seen: list[torch.dtype] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, *_: seen.append(next(module.parameters()).dtype))
        fully_shard(block, mesh=mesh, mp_policy=BF16)
    fully_shard(model, mesh=mesh, mp_policy=BF16)
    clip = torch.randint(0, 256, (2, 3, 8, 32, 48), dtype=torch.uint8)
    logits = model(clip)
    logits.float().sum().backward()
    assert seen and set(seen) == {torch.bfloat16}
    expected = alone.bfloat16()(clip)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.03)
    expected.float().sum().backward()
    for (name, ours), wanted in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert isinstance(ours.grad, DTensor) and wanted.grad is not None
        gradient = ours.grad.full_tensor()
        assert gradient.dtype == torch.float32 and gradient.abs().max() > 0, name
        assert (gradient - wanted.grad).norm() < 0.05 * wanted.grad.norm(), name
