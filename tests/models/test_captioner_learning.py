"""A captioner learns the colours of squares: held-out clips, both injections, and a control with other clips."""

import pytest
import torch
from torch import Tensor

from tests.models.chatting import language_model, tokenizer
from videomae_fast import VideoMAEConfig
from videomae_fast.models import (
    MeanPoolMLP,
    PerceiverResampler,
    VideoCaptioner,
    VideoTransformer,
    begin_captions,
    encode_captions,
)

SIZE = VideoMAEConfig(48, 2, 4, 12, 3, patch_size=8, num_frames=2, image_size=(32, 32))
COLOURS = ("red", "green", "yellow", "blue", "magenta", "cyan", "white")  # by the bits of their channels
TEXTS = [f"A {colour} square." for colour in COLOURS]
TOKENIZER = tokenizer(texts=TEXTS, size=400)  # a word is a token


def films(count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Squares somewhere in noise, and their captions, of which there are seven."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randint(0, 60, (count, 3, 2, 32, 32), dtype=torch.uint8, generator=generator)
    captions = []
    for film in clip:
        number, x, y = (int(torch.randint(n, (), generator=generator)) for n in (7, 16, 16))
        for channel in range(3):
            film[channel, :, y : y + 16, x : x + 16] += 160 * ((number + 1) >> channel & 1)
        captions.append(TEXTS[number])
    return clip, captions


def right(model: VideoCaptioner, clip: Tensor, captions: list[str]) -> float:
    """The share of captions that are exactly right."""
    begin = begin_captions(TOKENIZER, len(captions))
    visible = model.draw(torch.arange(len(captions)), seed=9)
    answers = model.eval().generate(clip, begin, visible, max_new_tokens=24, do_sample=False)
    said = TOKENIZER.batch_decode(answers, skip_special_tokens=True)
    return sum(ours == theirs for ours, theirs in zip(said, captions, strict=True)) / len(captions)


def train(injection: str, steps: int, *, sees: bool = True, lr: float = 3e-3) -> tuple[float, float]:
    """The last loss, and the share of held-out captions that are exactly right."""
    torch.manual_seed(0)
    tower = VideoTransformer(SIZE)
    connector = (
        MeanPoolMLP(48, 64, rows=2) if injection == "prefix" else PerceiverResampler(48, latents=4, depth=1, heads=4)
    )
    sizes = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.1, "vocab_size": 400}
    model = VideoCaptioner(tower, connector, language_model(**sizes), injection=injection, mask_ratio=0.1)
    model.train_video("all")
    model.language_model.requires_grad_(True)  # it is random, and knows no word yet
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    losses = []
    for step in range(steps):
        clip, captions = films(32, 1000 + step)
        visible = model.draw(torch.arange(32) + 32 * step, seed=1)
        shown = clip if sees else clip.roll(1, 0)
        loss = model(shown, encode_captions(TOKENIZER, captions), visible).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses[-1], right(model, *films(96, 1))


@pytest.mark.slow
@pytest.mark.parametrize("injection", ["prefix", "cross-attention"])
def test_colours_are_learnt(injection: str) -> None:
    loss, share = train(injection, 100)
    assert loss < 0.1 and share > 0.9, (loss, share)


@pytest.mark.slow
def test_a_captioner_of_other_videos_is_at_chance() -> None:
    loss, share = train("prefix", 100, sees=False)
    assert loss > 0.35 and share < 0.3, (loss, share)  # ln(7) / 5 tokens is 0.39; chance is 0.14
