"""CLIP in your own training loop: embed only the visible tokens, and compare all pairs without keeping their matrix.

Model, data and loop are plain PyTorch. Two ops stand in place of `embed_then_drop` and `full_matrix_loss`, and compute
the same. A caption tells how a crop moves over real footage; clips of other seconds of the videos are held out.

Run: python examples/clip_in_your_training_code.py
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from videomae_fast.data import demo_folder, open_video
from videomae_kernels import contrastive_loss, embed_tokens, random_mask_index

FRAMES, SIZE, PATCH, WIDTH = 8, 32, (2, 8, 8), 128
NUM_TOKENS = FRAMES // 2 * (SIZE // 8) ** 2
SCENES = {"bigbuckbunny": "a rabbit on grass", "bikes": "a street", "carphone_pristine": "a man in a car"}
MOVES = {"left": (0, -2), "right": (0, 2), "up": (-2, 0), "down": (2, 0)}  # pixels (y, x) from frame to frame
CAPTIONS = [f"{scene} , the camera moves {move}".split() for scene in SCENES.values() for move in MOVES]
WORDS = ["[PAD]", *sorted({word for caption in CAPTIONS for word in caption})]
LENGTH = max(map(len, CAPTIONS))
TOKENS = torch.tensor([[WORDS.index(word) for word in (*c, *["[PAD]"] * (LENGTH - len(c)))] for c in CAPTIONS])


class YourPairs:
    """Clips and captions by sample number. `part` is "train", or "test": the last 30 % of each video."""

    def __init__(self, folder: Path, part: str) -> None:
        self.footage = []
        for name in SCENES:
            video = open_video(folder / f"{name}.mp4", short_side=64)
            border = int(0.7 * video.num_frames)
            numbers = np.arange(border) if part == "train" else np.arange(border, video.num_frames)
            self.footage.append(torch.from_numpy(video.frames(numbers)))

    def clip(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        frames = self.footage[number % len(CAPTIONS) // len(MOVES)]
        step = torch.tensor(list(MOVES.values())[number % len(MOVES)])
        first = int(torch.randint(len(frames) - FRAMES + 1, (), generator=generator))
        room = torch.tensor(frames.shape[1:3]) - SIZE - 2 * FRAMES
        middle = FRAMES + (room * torch.rand(2, generator=generator)).long()
        corners = [(middle + step * (t - FRAMES // 2)).tolist() for t in range(FRAMES)]
        return torch.stack([frames[first + t, y : y + SIZE, x : x + SIZE] for t, (y, x) in enumerate(corners)])

    def batch(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 clips (B, T, H, W, C), and the numbers (B,) of their captions."""
        return torch.stack([self.clip(number) for number in sample.tolist()]), sample % len(CAPTIONS)


class YourCLIP(nn.Module):
    """A video ViT, and the mean of embedded words. Put your encoders here, or those of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv3d(3, WIDTH, PATCH, stride=PATCH)  # holds weight and bias; called by `embed_then_drop` only
        self.position = nn.Parameter(0.1 * torch.randn(NUM_TOKENS, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.text = nn.EmbeddingBag(len(WORDS), WIDTH, padding_idx=0)
        self.scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, clips: Tensor, visible: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.encode(self.embed(clips, visible), tokens)

    def embed(self, clips: Tensor, visible: Tensor) -> Tensor:
        weight, bias = self.patch.parameters()
        return embed_tokens(clips, visible, weight, bias, self.position, layout="BTHWC")

    def encode(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        video, text = self.blocks(x).mean(1), self.text(tokens)
        return F.normalize(video, dim=1), F.normalize(text, dim=1), self.scale.exp()


def embed_then_drop(model: YourCLIP, clips: Tensor, visible: Tensor) -> Tensor:
    """What `embed_tokens` replaces: clips in float32, all of their tokens, and the visible ones of these."""
    tokens = model.patch(clips.permute(0, 4, 1, 2, 3) / 255).flatten(2).mT + model.position
    return tokens.gather(1, visible[..., None].expand(-1, -1, WIDTH))


def full_matrix_loss(video: Tensor, text: Tensor, scale: Tensor, ids: Tensor) -> Tensor:
    """What `contrastive_loss` replaces: logits of all pairs, where pairs of equal captions are positives."""
    logits = scale * video @ text.mT
    same = (ids[:, None] == ids).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.mT, target)) / 2


def loss_of_tiles(video: Tensor, text: Tensor, scale: Tensor, ids: Tensor) -> Tensor:
    # On several GPUs, wrap the model in DistributedDataParallel, give each rank its own sample numbers, and add
    # group=torch.distributed.group.WORLD: loss and averaged gradients are then those of all ranks' pairs in one batch.
    return contrastive_loss(video, text, scale, y_ids=ids)


def train(model: YourCLIP, pairs: YourPairs, steps: int, batch_size: int = 24) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    losses = []
    for step in range(steps):
        sample = torch.arange(batch_size) + batch_size * step
        clips, ids = pairs.batch(sample)
        visible = random_mask_index(sample, NUM_TOKENS, 0.75, seed=0)  # a mask is a function of (seed, sample number)
        video, text, scale = model(clips, visible, TOKENS[ids])
        loss = loss_of_tiles(video, text, scale, ids)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def accuracy(model: YourCLIP, pairs: YourPairs, count: int = 240) -> float:
    """Share of clips whose nearest caption is their own; all tokens are visible."""
    clips, ids = pairs.batch(torch.arange(count))
    video, _, _ = model(clips, torch.arange(NUM_TOKENS).expand(count, -1), TOKENS)
    _, text, _ = model(clips[:1], torch.zeros(1, 1, dtype=torch.int64), TOKENS)
    return (video @ text.mT).argmax(1).eq(ids).float().mean().item()


def largest_difference(model: YourCLIP, pairs: YourPairs) -> float:
    """Between gradients with the ops and with what they replace, as a share of the largest gradient of a parameter."""
    clips, ids = pairs.batch(torch.arange(24))
    visible = random_mask_index(torch.arange(24), NUM_TOKENS, 0.75, seed=0)
    found = []
    for embed, loss in ((YourCLIP.embed, loss_of_tiles), (embed_then_drop, full_matrix_loss)):
        features = model.encode(embed(model, clips, visible), TOKENS[ids])
        found.append(torch.autograd.grad(loss(*features, ids), list(model.parameters())))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))


def peak_mib(loss: Callable[..., Tensor], pairs: int) -> float:
    """The most that forward and backward of a loss allocate at a time, in MiB."""
    video, text = (F.normalize(torch.randn(pairs, WIDTH), dim=1).requires_grad_() for _ in range(2))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        loss(video, text, torch.tensor(10.0, requires_grad=True), torch.arange(pairs)).backward()
    live = peak = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / 2**20


def main(steps: int = 200, pairs: int = 4096) -> None:
    """Train, then compare the ops with what they replace."""
    torch.manual_seed(0)
    folder = demo_folder()
    model, clips = YourCLIP(), YourPairs(folder, "train")
    losses = train(model, clips, steps)
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    found = accuracy(model, YourPairs(folder, "test"))
    print(f"{found:.0%} of held-out clips are nearest to their own caption (chance {1 / len(CAPTIONS):.0%})")
    print(f"gradients differ by {largest_difference(model, clips):.0e} from those of the code that the ops replace")
    tiles, matrix = (peak_mib(loss, pairs) for loss in (loss_of_tiles, full_matrix_loss))
    print(f"loss of {pairs:,} pairs: {tiles:.0f} MiB at most, with the whole matrix {matrix:.0f} MiB")


if __name__ == "__main__":
    main()
