"""`videomae-fast memory --recipe caption`: where the memory of a step goes, and the clips that fit a card."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .._optional import require
from .._text import printable
from ..interop.huggingface.language_model import language_model_dtype
from ..memory import CARDS, MemoryFigures, largest_batches
from ..memory.cache import PredictionCache
from ..memory.progress import progress_bar
from ..memory.report import draw_memory
from .caption_config import CaptionConfig
from .caption_memory import predictor

PREDICTIONS = 3  # the step, one of twice as many clips, and that of the clips that fit


@dataclass(frozen=True)
class CaptionMemory:
    """A report on a step of `caption` and one card, with a progress bar on stderr.

    Args:
        config: the settings.
        card: a key of CARDS.
        cache: the cache of predictions; None predicts every time.

    Raises:
        ValueError: there is no such card.
    """

    config: CaptionConfig
    card: str
    cache: PredictionCache | None = None

    def __post_init__(self) -> None:
        if self.card not in CARDS:
            raise ValueError(f"card must be one of {', '.join(CARDS)}, got '{self.card}'")

    def text(self, picture: Path | None = None) -> str:
        """The report as Markdown.

        Args:
            picture: also draw the memory of the step into this file.

        Returns:
            The report.

        Raises:
            ValueError: as `build_captioner_of_size`.
            TypeError: as `build_captioner_of_size`.
            ImportError: transformers, or peft for adapters, or matplotlib for a picture is missing.
            FileNotFoundError: the folder of the picture does not exist.
        """
        if picture is not None:
            require("matplotlib.figure")  # before the long part
            if not picture.resolve().parent.is_dir():
                raise FileNotFoundError(f"picture {picture}: its folder does not exist")
        clips = self.config.optimizer.batch_size
        with progress_bar(PREDICTIONS, "predictions") as advance:
            figures, fits = self._predict(clips, advance)
        title = self._title()
        sections = [
            f"{title}: a step of `caption` (forward, loss, backward, AdamW).",
            f"Predicted for a GPU, torch {torch.__version__}. Usable memory is an assumption: "
            f"{CARDS[self.card] / 2**30:.1f} GiB of {self.card}.",
            figures.table(depth=1),
            f"Clips at a time that fit {self.card}: {fits:,}",
        ]
        if picture is not None:
            draw_memory({"caption": figures}, title, picture)
            sections.append(f"Picture: {picture}")
        return "\n\n".join(sections)

    def _predict(self, clips: int, advance: Callable[[], None]) -> tuple[MemoryFigures, int]:
        with predictor(self.config, self.cache, advance) as predict:
            figures = predict(clips)
            return figures, largest_batches(predict, {self.card: CARDS[self.card]}, (clips, 2 * clips))[self.card]

    def _title(self) -> str:
        config = self.config
        language, tower = config.language, config.model.tower_config(config.data)
        folder = Path(language.language_model)
        dtype = str(language_model_dtype(folder)).removeprefix("torch.")
        adapters = f", LoRA of rank {language.lora_rank}" if language.lora_rank else ""
        parts = config.optimizer.parts
        height, width = tower.image_size
        token = f"{tower.tubelet_size}x{tower.patch_size}x{tower.patch_size}"
        return (
            f"{config.model.model} and {printable(folder.resolve().name)} ({dtype}{adapters}), "
            f"{f'{parts} parts of ' if parts > 1 else ''}{config.optimizer.batch_size} clips of "
            f"{tower.num_frames}x{height}x{width}, tokens of {token}, "
            f"train {config.model.train}, {config.run.precision}, texts of up to {language.max_tokens} tokens"
        )
