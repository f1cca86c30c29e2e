"""The average of the weights: its recurrence, its evaluation, its file and its continuation."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.test_loop import Line, LineConfig, _config
from videomae_fast.engine import run
from videomae_fast.engine.average import FILE, AveragedWeights
from videomae_fast.engine.checkpoint import list_checkpoints

DECAY = 0.75


class Averaged(Line):
    """A line whose weights are averaged; it keeps the weights of every step."""

    ema_decay = DECAY

    def __init__(self, config: LineConfig) -> None:
        super().__init__(config)
        self.evaluated: list[dict[str, torch.Tensor]] = []

    def evaluate(self, model: nn.Module, rank: int, world_size: int) -> dict[str, torch.Tensor]:
        self.evaluated.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return super().evaluate(model, rank, world_size)


def weights(output: Path, step: int, file: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(output / "checkpoints" / f"step-{step:08d}" / file)


def test_the_average_follows_its_recurrence_and_is_what_is_evaluated(tmp_path: Path) -> None:
    recipe = Averaged(_config(tmp_path, save_every=1, keep_checkpoints=0, eval_every=1))
    last = run(recipe).step
    average = weights(tmp_path, 1)
    for step in range(1, last + 1):
        if step > 1:
            now = weights(tmp_path, step)
            average = {name: DECAY * average[name] + (1 - DECAY) * now[name] for name in now}
        saved = weights(tmp_path, step, FILE)
        for name, tensor in average.items():
            torch.testing.assert_close(saved[name], tensor)
            assert torch.equal(recipe.evaluated[step - 1][name], saved[name])
    assert not torch.equal(saved["0.weight"], now["0.weight"])


def test_a_continued_run_averages_on(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    last = run(Averaged(_config(whole))).step
    run(Averaged(_config(parted, max_steps=last // 2)))
    run(Averaged(_config(parted, resume=True)))
    for name, tensor in weights(whole, last, FILE).items():
        assert torch.equal(tensor, weights(parted, last, FILE)[name])


def test_the_average_never_waits_for_the_device() -> None:
    class Reads(TorchDispatchMode):
        """Counts the numbers that the host reads from tensors."""

        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    accelerator = SimpleNamespace(device=torch.device("cpu"), distributed_type=SimpleNamespace(value="NO"))
    average = AveragedWeights(accelerator, nn.Linear(2, 2), DECAY)
    with Reads() as reads:
        for _ in range(3):
            average.update()
    assert reads.count == 0


def test_without_a_decay_there_is_no_file(tmp_path: Path) -> None:
    run(Line(_config(tmp_path)))
    assert not (list_checkpoints(tmp_path)[-1] / FILE).exists()


def test_sharded_weights_are_refused() -> None:
    class Sharding:
        device = torch.device("cpu")

        class distributed_type:
            value = "FSDP"

    with pytest.raises(ValueError, match="ema_decay needs whole weights in every process, but FSDP shards them"):
        AveragedWeights(Sharding(), nn.Linear(1, 1), DECAY)
