"""What a captioner says about videos."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._optional import require
from .._text import printable
from ..data import MissingVideo, VideoFile, ViewDataset, open_video
from ..data.sources.captioned import CaptionedEntry, CaptionedVideos, is_image
from ..engine.parallel import make_accelerator
from ..interop.captioner import SETTINGS, load_captioner
from ..interop.huggingface.language_model import read_chat_tokenizer
from ..models.attention import activate_flash_attention
from ..models.captioner import VideoCaptioner
from ..models.chat_tokens import ChatTokens
from ..models.encoder import Clip
from .caption_config import CaptionConfig
from .caption_model import CaptionTexts
from .start import last_checkpoint
from .views import view_batches

_NO_CAPTION = "?"  # entries of images are captioned ones


@dataclass(frozen=True)
class Description:
    """What a captioner says about a part of a video.

    Attributes:
        path: of the video.
        start: of the part, in seconds.
        end: of the part, in seconds; None for an image, and where the file does not state its frames per second.
        text: the answer, without special tokens.
    """

    path: str
    start: float
    end: float | None
    text: str


class Describer:
    """A captioner with all that answering needs.

    Args:
        init: a run of `caption`, or one of its checkpoints.
        prompt: the question; "": that of the run.
        language_model: folder of the language model now; "": where it was.
        precision: one of PRECISIONS.

    Raises:
        FileNotFoundError: `init` does not exist.
        ValueError: `init` is no run of `caption`, its weights do not fit, the language model is missing or another one,
            or a prompt is given for a tokenizer without a chat template.
        ImportError: transformers or, for adapters, peft is missing.
    """

    def __init__(self, init: str, prompt: str = "", language_model: str = "", precision: str = "auto") -> None:
        source = last_checkpoint(Path(init))
        if not source.exists():
            raise FileNotFoundError(f"init: {printable(source)} does not exist")
        if not (source / SETTINGS).is_file() or not (source / "config.json").is_file():
            raise ValueError(
                f"init must be a run of caption, which has a connector: there is no {SETTINGS} with a config.json in "
                f"{printable(source)}"
            )
        self.config = CaptionConfig.from_options(**CaptionConfig.read_options(source / "config.json"))
        folder = language_model or self.config.language.language_model
        self.model: VideoCaptioner = load_captioner(source, folder)
        self.tokenizer = read_chat_tokenizer(folder, self.model.language_model)
        asked = prompt or self.config.language.prompt
        self.texts = CaptionTexts(self.tokenizer, asked, self.model.max_length, self.model)
        if prompt and not self.texts.has_chat:
            raise ValueError(
                f"prompt '{prompt}' cannot be asked: the tokenizer in {printable(folder)} has no chat template, and "
                "the run was trained on plain captions"
            )
        self.accelerator = make_accelerator(precision)
        if self.config.model.attention == "sdpa":
            activate_flash_attention(self.accelerator.device)
        self.model.to(self.accelerator.device)

    def views(self, videos: Sequence[str], images: bool = False) -> ViewDataset:
        """One clip of each video, in the middle of its frames, of the frames that training shows.

        Args:
            videos: files.
            images: whether all of them are images, which are clips of one frame.

        Returns:
            The clips.
        """
        data = self.config.data
        sampling = "dense" if data.sampling == "strided" else data.sampling
        return ViewDataset(
            CaptionedVideos(CaptionedEntry(VideoFile(video), (_NO_CAPTION,)) for video in videos),
            num_frames=1 if images else data.num_frames,
            frame_stride=data.frame_stride,
            size=(data.image_size, data.image_size),
            short_side=data.image_size,
            segments=1,
            crops=1,
            sampling="uniform" if images else sampling,
            fps=data.fps,
            reader=data.reader,
            max_decoded_bytes=data.max_decoded_bytes,
        )

    @torch.no_grad()
    def answers(
        self, clips: Clip, tokens: ChatTokens, max_new_tokens: int, *, image: bool = False, streamer: Any = None
    ) -> list[str]:
        """What the captioner answers about clips, the likeliest token each time.

        Args:
            clips: on the device of the model.
            tokens: of a question about each, as `CaptionTexts.begin` makes them.
            max_new_tokens: of an answer.
            image: whether the clips are images.
            streamer: takes the tokens of the answer to one clip, as transformers hands them out.

        Returns:
            The answers.

        Raises:
            ValueError: question and answer may be longer than the language model's context.
        """
        model, tokenizer = self.model, self.tokenizer
        tokens = tokens.to(self.accelerator.device)
        if (asked := tokens.ids.shape[1]) + max_new_tokens > model.max_length:
            raise ValueError(
                f"max_new_tokens must be at most {model.max_length - asked}, which the language model has positions "
                f"for after the video and the question, got {max_new_tokens}"
            )
        visible = self.visible(len(tokens.place), image)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        # What a model's own generation_config.json asks for would change which token is the likeliest.
        plain = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "bad_words_ids": None, "min_length": 0}
        options = {"pad_token_id": pad, "eos_token_id": self._ends(), "streamer": streamer, **plain}
        with self.accelerator.autocast():
            found: Tensor = model.generate(
                clips, tokens, visible, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, **options
            )
        return [text.strip() for text in tokenizer.batch_decode(found, skip_special_tokens=True)]

    def visible(self, count: int, image: bool = False) -> Tensor | None:
        """The tokens that the video tower sees of clips; None: all.

        With `mask_ratio` all clips have the tokens of sample 0, so that an answer does not depend on other videos.

        Args:
            count: of the clips.
            image: whether they are images.

        Returns:
            As `VideoCaptioner.draw`.
        """
        sample = torch.zeros(count, dtype=torch.int64, device=self.accelerator.device)
        return self.model.draw(sample, seed=self.config.run.seed, image=image)

    def _ends(self) -> list[int]:
        """Tokens that end an answer: of the tokenizer, as in training, and of the language model."""
        language: Any = self.model.language_model
        theirs = language.generation_config.eos_token_id
        known = theirs if isinstance(theirs, list) else [theirs]
        return sorted({self.tokenizer.eos_token_id, *known} - {None})


def describe(
    describer: Describer,
    videos: Sequence[str],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 8,
    workers: int = 0,
    stream: Callable[[str], None] | None = None,
) -> Iterator[Description | MissingVideo]:
    """Describe videos, each as a whole, and images, in their order.

    Args:
        describer: the captioner.
        videos: files; a name that ends as those of images do is one of an image.
        max_new_tokens: of an answer.
        batch_size: videos, or images, at a time.
        workers: processes that decode; 0 decodes in this one.
        stream: takes the words of one video's answer as they come, and "" at the end.

    Yields:
        What is said about a video, or why it cannot be read.

    Raises:
        ValueError: there is no video, several are to be streamed, or a number is out of range.
        ChildProcessError: a data-loading process died.
    """
    if not videos or (stream is not None and len(videos) > 1):
        raise ValueError(f"videos must be one or more, and one to be streamed, got {len(videos)}")
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if any(map(is_image, videos)):
        describer.model.vision_encoder.check_images()
    streamer = None if stream is None else make_streamer(describer.tokenizer, stream)
    shared: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "workers": workers}
    kinds = {
        images: _of_kind(describer, [path for path in videos if is_image(path) == images], images, streamer, **shared)
        for images in (False, True)
    }
    for path in videos:  # each kind is described in batches of its own
        yield next(kinds[is_image(path)])


def _of_kind(
    describer: Describer,
    videos: Sequence[str],
    images: bool,
    streamer: Any,
    *,
    max_new_tokens: int,
    batch_size: int,
    workers: int,
) -> Iterator[Description | MissingVideo]:
    """Describe files that are all videos, or all images."""
    dataset = describer.views(videos, images)
    for batch in view_batches(dataset, batch_size, workers):
        found: dict[int, Description | MissingVideo] = {each.index: each for each in batch.missing}
        if batch.clips is not None:
            clips = batch.clips.to(describer.accelerator.device, non_blocking=True)
            asked = describer.texts.begin(len(batch.index))
            image = describer.model.vision_encoder.is_image(clips)
            texts = describer.answers(clips, asked, max_new_tokens, image=image, streamer=streamer)
            for index, text in zip(batch.index.tolist(), texts, strict=True):
                end = None if images else _seconds(videos[index], dataset)
                found[index] = Description(videos[index], 0.0, end, text)
        yield from (found[index] for index in sorted(found))


def make_streamer(tokenizer: Any, stream: Callable[[str], None]) -> Any:
    """A streamer of transformers that hands out words.

    Args:
        tokenizer: decodes them.
        stream: takes the words, and "" at the end.

    Returns:
        The streamer, for `generate`.
    """

    class Streamer(require("transformers").TextStreamer):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            for piece in ([text] if text else []) + ([""] if stream_end else []):
                stream(piece)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def _seconds(path: str, dataset: ViewDataset) -> float | None:
    """The length of a video that has been read."""
    with closing(open_video(path, dataset.reader)) as video:
        return video.num_frames / video.fps if 0 < video.fps < math.inf else None
