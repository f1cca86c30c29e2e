"""The whole step learns: it soon overfits a fixed batch with fixed masks."""

import torch

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, make_masks


def test_a_fixed_batch_is_learnt() -> None:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        encoder_dim=96,
        encoder_depth=2,
        encoder_heads=3,
        decoder_dim=96,
        decoder_heads=3,
        decoder_depth=2,
        patch_size=8,
        num_frames=8,
        image_size=(32, 32),
    )
    model = VideoMAEForPretraining(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    clip = torch.randint(0, 256, (2, 8, 32, 32, 3), dtype=torch.uint8)  # noise: only memory can predict it
    plan = make_masks(torch.arange(2), config.grid, mask_ratio=0.75)
    losses = []
    for _ in range(100):
        loss = model(clip, plan, "BTHWC")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1 and losses[-1] < 0.5
