"""The step of training on answers whose memory is predicted.

The step is that of the recipe, on fake tensors: its captioner, parts, loss and optimizer, in one process. It leaves out
what `videomae_fast.memory.predict` does, compilation, and stochastic depth, which takes less memory. Of the language
model only config.json is read. Texts are as long as they may be, and all of their tokens but the first are answers;
clips are as many bytes as they have pixels, which is the most that the loader sends. The loss is ours, whatever
computes it in the run.
"""

import functools
import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..engine.optim import make_optimizer
from ..engine.precision import resolve_precision
from ..memory import StepPredictor
from ..memory.cache import PredictionCache
from ..memory.fake_cuda import ZeroValues
from ..models.chat_tokens import ChatTokens
from ..models.values import can_be_read
from .caption_config import CaptionConfig
from .caption_model import build_captioner_of_size
from .caption_part import Part

COMPUTED_PARTS = 2  # of many: from the second one on, all have the same peak


class CaptionStep:
    """A step as `videomae-fast caption` runs it on videos.

    Args:
        config: the settings.
        clips: see `set_batch_size`.
    """

    def __init__(self, config: CaptionConfig, clips: int = 2) -> None:
        self.config = config
        self.model = build_captioner_of_size(self.config.with_options(drop_path=0.0, attention="sdpa", loss="torch"))
        self.optimizer = make_optimizer(self.model, self.config.optimizer, undecayed=self.model.undecayed)
        self.set_batch_size(clips)

    def set_batch_size(self, batch_size: int) -> None:
        """Replace the batch.

        Args:
            batch_size: clips of a part; the parts are those of the configuration.
        """
        tower = self.model.vision_encoder.config
        self.part_size, count = batch_size, batch_size * self.config.optimizer.parts
        size = count, tower.num_frames, *tower.image_size, tower.in_channels
        self.clips = torch.zeros(*size, dtype=torch.uint8).permute(0, 4, 1, 2, 3)
        self.sample = torch.arange(count)
        self.weight = torch.ones(())
        length = self.config.language.max_tokens
        ids = torch.zeros(batch_size, length, dtype=torch.int64)
        answers = torch.arange(batch_size * length).view(batch_size, length)[:, 1:].flatten()
        place = torch.ones(batch_size, dtype=torch.int64)
        self.tokens = ChatTokens(ids, torch.ones_like(ids, dtype=torch.bool), place, answers)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        half = resolve_precision(self.config.run.precision) == "bf16"
        for number in range(min(self.config.optimizer.parts, COMPUTED_PARTS)):
            # transformers before version 5 reads from the mask whether texts have padding: it is told that they have.
            values = nullcontext() if can_be_read(self.weight) else ZeroValues()
            with (
                torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False),
                values,
            ):  # as `make_accelerator`
                part = self._part(number)
                loss = self.model(part.clips, part.tokens, part.visible).loss * part.weight
            loss.backward()
        self.optimizer.step()

    def _part(self, number: int) -> Part:
        some = slice(number * self.part_size, (number + 1) * self.part_size)
        visible = self.model.draw(self.sample[some], seed=self.config.run.seed)
        return Part(self.clips[some], self.tokens, visible, self.sample[some], self.weight)


def predictor(
    config: CaptionConfig, cache: PredictionCache | None, advance: Callable[[], Any] = lambda: None
) -> StepPredictor:
    """Predict the step of a run at any number of clips of a part.

    Args:
        config: the settings.
        cache: the cache of predictions; None predicts every time.
        advance: called after every prediction.

    Returns:
        The predictor; enter it.
    """
    key = {"step": "caption", **_deciding(config)}
    return StepPredictor(functools.partial(CaptionStep, config), key, cache, advance)


def _deciding(config: CaptionConfig) -> dict[str, Any]:
    """All options that the memory of a step depends on, as plain values."""
    sections = (config.model, config.connector, config.language)
    options = {name: value for section in sections for name, value in asdict(section).items()}
    place = Path(config.language.language_model)
    file = place / "config.json"
    if place.is_file():  # of a GGUF file, which is too long to be read for this
        status = place.stat()
        known = f"{place.resolve()} {status.st_size} {status.st_mtime_ns}".encode()
    else:
        known = file.read_bytes() if file.is_file() else b""
    return options | {
        "num_frames": config.data.num_frames,
        "image_size": config.data.image_size,
        "parts": config.optimizer.parts,
        "precision": resolve_precision(config.run.precision),
        "language_model": hashlib.sha256(known).hexdigest(),
    }
