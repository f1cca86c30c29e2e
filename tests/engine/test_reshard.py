"""Weights and moments stay what they are when shards become whole tensors, and whole tensors shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from videomae_fast._shards import SHARDS
from videomae_fast.engine.reshard import load_shards, load_whole

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def make(seed: int, steps: int, sharded: bool = False) -> tuple[nn.Module, AdamW]:
    """A model with a frozen layer, and an optimizer whose groups have another order than the model."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].requires_grad_(False)
    if sharded:
        for module in (model[0], model):
            fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
    groups = [
        {"params": list(model[2].parameters()), "lr_scale": 0.5, "weight_decay": 0.0},
        {"params": list(model[0].parameters()), "lr_scale": 1.0},
    ]
    optimizer = AdamW(groups, lr=0.1)
    for _ in range(steps):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def whole(value: Any) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def same(ours: tuple[nn.Module, AdamW], wanted: tuple[nn.Module, AdamW]) -> None:
    for one, other in zip(ours[0].parameters(), wanted[0].parameters(), strict=True):
        assert torch.equal(whole(one.detach()), whole(other.detach()))
    for one, other in zip(ours[1].param_groups, wanted[1].param_groups, strict=True):
        assert one["lr_scale"] == other["lr_scale"] and one["weight_decay"] == other["weight_decay"]
        for mine, theirs in zip(one["params"], other["params"], strict=True):
            moments, expected = ours[1].state[mine], wanted[1].state[theirs]
            assert set(moments) == set(expected) == {"step", "exp_avg", "exp_avg_sq"}
            assert isinstance(moments["exp_avg"], DTensor) == isinstance(mine, DTensor)
            assert all(torch.equal(whole(moments[name]), whole(expected[name])) for name in expected)


@pytest.mark.parametrize("began", [False, True])
def test_shards_become_whole(began: bool, process_group: None, tmp_path: Path) -> None:
    saved = make(1, 3, sharded=True)
    dcp.save({"model": saved[0].state_dict()}, checkpoint_id=tmp_path / SHARDS)
    dcp.save({"optimizer": get_optimizer_state_dict(*saved)}, checkpoint_id=tmp_path / "optimizer_0")
    found = make(2, int(began))
    load_shards(tmp_path, *found)
    same(found, saved)


def test_whole_tensors_become_shards(process_group: None, tmp_path: Path) -> None:
    saved = make(1, 3)
    save_file(saved[0].state_dict(), tmp_path / "model.safetensors")
    torch.save(saved[1].state_dict(), tmp_path / "optimizer.bin")
    found = make(2, 0, sharded=True)
    load_whole(tmp_path, *found, reads=True)
    same(found, saved)
