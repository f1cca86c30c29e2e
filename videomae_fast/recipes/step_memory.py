"""The predicted memory of a training step, as a report on our model or on several implementations.

`videomae-fast memory` reports on our model; benchmarks/memory adds the published code. The file is beside the recipes
because `PretrainingStep` and `FinetuningStep` are the steps of `pretrain` and `finetune` without their data.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

import videomae_kernels

from .._files import cache_folder
from .._optional import require
from ..masks import make_masks
from ..memory import CARDS, MemoryFigures, StepPredictor, largest_batches
from ..memory.cache import PredictionCache
from ..memory.predict import ResizableStep
from ..memory.progress import progress_bar
from ..memory.report import batches_table, breakdown_table, draw_memory, peaks_table
from ..models import CONFIGS, VideoMAEForPretraining, get_config
from ..models.families import SIZES, classifier_of, config_of_size

PACKAGES = (Path(__file__).parents[1], Path(videomae_kernels.__file__).parent)  # their sources decide our figures
KNOWN_BATCHES = (64, 128)  # the largest batch is extrapolated from these
MASK_RATIOS = (0.75, 0.9, 0.95)
DECODER_MASK_RATIOS = (0.0, 0.25, 0.5, 0.75)
OURS, CHECKPOINTED = "videomae_fast", "videomae_fast, checkpointed"
RECIPES = ("pretrain", "finetune")
NUM_CLASSES = 400  # of a predicted classifier; a class is D weights


@dataclass(frozen=True)
class StepSettings:
    """All that the memory of a step depends on, apart from the implementation and the batch size."""

    model: str  # a key of SIZES; "pretrain" has those of CONFIGS
    mask_ratio: float = 0.9
    decoder_mask_ratio: float = 0.5  # 0: no decoder mask
    precision: str = "bf16"  # "bf16" (autocast) or "fp32"
    recipe: str = "pretrain"  # one of RECIPES; "finetune" computes all tokens

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision must be one of ('bf16', 'fp32'), got '{self.precision}'")
        for name in ("mask_ratio", "decoder_mask_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {RECIPES}, got '{self.recipe}'")
        if self.recipe == "pretrain" and self.model in SIZES and self.model not in CONFIGS:
            raise ValueError(f"model {self.model} has no step of pre-training: take recipe 'finetune'")
        for name in ("mask_ratio", "decoder_mask_ratio"):
            default = type(self).__dataclass_fields__[name].default
            if self.recipe == "finetune" and getattr(self, name) != default:
                raise ValueError(
                    f"recipe 'finetune' masks nothing: leave {name} at {default}, got {getattr(self, name)}"
                )

    def __str__(self) -> str:
        if self.recipe == "finetune":
            return f"{self.precision}, all tokens, {NUM_CLASSES} classes"
        decoder = f"decoder mask ratio {self.decoder_mask_ratio}" if self.decoder_mask_ratio else "no decoder mask"
        return f"{self.precision}, mask ratio {self.mask_ratio}, {decoder}"


# Takes the name of an implementation, and returns a function that builds the step on fake tensors.
StepMaker = Callable[[str, StepSettings], Callable[[], ResizableStep]]


class PretrainingStep:
    """A step of our model as `videomae-fast pretrain` runs it; the step makes its masks.

    Args:
        name: OURS, or CHECKPOINTED for activation checkpointing.
        settings: the model, its masks and its precision.
    """

    def __init__(self, name: str, settings: StepSettings) -> None:
        self.settings = settings
        self.config = get_config(settings.model, activation_checkpointing=name == CHECKPOINTED)
        self.model = VideoMAEForPretraining(self.config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.set_batch_size(KNOWN_BATCHES[0])

    def set_batch_size(self, batch_size: int) -> None:
        """Replace the clips (B, T, H, W, 3) uint8 and their sample numbers (B,)."""
        config = self.config
        self.clip = torch.empty(
            batch_size, config.num_frames, *config.image_size, config.in_channels, dtype=torch.uint8
        )
        self.sample = torch.arange(batch_size)

    def __call__(self) -> None:
        settings = self.settings
        self.optimizer.zero_grad(set_to_none=True)
        # A step uses each weight once, so autocast's cache would only keep copies: `pretrain` disables it too.
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16", cache_enabled=False):
            plan = make_masks(
                self.sample,
                self.config.grid,
                mask_ratio=settings.mask_ratio,
                decoder_mask="running_cell" if settings.decoder_mask_ratio else "none",
                decoder_mask_ratio=settings.decoder_mask_ratio,
            )
            loss = self.model(self.clip, plan, "BTHWC")
        loss.backward()
        self.optimizer.step()


class FinetuningStep:
    """A step of our classifier as `videomae-fast finetune` runs it, with clips that were augmented and mixed.

    Args:
        name: OURS, or CHECKPOINTED for activation checkpointing.
        settings: the model and its precision.
    """

    def __init__(self, name: str, settings: StepSettings) -> None:
        self.settings = settings
        self.config = config_of_size(settings.model, activation_checkpointing=name == CHECKPOINTED)
        self.model = classifier_of(self.config, NUM_CLASSES)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.set_batch_size(KNOWN_BATCHES[0])

    def set_batch_size(self, batch_size: int) -> None:
        """Replace the clips (B, C, T, H, W) float32 and their soft targets (B, NUM_CLASSES)."""
        config = self.config
        self.clip = torch.empty(batch_size, config.in_channels, config.num_frames, *config.image_size)
        self.targets = torch.full((batch_size, NUM_CLASSES), 1 / NUM_CLASSES)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.precision == "bf16", cache_enabled=False):
            loss = F.cross_entropy(self.model(self.clip).float(), self.targets)
        loss.backward()
        self.optimizer.step()


def make_step(name: str, settings: StepSettings) -> Callable[[], ResizableStep]:
    """A function that builds the step of our model for the recipe of `settings`; a `StepMaker`."""
    return partial(FinetuningStep if settings.recipe == "finetune" else PretrainingStep, name, settings)


@dataclass(frozen=True)
class MemoryReport:
    """A report on one or more implementations of a step, with a progress bar on stderr.

    Args:
        names: the implementations, in the order of the columns.
        settings: the model, its masks and its precision, the same for all implementations.
        batch_size: clips per step of the breakdown.
        maker: returns the function that builds the step of an implementation; `StepPredictor` calls it.
        cache: the cache of predictions; None predicts every time.
        masked: the implementations whose peak the report also predicts at other mask ratios.
    """

    names: Sequence[str]
    settings: StepSettings
    batch_size: int
    maker: StepMaker = make_step
    cache: PredictionCache | None = None
    masked: Sequence[str] = ()

    def text(self, picture: Path | None = None, measured: dict[str, list[str]] | None = None) -> str:
        """The report as Markdown.

        Args:
            picture: also draw the memory of the steps into this file.
            measured: rows to add below the predicted peak; see `breakdown_table`.

        Returns:
            The report.

        Raises:
            ValueError: the batch size is not positive, or an argument of the model or the masks is wrong.
            ImportError: `picture` is given, and matplotlib is missing.
            FileNotFoundError: the folder of the picture does not exist.
        """
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")
        if picture is not None:
            require("matplotlib.figure")  # before the long part
            if not picture.resolve().parent.is_dir():
                raise FileNotFoundError(f"picture {picture}: its folder does not exist")
        config, variations = config_of_size(self.settings.model), dict(self._variations())
        predictions = len(self.names) * len({self.batch_size, *KNOWN_BATCHES, *CARDS.values()})
        with progress_bar(predictions + len(variations) * len(self.masked), "predictions") as advance:
            figures, largest = self._predict(advance)
            peaks = {
                title: {name: self._peak(name, settings, advance) for name in self.masked}
                for title, settings in variations.items()
            }
        clip = f"{config.num_frames}x{config.image_size[0]}x{config.image_size[1]}"
        model = f"ViT-{self.settings.model}" if self.settings.model in CONFIGS else self.settings.model
        title = f"{model}, {self.batch_size} clips of {clip}, {self.settings}"
        sections = [
            f"{title}: peak memory of a training step (forward, loss, backward, AdamW).",
            f"Predicted for a GPU, torch {torch.__version__}; rows that say measured are not. In MiB."
            if measured
            else f"Predicted for a GPU, torch {torch.__version__}. In MiB.",
            breakdown_table(figures, measured),
            "Largest batch, predicted (usable memory is an assumption):",
            batches_table(largest),
        ]
        if peaks:
            sections += ["Effect of the masks on the peak, predicted, MiB:", peaks_table(peaks)]
        if picture is not None:
            draw_memory(figures, title, picture)
            sections.append(f"Picture: {picture}")
        return "\n\n".join(sections)

    def _predict(self, advance: Callable[[], None]) -> tuple[dict[str, MemoryFigures], dict[str, dict[str, int]]]:
        figures, largest = {}, {}
        for name in self.names:
            with self._predictor(name, self.settings, advance) as predict:
                figures[name] = predict(self.batch_size)
                largest[name] = largest_batches(predict, CARDS, KNOWN_BATCHES)
        return figures, largest

    def _peak(self, name: str, settings: StepSettings, advance: Callable[[], None]) -> int:
        with self._predictor(name, settings, advance) as predict:
            return predict(self.batch_size).peak_bytes

    def _predictor(self, name: str, settings: StepSettings, advance: Callable[[], None]) -> StepPredictor:
        key = {"step": name, **asdict(settings)}
        return StepPredictor(self.maker(name, settings), key, self.cache, advance)

    def _variations(self) -> Iterator[tuple[str, StepSettings]]:
        """Other mask ratios, by the title of their row."""
        if self.masked and self.settings.recipe == "pretrain":
            for ratio in MASK_RATIOS:
                yield f"mask ratio {ratio}", replace(self.settings, mask_ratio=ratio)
            for ratio in DECODER_MASK_RATIOS:
                title = f"decoder mask ratio {ratio}" if ratio else "no decoder mask"
                yield title, replace(self.settings, decoder_mask_ratio=ratio)


def open_cache(packages: Sequence[Path] = PACKAGES) -> PredictionCache:
    """Open the user's cache of predictions; a change of the sources in `packages` makes its entries stale."""
    return PredictionCache(cache_folder("memory"), packages)
