"""A model computes the same from crop boxes as from the resized clips."""

import torch

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, make_masks
from videomae_kernels import crop_clips

CONFIG = VideoMAEConfig(24, 2, 3, 16, 2, decoder_depth=2, num_frames=4, image_size=(32, 48), patch_size=8)


def test_loss_and_gradients() -> None:
    torch.manual_seed(0)
    sources = [torch.randint(0, 256, (4, *size, 3), dtype=torch.uint8) for size in ((40, 60), (70, 50))]
    boxes = [(4, 6, 32, 48), (0, 10, 40, 48), (3, 2, 60, 45)]
    clips = crop_clips(sources, [0, 0, 1], boxes, [False, True, False], CONFIG.image_size)
    model = VideoMAEForPretraining(CONFIG)
    plan = make_masks(torch.arange(3), CONFIG.grid, mask_ratio=0.7)

    shown = []
    for number, (top, left, height, width), flipped in zip([0, 0, 1], boxes, [False, True, False], strict=True):
        crop = sources[number][:, top : top + height, left : left + width].permute(0, 3, 1, 2).double()
        frames = torch.nn.functional.interpolate(crop, CONFIG.image_size, mode="bilinear", antialias=True)
        shown.append((frames.flip(3) if flipped else frames).transpose(0, 1) / 255)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (CONFIG.pixel_mean, CONFIG.pixel_std))
    clip = ((torch.stack(shown) - mean) / std).float()

    losses, gradients = [], []
    for given in (clips, clip):
        model.zero_grad()
        loss = model(given, plan)
        loss.backward()
        losses.append(loss.detach())
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6)
