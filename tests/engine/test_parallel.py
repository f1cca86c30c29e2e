"""Ranks add up gradients once per optimizer step, and the engine that was asked for is the one that runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from videomae_fast.engine import parallel
from videomae_fast.engine.parallel import (
    asked_engine,
    block_classes,
    check_engine,
    check_shapes,
    last_part,
    make_accelerator,
)
from videomae_fast.engine.precision import resolve_precision
from videomae_fast.models import VideoMAEConfig, VideoMAEForPretraining


class Ranks:
    """Stands in for Accelerate in a group of processes, and records the calls."""

    def __init__(self) -> None:
        self.sync_gradients = True
        self.seen: list[object] = []

    @contextmanager
    def no_sync(self, model: nn.Module) -> Iterator[None]:
        self.seen.append("quiet")
        yield
        self.seen.append("quiet no more")


@pytest.mark.parametrize("count", [1, 3])
def test_only_the_last_part_is_added_up(count: int) -> None:
    ranks = Ranks()
    for number in range(1, count + 1):
        with last_part(ranks, nn.Linear(1, 1), number == count):
            ranks.seen.append(ranks.sync_gradients)
    assert ranks.seen == ["quiet", False, "quiet no more"] * (count - 1) + [True]
    assert ranks.sync_gradients


@pytest.mark.parametrize(("precision", "expected"), [("bf16", "bf16"), ("fp32", "no")])
def test_precision(precision: str, expected: str) -> None:
    assert resolve_precision(precision) == precision
    assert make_accelerator(precision).mixed_precision == expected
    assert resolve_precision("auto") == ("bf16" if torch.cuda.is_available() else "fp32")


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="precision must be one of auto, bf16, fp32, got 'fp8'"):
        resolve_precision("fp8")


FSDP = {"ACCELERATE_USE_FSDP": "true"}
FSDP2 = FSDP | {"FSDP_VERSION": "2"}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Sets what a launcher sets."""

    def set_variables(values: dict[str, str]) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    ("values", "engine"),
    [
        ({}, "DDP"),
        (FSDP2, "FSDP2"),
        ({"ACCELERATE_USE_FSDP": "false"}, "DDP"),
    ],
)
def test_asked_engine(values: dict[str, str], engine: str, variables: Callable[[dict[str, str]], None]) -> None:
    variables(values)
    assert asked_engine() == engine


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            FSDP,
            "FSDP version 1 was asked for, only version 2 is supported: write `fsdp_version: 2`",
        ),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "MEGATRON_LM was asked for; allowed: MULTI_GPU"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED was asked for; allowed: MULTI_GPU"),
        (FSDP2 | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "leave it out and give --activation-checkpointing"),
        (FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params is set: leave it out"),
        (FSDP2 | {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}, "FULL_STATE_DICT; allowed: SHARDED_STATE_DICT"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, and LOCAL_RANK is not set: start with torchrun"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "must be 1, because --accumulate divides batches, got 4"),
    ],
)
def test_settings_that_no_engine_has(
    values: dict[str, str], message: str, variables: Callable[[dict[str, str]], None]
) -> None:
    variables(values)
    with pytest.raises(ValueError, match=message):
        make_accelerator("fp32")


def test_another_engine_than_asked_for(variables: Callable[[dict[str, str]], None]) -> None:
    """Without a launcher there are no processes, and Accelerate says nothing of the engine that it leaves out."""
    model = nn.Linear(2, 2)
    variables(FSDP2)
    accelerator = make_accelerator("fp32")
    with pytest.raises(ValueError, match="FSDP2 was asked for, and the model is wrapped by no engine, in 1 processes"):
        parallel.prepare(accelerator, model, torch.optim.SGD(model.parameters()))


def test_ddp_needs_a_wrapper_in_several_processes() -> None:
    check_engine(nn.Linear(2, 2), 1)
    with pytest.raises(ValueError, match="DDP was asked for, and the model is wrapped by no engine, in 2 processes"):
        check_engine(nn.Linear(2, 2), 2)


def test_an_accelerate_that_cannot_be_told_to_shard_on_cpus() -> None:
    accelerate = SimpleNamespace(__version__="9.9", PartialState=SimpleNamespace(), DistributedType=None)
    with pytest.raises(ImportError, match=r"accelerate 9\.9 cannot run FSDP2 on CPUs"):
        parallel._let_cpus_shard(accelerate)


def test_an_accelerate_without_fsdp2() -> None:
    accelerate = SimpleNamespace(__version__="1.2", FullyShardedDataParallelPlugin=lambda auto_wrap_policy: None)
    with pytest.raises(ImportError, match=r"FSDP2 needs accelerate >= 1\.6, got 1\.2"):
        parallel._fsdp_plugin(accelerate, "fp32")


class Sizes(nn.Module):
    """Names three classes, has modules of two, one of them inside a model that names it too."""

    _no_split_modules = ("Linear", "Conv1d")

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(1, 1), VideoMAEForPretraining(VideoMAEConfig(48, 1, 2, 24, 1))


def test_blocks_are_found_by_class() -> None:
    assert block_classes(Sizes()) == ["Block", "Linear"]
    assert block_classes(Sizes().inner) == ["Block"]
    with pytest.raises(ValueError, match=r"Linear does not name its blocks.*fsdp_transformer_layer_cls_to_wrap"):
        block_classes(nn.Linear(1, 1))


def test_single_numbers_cannot_be_sharded() -> None:
    model = Sizes()
    check_shapes(model)
    model.inner.register_parameter("scale", nn.Parameter(torch.ones(())))
    with pytest.raises(ValueError, match=r"single numbers, and Sizes has inner\.scale: train it with DDP"):
        check_shapes(model)
