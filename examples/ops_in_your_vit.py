"""The ops in a ViT of your own: embed only the visible tokens, predict hidden ones, compare without storing targets.

Run: python examples/ops_in_your_vit.py
"""

import torch
from torch import nn

from videomae_kernels import embed_tokens, masked_patch_loss, masked_token_scatter, random_mask_index

PATCH = (2, 16, 16)
GRID = (4, 4, 4)  # tokens of an 8 x 64 x 64 clip
NUM_TOKENS = GRID[0] * GRID[1] * GRID[2]
WIDTH = 96


class TinyMAE(nn.Module):
    """A masked autoencoder with a full-length decoder, as in the image MAE."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv3d(3, WIDTH, PATCH, stride=PATCH)  # holds weight and bias; never called
        self.position = nn.Parameter(0.02 * torch.randn(NUM_TOKENS, WIDTH))
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, norm_first=True)
        self.mask_token = nn.Parameter(torch.zeros(WIDTH))
        self.head = nn.Linear(WIDTH, 3 * PATCH[0] * PATCH[1] * PATCH[2])

    def forward(self, clip: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        weight, bias = self.patch.parameters()
        x = embed_tokens(clip, visible, weight, bias, self.position, layout="BTHWC")
        x = masked_token_scatter(self.encoder(x), visible, NUM_TOKENS, self.mask_token)
        return self.head(self.decoder(x + self.position))


def main(steps: int = 20) -> list[float]:
    """Overfit one batch of random clips; returns the losses."""
    torch.manual_seed(0)
    model = TinyMAE()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    clip = torch.randint(0, 256, (4, 8, 64, 64, 3), dtype=torch.uint8)
    everything = torch.arange(NUM_TOKENS).repeat(4, 1)
    losses = []
    for step in range(steps):
        sample = torch.arange(4) + 4 * step  # a mask is a function of (seed, sample number)
        visible = random_mask_index(sample, NUM_TOKENS, 0.75, seed=0)
        hidden = torch.ones(4, NUM_TOKENS).scatter(1, visible, 0.0)  # weight of each token in the loss
        prediction = model(clip, visible)
        loss = masked_patch_loss(prediction, clip, everything, PATCH, layout="BTHWC", weight=hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
