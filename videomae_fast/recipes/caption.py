"""Training a language model's answers about videos: a video tower, a connector, and a language model that is frozen.

File structure:
    Captioning       the recipe: build, batches, parts, step, evaluate
    caption          train with a configuration
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._text import printable, printable_lines
from ..data import InstructedVideos, Mixture
from ..data.captioned import CaptionedBatch
from ..engine.loop import RunResult, run
from ..engine.optim import make_optimizer
from ..engine.recipe import Recipe
from ..interop.captioner import SETTINGS, captioner_settings
from ..models import stochastic_depth
from ..models.captioner import CaptionLoss
from ..models.chat_tokens import ChatTokens
from .caption_config import CaptionConfig
from .caption_fit import fit_caption
from .caption_model import build_captioner
from .caption_part import Part
from .contrast_videos import EvaluationPairs, TrainingPairs
from .fit import use_fastest_attention
from .ranks import check_equal, process_group
from .videos import CHEAPER_VIDEOS


class Captioning(Recipe):
    """The recipe of training on answers. A sample is a video or an image, and a caption or a conversation.

    loss = Σ over answer tokens w of all parts and processes of −log p(w) / their number
    """

    name = "caption"
    cheaper = CHEAPER_VIDEOS

    def __init__(self, config: CaptionConfig) -> None:
        self.config, self.workers = config, config.data.workers
        self.unanswered = 0  # texts of which all answers were cut

    def build(self, device: torch.device, say: Callable[[str], None]) -> tuple[nn.Module, Optimizer]:
        """Make data sets, model and optimizer."""
        config, seed = self.config, self.config.run.seed
        self.group = process_group()
        check_equal(config.optimizer.samples, "batch_size x accumulate", device, self.group)
        kinds = config.data.pairs(config.data.data)
        eval_kinds = config.data.pairs(config.data.eval_data) if config.run.eval_every else (None, None)
        use_fastest_attention(config.model.attention, device, say)
        fitted = replace(config, model=fit_caption(self, device, say))
        model, self.texts, self.folder = build_captioner(fitted, say)
        if kinds[1] is not None or eval_kinds[1] is not None:
            model.vision_encoder.check_images()
        self._check_conversations([kind for kind in (*kinds, *eval_kinds) if kind is not None])
        if note := config.run.initialize(model):
            say(printable_lines(note))
        self.videos = TrainingPairs(config.data.datasets(kinds, seed), None, config.data, Path(config.run.output))
        world_size = self.group.size() if self.group else 1
        per_epoch = self.videos.steps_per_epoch(config.optimizer.samples, world_size)
        self.samples_per_epoch = per_epoch * config.optimizer.samples * world_size
        if config.run.eval_every:
            datasets = config.data.datasets(eval_kinds, seed, max_replacements=0)
            self.eval_videos = EvaluationPairs(datasets, config.optimizer.batch_size, config.data.workers, None)
        if config.model.compile:
            model.vision_encoder.compile()
        self.model = model
        return model, make_optimizer(model, config.optimizer, undecayed=model.undecayed)

    def _check_conversations(self, kinds: Sequence[Mixture]) -> None:
        """Make sure that the tokenizer writes conversations, by the first of each source."""
        folder = printable(self.config.language.language_model)
        for source in (source for kind in kinds for source in kind.sources):
            if not isinstance(source.annotations, InstructedVideos):
                continue
            if not self.texts.has_chat:
                raise ValueError(
                    f"the tokenizer in {folder} has no chat template, by which conversations become texts: take the "
                    "language model of an instruction model, or train on captions"
                )
            first = source.annotations.captioned(0)
            try:
                self.texts.encode(first.captions)
            except ValueError as error:
                raise ValueError(f"the conversation about {printable(first.name)} and {folder}: {error}") from error

    def order(self, samples_per_step: int) -> dict[str, Any]:
        """See `TrainingPairs.order`. A run only continues with the same language model, too."""
        return self.videos.order(samples_per_step) | {"language_model": self.folder.digest}

    def batches(
        self, rank: int, world_size: int, start_step: int, num_steps: int
    ) -> Generator[CaptionedBatch, None, None]:
        """See `TrainingVideos.batches`."""
        return self.videos.batches(self.config.optimizer.samples, rank, world_size, start_step, num_steps)

    def parts(self, batch: CaptionedBatch, count: int, device: torch.device) -> list[Part]:
        """Make the texts, move clips and texts to the device, and weigh parts by their answer tokens."""
        size = len(batch.texts) // count
        texts = [self.texts.encode(batch.texts[begin:][:size]) for begin in range(0, len(batch.texts), size)]
        self.videos.count(replace(batch, cut=sum(each.cut for each in texts)))
        self.unanswered += sum(each.unanswered for each in texts)
        total = torch.tensor(float(sum(len(each.answers) for each in texts)), device=device)
        scale = 1.0
        if self.group is not None:  # processes average their gradients
            torch.distributed.all_reduce(total, group=self.group)
            scale = float(self.group.size())
        total.clamp_(min=1.0)  # of no answer at all
        pieces, numbers = batch.to(device, non_blocking=True).split(count), batch.sample.chunk(count)
        return [
            self._part(piece, tokens, host, scale * len(tokens.answers) / total)
            for piece, tokens, host in zip(pieces, texts, numbers, strict=True)
        ]

    def _part(self, piece: Any, tokens: ChatTokens, numbers: Tensor, weight: Tensor) -> Part:
        visible = self.model.draw(piece.sample, seed=self.config.run.seed, image=piece.is_image)
        if not len(tokens.answers):  # all were cut: any token, of weight 0, so that processes stay together
            tokens = replace(tokens, answers=torch.ones(1, dtype=torch.int64))
        return Part(piece.clips, tokens.to(weight.device), visible, numbers, weight)

    def step(self, model: nn.Module, part: Part, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """What the part contributes to the loss of the step."""
        with stochastic_depth(seed=self.config.run.seed, step=number, sample=part.numbers):
            found: CaptionLoss = model(part.clips, part.tokens, part.visible)
        return found.loss * part.weight, {}

    def evaluate(self, model: nn.Module, rank: int, world_size: int) -> dict[str, Tensor]:
        """The mean loss of all answer tokens of `eval_data`: one clip and caption of each entry.

        Crops, masks and captions depend on the seed and the entry's place in the list only.
        """
        device = next(model.parameters()).device
        total = torch.zeros(2, dtype=torch.float64, device=device)
        one = torch.ones((), device=device)
        for batch, counts in self.eval_videos.batches(rank, world_size):
            tokens = self.texts.encode(batch.texts if counts else ("no video",) * len(batch.texts))
            part = self._part(batch.to(device, non_blocking=True), tokens, batch.sample, one)
            found: CaptionLoss = model(part.clips, part.tokens, part.visible)
            if counts:
                total += torch.stack([found.loss.double(), one.double()]) * len(tokens.answers)
        return {"loss": total}

    def files(self) -> dict[str, str]:
        """What tells `load_captioner` what the weights of a checkpoint are of."""
        return {SETTINGS: captioner_settings(self.model, self.folder)}

    def report(self) -> list[str]:
        """See `TrainingPairs.report`; also how many texts had no answer left."""
        lines = [f"of {self.unanswered} texts nothing was learnt: their questions fill max_tokens"]
        return self.videos.report() + (lines if self.unanswered else [])


def caption(config: CaptionConfig) -> RunResult:
    """Train to the end, to `max_steps`, or until SIGTERM or Ctrl-C; each of the three leaves a checkpoint.

    Args:
        config: the run, for example `CaptionConfig.from_options(data="captions.tsv", language_model="smollm2",
            init="runs/pairs", output="runs/captioner")`.

    Returns:
        The last checkpoint and its step. `load_captioner` reads the checkpoint.

    Raises:
        ValueError: settings, captions, conversations, weights, language model or output cannot work.
        TypeError: the language model or its tokenizer is of a kind that cannot be used.
        ImportError: transformers or, for adapters, peft is missing.
        NonFiniteLossError: the loss or a weight became NaN or infinite.
        UnreadableVideosError: too many videos cannot be read.
        OSError: the disk is full or broken, or a data-loading process died; the message names the last checkpoint.
    """
    return run(Captioning(config))
