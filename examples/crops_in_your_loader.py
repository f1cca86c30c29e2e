"""Your Dataset, DataLoader and ViT: workers send frames and crop boxes, and the ops make only the listed patches.

Run: python examples/crops_in_your_loader.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from videomae_kernels import CroppedClips, crop_clips, embed_tokens, masked_patch_loss, tube_mask_gather

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, PATCH, NUM_TOKENS, WIDTH = (64, 64), (2, 16, 16), 64, 96  # 64 patches in a clip of 8 x 64 x 64
Item = tuple[Tensor, list[tuple[list[int], bool]]]  # frames; for each clip its box (top, left, height, width) and flip


class YourVideos(Dataset[Item]):
    def __init__(self, videos: list[Tensor]) -> None:
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, number: int) -> Item:
        frames = self.videos[number]  # decode here: uint8 (8, height, width, 3); sizes may differ
        whole, flipped = torch.tensor(frames.shape[1:3]), torch.rand(4) < 0.5
        sides = (whole * (0.5 + 0.5 * torch.rand(4, 2))).long()
        corners = ((whole - sides + 1) * torch.rand(4, 2)).long()
        return frames, list(zip(torch.cat([corners, sides], 1).tolist(), flipped.tolist(), strict=True))


def collate(items: list[Item]) -> CroppedClips:
    crops = [(number, box, flipped) for number, (_, drawn) in enumerate(items) for box, flipped in drawn]
    video, boxes, flips = zip(*crops, strict=True)
    return crop_clips([frames for frames, _ in items], video, boxes, flips, SIZE)


class TinyMAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv3d(3, WIDTH, PATCH, stride=PATCH)  # holds weight and bias; never called
        self.position = nn.Parameter(0.02 * torch.randn(NUM_TOKENS, WIDTH))
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, norm_first=True)
        self.head = nn.Linear(WIDTH, self.patch.weight[0].numel())

    def forward(self, clips: CroppedClips, visible: Tensor, hidden: Tensor) -> Tensor:
        weight, bias = self.patch.parameters()
        x = embed_tokens(clips, visible, weight, bias, self.position, normalize=IMAGENET)
        prediction = self.head(self.encoder(x).mean(1, keepdim=True) + self.position[hidden])  # your decoder
        return masked_patch_loss(prediction, clips, hidden, PATCH)


def main(videos: list[Tensor]) -> None:
    """Run forward and backward for each batch, then compare a crop that the ops resize with F.interpolate."""
    torch.manual_seed(0)
    model = TinyMAE().to(DEVICE)
    for batch in DataLoader(YourVideos(videos), 4, collate_fn=collate, pin_memory=DEVICE.type == "cuda"):
        clips = batch.to(DEVICE, non_blocking=True)  # after DataLoader has called batch.pin_memory()
        tokens = torch.rand(clips.shape[0], NUM_TOKENS, device=DEVICE).argsort(1)  # a random order for each clip
        loss = model(clips, visible=tokens[:, :16], hidden=tokens[:, 16:])
        loss.backward()
        print(f"loss {loss:.3f}, {clips.nbytes:,} bytes sent, {4 * torch.Size(clips.shape).numel():,} as float32 clips")
    ours = crop_clips(videos[:1], [0], [(8, 16, 48, 80)], [False], SIZE)
    plain = F.interpolate(videos[0][:, 8:56, 16:96].permute(3, 0, 1, 2) / 255, SIZE, mode="bilinear", antialias=True)
    sampled, expected = (tube_mask_gather(clip.to(DEVICE), tokens[:1], PATCH) for clip in (ours, plain[None]))
    print(f"largest difference from F.interpolate {(sampled - expected).abs().max():.1e}")


if __name__ == "__main__":
    main([torch.randint(0, 256, (8, height, 112, 3), dtype=torch.uint8) for height in (72, 96, 128)])
