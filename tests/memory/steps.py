"""A training step for the tests of predictions."""

import torch
from torch import nn


class PerceptronStep:
    """Three layers; the batch size can change."""

    def __init__(self, batch_size: int) -> None:
        self.model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.set_batch_size(batch_size)

    def set_batch_size(self, batch_size: int) -> None:
        self.x = torch.zeros(batch_size, 256)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.model(self.x).square().mean().backward()
        self.optimizer.step()
