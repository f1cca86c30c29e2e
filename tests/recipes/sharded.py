"""One process of several, started by torchrun: runs of recipes under an engine, one after the other.

python -m torch.distributed.run ... -m tests.recipes.sharded RUNS.json, a list of [name of a recipe, its options]
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, PartialState
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from tests.recipes import aligned, tiny
from videomae_fast.engine import loop, parallel
from videomae_fast.models.config import CONFIGS, INTERNVIDEO2_CONFIGS
from videomae_fast.models.layers import Block
from videomae_fast.recipes.align import AlignConfig, align
from videomae_fast.recipes.finetune import FinetuneConfig, finetune
from videomae_fast.recipes.pretrain import PretrainConfig, pretrain

RECIPES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "pretrain": (PretrainConfig, pretrain),
    "finetune": (FinetuneConfig, finetune),
    "align": (AlignConfig, align),
}
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def launch(folder: Path, runs: list[tuple[str, dict[str, Any]]], processes: int) -> str:
    """Run recipes under FSDP2, one after the other; returns what the processes printed."""
    path = folder / f"runs{len(list(folder.glob('runs*.json')))}.json"
    path.write_text(json.dumps(runs))
    return tiny.torchrun([str(path)], "tests.recipes.sharded", processes, FSDP2, timeout=600)


def fresh() -> None:
    """Have Accelerate forget the run before."""
    AcceleratorState._reset_state(reset_partial_state=True)


def prepare(accelerator: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
    """Wrap, and say what wraps: a unit for each block and one for the whole, every parameter a shard."""
    model, optimizer = parallel.prepare(accelerator, model, optimizer)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert blocks and all(isinstance(module, FSDPModule) for module in (model, *blocks))
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert held and all(isinstance(parameter, DTensor) for parameter in held)
    return model, optimizer


def main(runs: list[tuple[str, dict[str, Any]]]) -> None:
    torch.set_num_threads(1)
    CONFIGS["tiny"], INTERNVIDEO2_CONFIGS["tiny"] = tiny.TINY, aligned.STUDENT
    loop.prepare = prepare
    PartialState.destroy_process_group = lambda *args: None  # one group for all runs
    for name, options in runs:
        fresh()
        config, run = RECIPES[name]
        result = run(config.from_options(**options))
        if result.is_main_process:
            print(f"{name}: step {result.step}, weights {result.weights}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
