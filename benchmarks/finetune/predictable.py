"""Fine-tuning steps on fake tensors, to predict memory and count FLOPs.

What drop path draws differs from step to step. Here the branch of a block with rate r keeps round(B · (1 - r)) of B
clips, so the figures are the expected ones, and the same every time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from benchmarks.baselines.published import sinusoid_table
from benchmarks.finetune.steps import FinetuningInputs, make_finetuning_step
from benchmarks.model.steps import ComparedStep
from videomae_fast.memory.fake_cuda import DEVICE
from videomae_fast.models import VideoMAEConfig
from videomae_fast.models.layers import Block
from videomae_fast.models.stochastic_depth import BranchDraw, DropPath

# Compiled implementations are not among them, as in benchmarks/memory/predictable.py.
PREDICTABLE = (
    "published",
    "published, checkpointed",
    "published + SDPA",
    "videomae_fast",
    "videomae_fast, checkpointed",
)


class ExpectedInputs(FinetuningInputs):
    """FinetuningInputs that draw nothing: fake tensors have no values."""

    @cached_property
    def keep(self) -> Tensor:
        """(L, 2, B) bool of any values: the published code computes every branch."""
        return torch.empty(self.config.encoder_depth, 2, self.batch_size, dtype=torch.bool, device=self.device)

    def draws(self) -> AbstractContextManager[None]:
        return nullcontext()


class ExpectedDropPath(DropPath):
    """Keeps the expected number of samples."""

    def forward(self, x: Tensor, branch: int) -> BranchDraw:
        """The draw of a branch for a batch x (B, …)."""
        kept = max(1, round(len(x) * (1 - self.rate)))
        if kept == len(x):
            return BranchDraw(1 - self.rate)
        place = torch.empty(len(x), dtype=torch.int64, device=x.device)
        return BranchDraw(1 - self.rate, index=place[:kept], place=place)


class PredictableFinetuning:
    """A fine-tuning step whose batch size can change: what `fake_step` runs."""

    def __init__(self, name: str, inputs: ExpectedInputs, precision: str) -> None:
        self.config, self.precision = inputs.config, precision
        self.step: ComparedStep = make_finetuning_step(name, inputs, precision)
        for block in self.step.model.modules():
            if isinstance(block, Block) and block.drop_path is not None:
                block.drop_path = ExpectedDropPath(block.drop_path.rate)

    def __call__(self) -> None:
        self.step()

    def set_batch_size(self, batch_size: int) -> None:
        """Replace the inputs."""
        inputs = ExpectedInputs(self.config, batch_size, DEVICE)
        self.step.loss = self.step.implementation.make_loss(inputs, self.model, self.precision)
        self.step.inputs = self.step.implementation.inputs(inputs)

    @property
    def model(self) -> nn.Module:
        return self.step.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.step.optimizer


def make_predictable(
    name: str, config: VideoMAEConfig, batch_size: int, precision: str = "bf16"
) -> Callable[[], PredictableFinetuning]:
    """Returns a function that builds the named step, for `fake_step`; ValueError for a name not in PREDICTABLE."""
    if name not in PREDICTABLE:
        raise ValueError(f"name must be one of {PREDICTABLE}, got '{name}'; compiled code cannot be predicted")
    if name == "videomae_fast, checkpointed":
        name, config = "videomae_fast", replace(config, activation_checkpointing=True)
    sinusoid_table(config.num_tokens, config.encoder_dim)  # keeps its results, which must not be fake ones
    return lambda: PredictableFinetuning(name, ExpectedInputs(config, batch_size, DEVICE), precision)
