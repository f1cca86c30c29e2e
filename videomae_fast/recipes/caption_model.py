"""The captioner of a run, made from options, and the texts that its language model reads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._text import printable
from ..data import parse_conversation
from ..data.sources.instructions import is_conversation
from ..interop.captioner import leave_language_model_out
from ..interop.huggingface.language_model import (
    LanguageModelFolder,
    language_model_of_size,
    read_chat_tokenizer,
    read_language_model,
)
from ..models.captioner import VideoCaptioner
from ..models.chat_tokens import ChatTokens, Conversation, begin_captions, encode_captions, encode_chat
from ..models.video_tower import VideoTower
from .caption_config import CaptionConfig
from .contrast_towers import build_video_tower

_NO_LIMIT = 2**31  # tokens


class CaptionTexts:
    """Conversations in the tokenizer's chat template, and captions as answers to a question; plain, if it has none.

    Args:
        tokenizer: of the language model.
        prompt: the question that captions answer.
        max_tokens: of a question with its answer.
        model: the captioner, which tells where the video goes and how long texts may be.

    Attributes:
        tokenizer: as given.
        has_chat: whether the tokenizer has a chat template.

    Raises:
        ValueError: `max_tokens` are more than the language model has positions for beside the video, or leave no token
            of the answer; or the tokenizer has no token of the end.
        TypeError: the tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: Any, prompt: str, max_tokens: int, model: VideoCaptioner) -> None:
        self.tokenizer, self.prompt, self.max_tokens = tokenizer, prompt, max_tokens
        self.marks = model.injection == "prefix"
        self.has_chat = getattr(tokenizer, "chat_template", None) is not None
        if max_tokens > model.max_length:
            raise ValueError(
                f"max_tokens must be at most {model.max_length}, which the language model has positions for beside "
                f"{model.num_prefix} rows of the video, got {max_tokens}"
            )
        if (asked := self.begin(1).ids.shape[1]) >= max_tokens:
            raise ValueError(f"max_tokens must be more than the {asked} of the question, got {max_tokens}")

    def encode(self, texts: Sequence[str]) -> ChatTokens:
        """Questions with their answers, for the loss.

        Args:
            texts: of each video a caption, or a conversation as `InstructedVideos` has it; with a chat template only.

        Returns:
            Their tokens, on the CPU.

        Raises:
            ValueError: a caption is empty, or the chat template refuses a conversation.
        """
        if not self.has_chat:
            return encode_captions(self.tokenizer, texts, max_tokens=self.max_tokens)
        talks = [parse_conversation(text) if is_conversation(text) else self._answered(text) for text in texts]
        return encode_chat(self.tokenizer, talks, max_tokens=self.max_tokens, marks=self.marks)

    def begin(self, count: int) -> ChatTokens:
        """Questions without answers, for generation.

        Args:
            count: of the videos.

        Returns:
            Their tokens, on the CPU.
        """
        if not self.has_chat:
            return begin_captions(self.tokenizer, count)
        return self.encode_talks([self._question()] * count, generation=True)  # the constructor has compared

    def encode_talks(self, talks: Sequence[Conversation], *, generation: bool = False) -> ChatTokens:
        """Conversations of any length.

        Args:
            talks: messages of each, with "role" and "content".
            generation: whether an answer is to follow each.

        Returns:
            Their tokens, on the CPU.

        Raises:
            ValueError: there is no chat template, or it refuses a conversation.
        """
        return encode_chat(self.tokenizer, talks, max_tokens=_NO_LIMIT, marks=self.marks, generation=generation)

    def _answered(self, caption: str) -> list[dict[str, str]]:
        return [*self._question(), {"role": "assistant", "content": caption}]

    def _question(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]


class BuiltCaptioner(NamedTuple):
    """A new captioner.

    Attributes:
        model: in training mode; of the video tower is trained what the options say.
        texts: makes what its language model reads.
        folder: of the language model.
    """

    model: VideoCaptioner
    texts: CaptionTexts
    folder: LanguageModelFolder


def build_captioner(config: CaptionConfig, say: Callable[[str], None]) -> BuiltCaptioner:
    """Make the captioner of a run. Its state dict has no weights of the language model, but for adapters.

    Args:
        config: of the run; of the sections data and run nothing matters but the size of the clips.
        say: prints a line.

    Returns:
        The captioner: video tower, connector and adapters are new.

    Raises:
        ValueError: options do not fit together, or the language model or its tokenizer cannot be read or used.
        TypeError: the language model has no linear head, or the tokenizer is not a fast one.
        ImportError: transformers or, for adapters, peft is missing.
    """
    folder = _checked_folder(config)
    tower = build_video_tower(config.model, config.data)
    llm = read_language_model(folder)
    tokenizer = read_chat_tokenizer(folder, llm)
    model = _assemble(config, tower, llm)
    leave_language_model_out(model)
    texts = CaptionTexts(tokenizer, config.language.prompt, config.language.max_tokens, model)
    if not texts.has_chat:
        say("the tokenizer has no chat template: captions are plain, and the prompt is not used")
    return BuiltCaptioner(model.train(), texts, LanguageModelFolder.of(folder))


def build_captioner_of_size(config: CaptionConfig) -> VideoCaptioner:
    """The captioner of a run without its weights, to predict memory: of the language model only config.json is read.

    Args:
        config: of the run.

    Returns:
        The captioner in training mode, frozen as in the run.

    Raises:
        ValueError: options do not fit together, or config.json is of no language model that can be used.
        TypeError: the language model has no linear head.
        ImportError: transformers or, for adapters, peft is missing.
    """
    folder = _checked_folder(config)
    tower = build_video_tower(config.model, config.data)
    return _assemble(config, tower, language_model_of_size(folder)).train()


def _checked_folder(config: CaptionConfig) -> str:
    folder = config.language.language_model
    if not folder:
        raise ValueError(
            "language_model is empty: name a folder of a causal language model of transformers, or a GGUF file"
        )
    if not Path(folder).exists():
        raise ValueError(
            "language_model must be a folder of a causal language model of transformers, or a GGUF file, got "
            f"{printable(folder)}"
        )
    return folder


def _assemble(config: CaptionConfig, tower: VideoTower, llm: Any) -> VideoCaptioner:
    language, connector = config.language, config.connector
    language.adapt(llm)
    model = VideoCaptioner(
        tower,
        connector.build(tower.token_dim, llm.config.hidden_size),
        llm,
        injection=connector.inject,
        mask_ratio=config.model.mask_ratio,
        time_mean=connector.time_mean,
        loss=language.loss,
    )
    try:
        model.train_video(config.model.train)
    except ValueError as error:
        raise ValueError(f"{error}; or 'none'") from error
    return model
