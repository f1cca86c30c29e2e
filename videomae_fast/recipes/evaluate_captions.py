"""Captions by a run of `caption`, against those that people wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .._optional import require
from .._text import printable
from ..data import CaptionedEntry, MissingVideo, Mixture, merge_captions, read_mixture
from ..data.sources.captions import CAPTIONS_HELP
from ..models.encoder import Clip
from .evaluate import EvaluateConfig, missing_lines, write_summary
from .evaluate_captioner import answers_about, captioner_of, place_of, write_lines
from .text_scores import caption_scores, caption_words


@dataclass(frozen=True)
class CaptionResult:
    """The captions of n videos. Videos that cannot be read are not among them.

    Attributes:
        videos: the videos, parts of videos and images, each once, with all its captions.
        texts: what the model says about each.
        missing: the videos that cannot be read.
        is_main_process: whether this process writes.
    """

    videos: Sequence[CaptionedEntry]
    texts: Sequence[str]
    missing: Sequence[MissingVideo]
    is_main_process: bool

    def figures(self) -> dict[str, float]:
        """`caption_scores`, and what they are of."""
        scores = caption_scores([entry.captions for entry in self.videos], self.texts)
        return scores | {"videos": len(self.videos), "missing": len(self.missing)}

    def lines(self) -> list[str]:
        """What a user wants to know, as lines of text; scores are times 100, as in papers."""
        found = self.figures()
        named = {"BLEU-1": "bleu1", "BLEU-4": "bleu4", "ROUGE-L": "rouge_l", "CIDEr-D": "cider_d"}
        scores = ", ".join(f"{name} {100 * found[key]:.2f}" for name, key in named.items())
        line = f"{scores}, exact match {found['exact_match']:.2%}, {len(self.videos)} videos"
        return [line, *missing_lines(self.missing)]

    def write(self, folder: Path) -> None:
        """Write metrics.json, captions.jsonl and, if videos are missing, missing.tsv.

        Args:
            folder: made if it does not exist.

        Raises:
            OSError: a file cannot be written.
        """
        write_summary(folder, self.figures(), self.missing)
        both = zip(self.videos, self.texts, strict=True)
        rows = (place_of(entry) | {"text": text, "references": entry.captions} for entry, text in both)
        write_lines(folder / "captions.jsonl", rows)


@torch.no_grad()
def evaluate_captions(config: EvaluateConfig) -> CaptionResult:
    """Describe videos and images, and compare with their captions; the likeliest token each time.

    All entries of one part of one video are one video with several captions. The question is that of the run.

    Args:
        config: for example `EvaluateConfig.from_options(task="caption", data="val.tsv", init="runs/captioner")`.

    Returns:
        The captions, the same in every process; for any number of processes, to rounding.

    Raises:
        FileNotFoundError: the run or a list does not exist.
        ValueError: `init` is no run of `caption`, captions cannot be read or one has no words, or fewer than two videos
            can be read.
        ImportError: transformers, torchmetrics or, for adapters, peft is missing.
        ChildProcessError: a data-loading process died.
    """
    require("torchmetrics.functional.text")  # before the work
    describer = captioner_of(config, CAPTIONS_HELP)
    views, options = config.views, config.evaluation
    videos = merge_captions(read_mixture(views.data, views.root or None, captioned=True))
    _check_words(videos)

    def answer(clips: Clip, numbers: Sequence[int], image: bool) -> list[str]:
        return describer.answers(clips, describer.texts.begin(len(numbers)), options.max_new_tokens, image=image)

    found, missing = answers_about(describer, videos, config, answer)
    if len(found) == 1:
        raise ValueError(f"data must have two videos or more that can be read, got one of {len(videos)}")
    entries = [videos.captioned(number) for number in found]
    return CaptionResult(entries, list(found.values()), missing, describer.accelerator.is_main_process)


def _check_words(videos: Mixture) -> None:
    if len(videos) < 2:
        raise ValueError(f"data must have two videos or more, got {len(videos)}: CIDEr-D compares them")
    for number in range(len(videos)):
        entry = videos.captioned(number)
        if not all(map(caption_words, entry.captions)):
            raise ValueError(f"{printable(entry.name)} has a caption without words, to which nothing can be compared")
