"""A mask of your own in a VideoMAE V2 step; this one keeps the tokens that move most visible.

Run: python examples/your_own_mask.py
"""

import torch

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, masks_from_bool

CONFIG = VideoMAEConfig(
    encoder_dim=96,
    encoder_depth=2,
    encoder_heads=4,
    decoder_dim=48,
    decoder_heads=2,
    decoder_depth=1,
    num_frames=8,
    image_size=(64, 64),
)


def motion_mask(clip: torch.Tensor, num_visible: int) -> torch.Tensor:
    """(B, N) bool, True = hidden; the `num_visible` tokens that change most between their two frames stay visible."""
    change = (clip[:, 1::2].float() - clip[:, ::2].float()).abs().mean(-1)  # (B, T', H, W)
    change = torch.nn.functional.avg_pool2d(change, CONFIG.patch_size).flatten(1)  # (B, N)
    return torch.ones_like(change, dtype=torch.bool).scatter(1, change.topk(num_visible, dim=1).indices, False)


def main() -> torch.Tensor:
    """Run one forward and backward pass; return the loss."""
    torch.manual_seed(0)
    clip = torch.randint(0, 256, (2, 8, 64, 64, 3), dtype=torch.uint8)
    hidden = motion_mask(clip, num_visible=8)
    plan = masks_from_bool(
        CONFIG.grid, hidden, ~hidden, num_visible=8, num_decoded=CONFIG.num_tokens - 8
    )  # decode exactly the hidden tokens
    loss = VideoMAEForPretraining(CONFIG)(clip, plan, "BTHWC")
    loss.backward()
    print(f"loss {loss.item():.3f}")
    return loss


if __name__ == "__main__":
    main()
