"""Contrastive pre-training of a video tower and a text tower, on the tokens that masks keep.

File structure:
    Contrast         the recipe: build, batches, parts, step, evaluate
    contrast         train with a configuration
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._text import printable_lines
from ..data.captioned import CaptionedBatch, positive_ids
from ..engine.checkpoint import list_checkpoints
from ..engine.loop import RunResult, run
from ..engine.optim import make_optimizer
from ..engine.recipe import Recipe
from ..interop.audio_tower import AUDIO_FILE
from ..models import AudioVideoTextModel, stochastic_depth
from ..models.dual_encoder import PairFeatures, VideoTextModel
from ..models.fusion import FusionOutput
from .contrast_config import ContrastConfig
from .contrast_fit import fit_contrast
from .contrast_kept_video import KeptVideo
from .contrast_losses import ContrastLosses
from .contrast_negatives import NegativeCounts, check_lists, check_sizes, pairs_differ
from .contrast_part import Part
from .contrast_text import KeptText
from .contrast_towers import build_towers, choose_trained, saved_audio_config
from .contrast_videos import EvaluationPairs, TrainingPairs
from .fit import use_fastest_attention
from .ranks import check_equal, gather_rows, gather_uneven, process_group
from .recall import recalls
from .videos import CHEAPER_VIDEOS


class Contrast(Recipe):
    """The recipe of contrastive pre-training. A sample is a pair: a video or an image, and a caption."""

    name = "contrast"
    cheaper = CHEAPER_VIDEOS

    def __init__(self, config: ContrastConfig) -> None:
        self.config, self.group = config, None
        self.workers, self.ema_decay = config.data.workers, config.optimizer.ema_decay
        self.fuses = config.fusion.fusion_layers > 0
        self.hears = bool(config.audio.audio_model)
        self.losses = ContrastLosses(config, None)
        self.numbers = self.losses.names

    def build(self, device: torch.device, say: Callable[[str], None]) -> tuple[nn.Module, Optimizer]:
        """Make data sets, model and optimizer, and the features of a frozen text tower."""
        config, self.device, seed = self.config, device, self.config.run.seed
        self.group = process_group()
        self.losses = ContrastLosses(config, self.group)
        world_size = self.group.size() if self.group else 1
        check_equal(config.optimizer.batch_size, "batch_size", device, self.group)
        check_sizes(config, world_size)
        kinds = config.data.pairs(config.data.data)
        check_lists(kinds, config.data.data)
        self.negatives = NegativeCounts()
        eval_kinds = config.data.pairs(config.data.eval_data) if config.run.eval_every else (None, None)
        use_fastest_attention(config.model.attention, device, say)
        fitted = replace(config, model=fit_contrast(self, device, say))
        model, self.tokenizer = build_towers(fitted, say, saved_audio_config(config))
        if kinds[1] is not None or eval_kinds[1] is not None:
            model.vision_encoder.check_images()
        if note := self._start(model):
            say(printable_lines(note))
        choose_trained(model, config.model.train, config.text.freeze_text)
        self.kept = None
        if config.text.freeze_text:
            self.kept = KeptText(config.text, Path(config.run.output), config.run.precision)
            mixtures = [mixture for mixture in (*kinds, *eval_kinds) if mixture is not None]
            self.kept.prepare(mixtures, model.to(device), self.tokenizer, say)
        tokens = None if self.kept else self.tokenizer
        self.kept_video = None
        if config.model.video_features:
            self.kept_video = KeptVideo(config)
            self.kept_video.prepare(kinds, model.to(device), say)
        datasets = (
            self.kept_video.datasets(kinds)
            if self.kept_video
            else config.data.datasets(kinds, seed, with_sound=self.hears)
        )
        self.videos = TrainingPairs(datasets, tokens, config.data, Path(config.run.output))
        per_epoch = self.videos.steps_per_epoch(config.optimizer.batch_size, world_size)
        self.samples_per_epoch = per_epoch * config.optimizer.batch_size * world_size
        if config.run.eval_every:
            eval_datasets = config.data.datasets(eval_kinds, seed, max_replacements=0)
            self.eval_videos = EvaluationPairs(eval_datasets, config.optimizer.part_size, config.data.workers, tokens)
        if config.model.compile:
            model.vision_encoder.compile()
        self.model = model
        optimizer = make_optimizer(model, config.optimizer, undecayed=model.undecayed)
        optimizer.register_step_post_hook(lambda *_: model.limit_temperature())
        return model, optimizer

    def _start(self, model: VideoTextModel) -> str:
        """Load weights, also those of a frozen tower whose features a continued run keeps."""
        run = self.config.run
        saved = list_checkpoints(Path(run.output)) if run.resume else []
        if saved and (self.config.text.freeze_text or self.config.model.video_features):
            self.config.check_continues(saved[-1] / "config.json")
            replace(run, init=str(saved[-1]), init_partial=False, resume=False).initialize(model)
        return run.initialize(model)

    def order(self, samples_per_step: int) -> dict[str, Any]:
        """See `TrainingPairs.order`. A run only continues with the same frozen towers, too."""
        towers = {"text": self.kept, "video": self.kept_video}
        digests = {name: kept.digest for name, kept in towers.items() if kept is not None}
        return self.videos.order(samples_per_step) | digests

    def files(self) -> dict[str, str]:
        """The sizes of the audio tower, so that the file of BEATs is not needed to read or to continue the run."""
        if not isinstance(self.model, AudioVideoTextModel):
            return {}
        return {AUDIO_FILE: json.dumps(asdict(self.model.audio_encoder.config), indent=0) + "\n"}

    def batches(
        self, rank: int, world_size: int, start_step: int, num_steps: int
    ) -> Generator[CaptionedBatch, None, None]:
        """See `TrainingVideos.batches`."""
        return self.videos.batches(self.config.optimizer.samples, rank, world_size, start_step, num_steps)

    def parts(self, batch: CaptionedBatch, count: int, device: torch.device) -> list[Part]:
        """Move clips to the device and draw their tokens. Of several parts, learn what each contributes to the loss."""
        self.videos.count(batch)
        parts = list(self._parts(batch, count, device, self.fuses, self.kept_video))
        self.negatives.add(parts, self.group, self.fuses)
        if count == 1:
            return parts
        with torch.no_grad():
            found = [self._features(self.model, part) for part in parts]
        return self.losses.share(parts, found)

    def _parts(
        self, batch: CaptionedBatch, count: int, device: torch.device, fuse: bool, kept_video: KeptVideo | None
    ) -> Iterator[Part]:
        numbers, ratio = batch.sample.chunk(count), self.config.masks.ratio(batch.is_image)
        ids = torch.stack([batch.video_id, batch.caption_id]).to(device, non_blocking=True).chunk(count, dim=1)
        text = self.kept.rows(batch.caption_id).to(device, non_blocking=True).chunk(count) if self.kept else None
        moved = batch.to(device, non_blocking=True)
        for k, piece in enumerate(moved.split(count)):
            assert isinstance(piece, CaptionedBatch)
            visible = None
            if ratio:
                tower, seed = self.model.vision_encoder, self.config.run.seed
                visible = tower.draw(piece.sample, ratio, seed=seed, image=batch.is_image)
            kept, video = text[k] if text else None, None
            if kept_video is not None:
                video = kept_video.rows(piece.video_id, batch.is_image, device)
            clips = piece.clips if video is None else None
            pair_ids = self._pair_ids(ids[k], piece) if fuse else None
            given = (
                clips,
                video,
                visible,
                piece.captions,
                kept,
                ids[k][0],
                ids[k][1],
                piece.sample,
                pair_ids,
                numbers[k],
            )
            yield Part(*given, sound=piece.sound)

    def _pair_ids(self, ids: Tensor, piece: CaptionedBatch) -> Tensor | None:
        """Numbers of the pairs: of one device from the host's ids; of all devices they are read back, a host sync.

        None where there is no negative: each pair then has a number of its own, and its loss of matching no weight.
        """
        if self.config.fusion.negatives == "local" or self.group is None:
            numbers, first = piece.ids, 0
        else:
            joined = gather_rows(ids.T, self.group).T.cpu()
            numbers, first = positive_ids(joined[0], joined[1]), self.group.rank() * ids.shape[1]
        if not pairs_differ(numbers):
            return None
        return numbers.to(ids.device, non_blocking=True)[first:][: ids.shape[1]]

    def step(self, model: nn.Module, part: Part, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the batch, or what the part contributes to it, and what it consists of."""
        return self.losses(self._features(model, part, fuse=self.fuses), part)

    def _features(self, model: nn.Module, part: Part, fuse: bool = False) -> FusionOutput:
        with self._draws(part):
            return self.encode(model, part, fuse)

    def encode(self, model: nn.Module, part: Part, fuse: bool = False) -> FusionOutput:
        """What the model makes of a part; without `fuse`, the features alone."""
        captions = (None, None) if part.captions is None else part.captions
        if not self.fuses:
            return FusionOutput(model(part.clips, *captions, part.visible, text=part.text, video=part.video))
        group = self.group if self.config.fusion.negatives == "global" else None
        found: FusionOutput = model(
            part.clips,
            *captions,
            part.sample if fuse else None,
            part.visible,
            video=part.video,
            seed=self.config.run.seed,
            pair_ids=part.pair_ids,
            gather=partial(gather_rows, group=group),
            **({"spectrogram": part.sound} if self.hears else {}),
        )
        return found

    @contextmanager
    def _draws(self, part: Part) -> Iterator[None]:
        """All that is random in a forward pass, as functions of the seed and the part's samples: both passes agree."""
        seed, device = self.config.run.seed, part.sample.device
        depth = stochastic_depth(seed=seed, step=0, sample=part.numbers)  # a sample has its number once in a run
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), depth:
            torch.manual_seed((seed * 1000003 + int(part.numbers[0])) % 2**63)  # of dropout in the text tower
            yield

    def evaluate(self, model: nn.Module, rank: int, world_size: int) -> dict[str, Tensor]:
        """Loss, and recall at 1 in both directions, among all pairs of `eval_data`: one clip and caption of each entry.

        Crops, masks and captions depend on the seed and the entry's place in the list only.
        """
        device = next(model.parameters()).device
        rows: list[Sequence[Tensor]] = []
        for batch, counts in self.eval_videos.batches(rank, world_size):
            found, part = self._evaluated(model, batch, counts, device)
            if counts:
                rows.append((found.video, found.text, part.video_id, part.caption_id))
            scale, bias = found.scale, found.bias
        own = [torch.cat(each) for each in zip(*rows, strict=True)] if rows else None
        video, text, video_id, caption_id = gather_uneven(own, device, self.group)
        if len(video) < 2:
            raise ValueError(f"eval_data must have two readable pairs or more, got {len(video)}")
        loss = self.losses.of_pairs(PairFeatures(video, text, scale, bias), video_id, caption_id)
        figures = recalls(video, text, video_id, caption_id, rank, world_size)
        return {"loss": torch.stack([loss.double(), torch.ones_like(loss).double()])} | figures

    def _evaluated(
        self, model: nn.Module, batch: CaptionedBatch, counts: bool, device: torch.device
    ) -> tuple[PairFeatures, Part]:
        """Features of a batch; of one that does not count, the text tower's may be anything."""
        if not counts and self.kept:
            batch = replace(batch, caption_id=self.kept.some_id.expand(len(batch.sample)))
        (part,) = self._parts(batch, 1, device, fuse=False, kept_video=None)
        return self._features(model, part).pairs, part

    def report(self) -> list[str]:
        """Lines about videos, captions and negatives."""
        return self.videos.report() + self.negatives.report()


def contrast(config: ContrastConfig) -> RunResult:
    """Train to the end, to `max_steps`, or until SIGTERM or Ctrl-C; each of the three leaves a checkpoint.

    Args:
        config: the run, for example `ContrastConfig.from_options(data="captions.tsv", text_model="minilm",
            init="runs/mine", output="runs/pairs")`.

    Returns:
        The last checkpoint and its step. With `ema_decay`, model_ema.safetensors beside it holds the averaged weights.

    Raises:
        ValueError: settings, captions, weights or output cannot work; kept features are of other weights.
        ImportError: transformers is missing.
        NonFiniteLossError: the loss or a weight became NaN or infinite.
        UnreadableVideosError: too many videos cannot be read.
        OSError: the disk is full or broken, or a data-loading process died; the message names the last checkpoint.
    """
    return run(Contrast(config))
