"""`videomae-fast memory --recipe contrast`: what longer clips take, and the longest that fits, for each mask ratio."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._text import printable
from ..memory import CARDS, largest_batches
from ..memory.cache import PredictionCache
from ..memory.figures import markdown_table, mib
from ..memory.progress import progress_bar
from .contrast import Contrast, ContrastConfig
from .contrast_memory import longest_clip, predictor

KNOWN_BATCHES = (64, 128)  # clips; the largest batch is extrapolated from these
PREDICTIONS = 3  # of a row, and of a longest clip: two, and the answer's own


@dataclass(frozen=True)
class LongestClips:
    """A report on one model and one card, with a progress bar on stderr.

    Args:
        options: of `ContrastConfig`, by name, that are the same in every row.
        frames: of the clips of the rows.
        mask_ratios: of the rows; each is combined with each number of frames.
        card: a key of CARDS.
        batch_size: pairs whose longest clip is wanted, besides that of one clip; None: of one clip alone.
        cache: the cache of predictions; None predicts every time.

    Raises:
        ValueError: there is no such card, the batch size is not positive, or options do not fit together.
    """

    options: dict[str, Any]
    frames: Sequence[int]
    mask_ratios: Sequence[float]
    card: str
    batch_size: int | None = None
    cache: PredictionCache | None = None

    def __post_init__(self) -> None:
        if self.card not in CARDS:
            raise ValueError(f"card must be one of {', '.join(CARDS)}, got '{self.card}'")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")
        for recipe in self._recipes():  # before the long part
            recipe.config.model.tower_config(recipe.config.data)

    def text(self) -> str:
        """The report as Markdown.

        Returns:
            The report.

        Raises:
            ValueError: as `build_sizes`.
            ImportError: transformers is missing.
        """
        batches = list(dict.fromkeys((1, *([self.batch_size] if self.batch_size else []))))
        longest = len(self.mask_ratios) * len(batches)
        with progress_bar(PREDICTIONS * (len(list(self._recipes())) + longest), "predictions") as advance:
            rows = [self._row(recipe, advance) for recipe in self._recipes()]
            found = [
                [f"{ratio:g}", *(f"{self._longest(ratio, batch, advance):,}" for batch in batches)]
                for ratio in self.mask_ratios
            ]
        header = ["frames", "mask ratio", "tokens read", "MiB for a further clip", f"clips on {self.card}"]
        of_batches = [f"{batch} clip{'s' * (batch > 1)}" for batch in batches]
        return "\n\n".join(
            (
                f"{self._title()}: a step of `contrast` (forward, loss, backward, AdamW).",
                f"Predicted for a GPU, torch {torch.__version__}. Usable memory is an assumption: "
                f"{CARDS[self.card] / 2**30:.1f} GiB of {self.card}. One clip is `--batch-size 2 --micro-batch 1`, "
                "since a pair alone has no negative.",
                markdown_table(header, rows),
                f"The longest clip on {self.card}, in frames, predicted:",
                markdown_table(["mask ratio", *of_batches], found),
            )
        )

    def _recipe(self, frames: int, ratio: float) -> Contrast:
        return Contrast(ContrastConfig.from_options(**self.options, num_frames=frames, mask_ratio=ratio))

    def _recipes(self) -> Iterator[Contrast]:
        for frames in self.frames:
            for ratio in self.mask_ratios:
                yield self._recipe(frames, ratio)

    def _row(self, recipe: Contrast, advance: Callable[[], None]) -> list[str]:
        config = recipe.config
        tokens, ratio = config.model.tower_config(config.data).num_tokens, config.masks.mask_ratio
        with predictor(recipe, None, self.cache, advance) as predict:
            low, high = (predict(batch).peak_bytes for batch in KNOWN_BATCHES)
            fits = largest_batches(predict, {self.card: CARDS[self.card]}, KNOWN_BATCHES)[self.card]
        of_clip = (high - low) // (KNOWN_BATCHES[1] - KNOWN_BATCHES[0])
        read = tokens - int(tokens * ratio)
        return [f"{config.data.num_frames}", f"{ratio:g}", f"{read:,}", mib(of_clip, 1), f"{fits:,}"]

    def _longest(self, ratio: float, clips: int, advance: Callable[[], None]) -> int:
        recipe = self._recipe(self.frames[0], ratio)
        return longest_clip(recipe, clips, CARDS[self.card], cache=self.cache, advance=advance)

    def _title(self) -> str:
        config = self._recipe(self.frames[0], self.mask_ratios[0]).config
        tower = config.model.tower_config(config.data)
        text = printable(Path(config.text.text_model).name) if config.text.text_model else "BERT-base"
        frozen = " (frozen)" if config.text.freeze_text else ""
        height, width = tower.image_size
        return (
            f"{config.model.model} and {text}{frozen}, {height}x{width}, tokens of "
            f"{tower.tubelet_size}x{tower.patch_size}x{tower.patch_size}, train {config.model.train}, "
            f"{config.run.precision}, captions of up to {config.text.max_tokens} tokens"
        )
