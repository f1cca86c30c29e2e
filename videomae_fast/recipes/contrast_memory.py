"""The step of contrastive pre-training whose memory is predicted, and the longest clip that fits.

The step is the recipe's own, on fake tensors: its towers, parts, losses and optimizer, in one process whatever group
the recipe has: other processes' features are small, n · E numbers, but not the tokens that negatives "global" gathers.
It leaves out what `videomae_fast.memory.predict` does, compilation, and stochastic depth, which takes less memory.
Captions are as long as they may be, and clips are as many bytes as they have pixels, which is the most that the loader
sends.
"""

import functools
import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.captioned import CaptionTokens
from ..data.sound.clip import NUM_MELS, NUM_WINDOWS
from ..engine.optim import make_optimizer
from ..engine.precision import resolve_precision
from ..memory import MemoryFigures, StepPredictor, largest_batches
from ..memory.cache import PredictionCache
from ..memory.fake_cuda import ZeroValues
from ..models.dual_encoder import PairFeatures
from ..models.fusion import FusionOutput
from ..models.values import can_be_read
from ..models.video_tower import VideoRows
from .contrast_config import ContrastConfig
from .contrast_part import Part
from .contrast_towers import audio_config, build_sizes

if TYPE_CHECKING:
    from .contrast import Contrast

# Tokens in time; the longest clip is on the line through these. They are many, so that the rounding of each storage to
# blocks does not count; a prediction of many takes no longer than one of few.
KNOWN_LENGTHS = (512, 1024)
COMPUTED_PARTS = 2  # of many: from the second one on, all have the same peak


class ContrastStep:
    """A step as `videomae-fast contrast` runs it on videos.

    Args:
        recipe: of the settings; it need not be built.
        pairs: pairs of the batch, whose towers run on `clips` of them at a time. None: on all of them at once; a batch
            of one clip is then two pairs whose towers run on one at a time, since a pair alone has no negative.
        clips: see `set_batch_size`.
    """

    def __init__(self, recipe: "Contrast", pairs: int | None = None, clips: int = 2) -> None:
        self.recipe, self.config, self.pairs = recipe, recipe.config, pairs
        self.model = build_sizes(self.config.with_options(drop_path=0.0, attention="sdpa"))
        self.optimizer = make_optimizer(self.model, self.config.optimizer, undecayed=self.model.undecayed)
        self.set_batch_size(clips)

    def set_batch_size(self, batch_size: int) -> None:
        """Replace the batch.

        Args:
            batch_size: pairs that the towers run on at a time.
        """
        config, model, tower = self.config, self.model, self.model.vision_encoder
        pairs = max(2, batch_size) if self.pairs is None else self.pairs
        self.part_size = min(batch_size, pairs)
        self.sample = torch.arange(pairs)
        self.clips, self.video = None, None
        if config.model.video_features:
            tokens = tower.config.num_tokens + hasattr(tower, "cls_token") if config.fusion.fusion_layers else 0
            rows = torch.zeros(pairs, tokens, tower.token_dim)
            self.video = VideoRows(rows, torch.zeros(pairs, tower.feature_dim))
        else:
            size = tower.config.num_frames, *tower.config.image_size, tower.config.in_channels
            self.clips = torch.zeros(pairs, *size, dtype=torch.uint8).permute(0, 4, 1, 2, 3)
        self.sound = torch.zeros(pairs, NUM_WINDOWS, NUM_MELS) if self.recipe.hears else None
        self.text, self.captions = None, None
        if config.text.freeze_text:
            self.text = torch.zeros(pairs, model.embed_dim)
        else:
            length = min(config.text.max_tokens, model.text_encoder.max_length)
            ids = torch.zeros(pairs, length, dtype=torch.int64)
            self.captions = CaptionTokens(ids, torch.ones_like(ids, dtype=torch.bool))

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        parts, recipe = self._parts(), self.recipe
        if len(parts) > 1:
            with torch.no_grad():
                found = [self._encode(part, fuse=False) for part in parts[:COMPUTED_PARTS]]
            found += [_blank(found[0], len(part.sample)) for part in parts[COMPUTED_PARTS:]]
            parts = recipe.losses.share(parts, found)[:COMPUTED_PARTS]
            del found
        for part in parts:
            loss, _ = recipe.losses(self._encode(part, recipe.fuses), part)
            loss.backward()
        self.optimizer.step()

    def _encode(self, part: Part, fuse: bool) -> FusionOutput:
        half = resolve_precision(self.config.run.precision) == "bf16"
        # transformers before version 5 reads from the mask whether captions have padding: it is told that they have.
        values = nullcontext() if can_be_read(part.sample) else ZeroValues()
        with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False), values:  # as `make_accelerator`
            return self.recipe.encode(self.model, part, fuse)

    def _parts(self) -> list[Part]:
        """All parts of the batch, with the tokens that each sees, as `Contrast.parts` holds them."""
        ratio, tower, seed = self.config.masks.mask_ratio, self.model.vision_encoder, self.config.run.seed
        parts = []
        for begin in range(0, len(self.sample), self.part_size):
            some = slice(begin, begin + self.part_size)
            sample = self.sample[some]
            parts.append(
                Part(
                    clips=None if self.clips is None else self.clips[some],
                    video=None if self.video is None else VideoRows(*(rows[some] for rows in self.video)),
                    visible=tower.draw(sample, ratio, seed=seed) if ratio else None,
                    captions=None if self.captions is None else CaptionTokens(*(x[some] for x in self.captions)),
                    text=None if self.text is None else self.text[some],
                    video_id=sample,
                    caption_id=sample,
                    sample=sample,
                    pair_ids=sample if self.recipe.fuses else None,
                    numbers=sample,
                    sound=None if self.sound is None else self.sound[some],
                )
            )
        return parts


def _blank(like: FusionOutput, pairs: int) -> FusionOutput:
    """Zeros in place of the features of a part."""
    first = like.pairs
    video, text = (first.video.new_zeros(pairs, first.video.shape[1]) for _ in range(2))
    sound = None if like.sound is None else _blank(like.sound, pairs)
    return FusionOutput(PairFeatures(video, text, first.scale, first.bias), sound=sound)


Advance = Callable[[], Any]  # called after every prediction


def predictor(
    recipe: "Contrast", pairs: int | None, cache: PredictionCache | None, advance: Advance = lambda: None
) -> StepPredictor:
    """Predict the step of a recipe at any number of clips.

    Args:
        recipe: of the settings; its group is not used.
        pairs: as `ContrastStep` takes them.
        cache: the cache of predictions; None predicts every time.
        advance: called after every prediction.

    Returns:
        The predictor; enter it.
    """
    alone = type(recipe)(recipe.config)
    key = {"step": "contrast", "pairs": pairs, **_deciding(alone.config)}
    return StepPredictor(functools.partial(ContrastStep, alone, pairs), key, cache, advance)


def longest_clip(
    recipe: "Contrast",
    clips: int,
    usable: int,
    *,
    pairs: int | None = None,
    cache: PredictionCache | None = None,
    advance: Advance = lambda: None,
    known: tuple[int, int] = KNOWN_LENGTHS,
) -> int:
    """Find the longest clips that fit, by the line that the memory of a step follows over the tokens in time.

    Args:
        recipe: of the settings; its number of frames is not used.
        clips: that the towers run on at a time.
        usable: bytes of the card.
        pairs: as `ContrastStep` takes them.
        cache: as `predictor` takes it.
        advance: called after every prediction.
        known: the two numbers of tokens in time that give the line.

    Returns:
        Frames; 0 if not even one token in time fits.
    """
    tubelet: int = recipe.config.model.tower_config(recipe.config.data).tubelet_size

    @functools.cache
    def predict(length: int) -> MemoryFigures:
        changed = type(recipe)(recipe.config.with_options(num_frames=tubelet * length))
        with predictor(changed, pairs, cache, advance) as predict:
            return predict(clips)

    return tubelet * largest_batches(predict, {"card": usable}, known)["card"]


def _deciding(config: ContrastConfig) -> dict[str, Any]:
    """All options that the memory of a step depends on, as plain values."""
    sections = (config.masks, config.model, config.text, config.loss, config.fusion)
    options = {name: value for section in sections for name, value in asdict(section).items()}
    file = Path(config.text.text_model) / "config.json"
    text = file.read_bytes() if config.text.text_model and file.is_file() else b""
    return options | {
        "num_frames": config.data.num_frames,
        "image_size": config.data.image_size,
        "precision": resolve_precision(config.run.precision),
        "audio_model": str(audio_config(config) or ""),
        "text_model": hashlib.sha256(text).hexdigest(),
    }
