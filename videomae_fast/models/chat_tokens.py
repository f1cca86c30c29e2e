"""Conversations and captions as tokens: where the rows of the video go in, and which tokens are answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

VIDEO = ("<Video>", "</Video>")  # VideoChat2's; the rows of the video go between the two
Conversation = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class ChatTokens:
    """A batch of texts for a captioner.

    Attributes:
        ids: (B, L) int64 token numbers, with padding.
        mask: (B, L) bool, True for tokens.
        place: (B,) int64, how many of the L positions are before the rows of the video.
        answers: (A,) int64, the positions b·L + l of the tokens that are to be predicted.
        cut: texts that were longer than the limit.
        unanswered: texts of which nothing is left to predict.
    """

    ids: Tensor
    mask: Tensor
    place: Tensor
    answers: Tensor
    cut: int = 0
    unanswered: int = 0

    def to(self, device: torch.device | str) -> "ChatTokens":
        """The same on a device."""
        names = ("ids", "mask", "place", "answers")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return replace(self, **moved)


@dataclass
class _Text:
    """One text: its tokens, how many are before the video, and which are answers."""

    ids: list[int]
    place: int
    answers: list[int]


def encode_chat(
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    max_tokens: int = 512,
    marks: bool = True,
    generation: bool = False,
) -> ChatTokens:
    """Conversations in the tokenizer's chat template; all of its answers are targets, each with its end token.

    The video goes between `VIDEO`, which the text may have once; else they are put before the first question. An answer
    is what the template adds for a message of the assistant, and its tokens are those that end in it. White space that
    a special token takes with it does not count.

    Args:
        tokenizer: a fast tokenizer of transformers with a chat template.
        conversations: of each, messages with "role" ("system", "user" or "assistant") and "content".
        max_tokens: of a text, without the rows of the video. What is beyond is cut, and counted in the result.
        marks: whether `VIDEO` is in the text; False for cross-attention, where the video has no place in it.
        generation: whether the texts end where an answer begins. They are padded on the left then, and a text that is
            too long is an error.

    Returns:
        The tokens, on the CPU.

    Raises:
        ValueError: the tokenizer has no chat template, or one that refuses the messages, does not write them one after
            the other, or ends answers without a special token, so that a model would never learn to stop; a message is
            not allowed; an answer is empty; or a number is out of range.
        TypeError: the tokenizer is not a fast one.

    References:
        VideoChat2, video_chat2/models/videochat_mistra/videochat2_it_mistral.py of OpenGVLab/Ask-Anything, for the
        place of the video and the targets.
    """
    _check_tokenizer(tokenizer)
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            f"tokenizer {getattr(tokenizer, 'name_or_path', '')!r} has no chat template: take that of an instruction "
            "model, or train on plain captions (encode_captions)"
        )
    texts, special = [], _special(tokenizer)
    for number, messages in enumerate(conversations):
        try:
            texts.append(_chat(tokenizer, messages, special, marks, generation))
        except ValueError as error:
            raise ValueError(f"conversations[{number}]: {error}") from error
    return _batch(tokenizer, texts, max_tokens, "conversations", generation)


def encode_captions(tokenizer: Any, captions: Sequence[str], *, max_tokens: int = 512) -> ChatTokens:
    """Plain captions, without a chat template: a token of beginning, the video, the caption and a token of the end.

    Args:
        tokenizer: a fast tokenizer of transformers. The token of the end also begins texts if it has none for that.
        captions: one of each video.
        max_tokens: of a text, without the rows of the video. What is beyond is cut, and counted in the result.

    Returns:
        The tokens, on the CPU; the caption's and that of the end are targets.

    Raises:
        ValueError: a caption is empty, the tokenizer has no token of the end, or a number is out of range.
        TypeError: the tokenizer is not a fast one.
    """
    texts = []
    begin = begin_captions(tokenizer, 1).ids[0].tolist()
    for number, caption in enumerate(captions):
        if not caption.strip():
            raise ValueError(f"captions[{number}] is empty")
        ids = [*begin, *tokenizer(caption, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        texts.append(_Text(ids, 1, list(range(1, len(ids)))))
    return _batch(tokenizer, texts, max_tokens, "captions", False)


def begin_captions(tokenizer: Any, count: int) -> ChatTokens:
    """The beginning of `count` plain captions, for generation: what `encode_captions` has before the caption.

    Raises:
        ValueError: the tokenizer has no token of the end, or `count` is not positive.
        TypeError: the tokenizer is not a fast one.
    """
    _check_tokenizer(tokenizer)
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return _batch(tokenizer, [_Text([begin], 1, []) for _ in range(count)], 1, "captions", True)


def _special(tokenizer: Any) -> set[int]:
    """Tokens that no text is: those with a role, such as eos, and those that are only declared special."""
    declared = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return {*tokenizer.all_special_ids, *declared}


def _chat(tokenizer: Any, conversation: Conversation, special: set[int], marks: bool, generation: bool) -> _Text:
    messages = [dict(message) for message in conversation]
    _check_messages(messages, generation)
    if marks:
        _mark_video(messages)
    text = _render(tokenizer, messages, generation)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = _render(tokenizer, messages[:number], True), _render(tokenizer, messages[: number + 1], False)
        if not after.startswith(before) or not text.startswith(after.rstrip()):
            raise ValueError("the tokenizer's chat template does not write messages one after the other")
        spans.append((len(before), len(after.rstrip())))
    place = text.index("".join(VIDEO)) + len(VIDEO[0]) if marks else 0
    # In two pieces, so that no token lies across the place of the video.
    first, second = (
        tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
        for piece in (text[:place], text[place:])
    )
    offset, ids = len(first["input_ids"]), [*first["input_ids"], *second["input_ids"]]
    stops, ends = set[int](), list[int]()  # the last character of special tokens, and of all
    for token, (start, end) in zip(second["input_ids"], second["offset_mapping"], strict=True):
        if token in special:  # it may have taken the white space behind it
            end = start + len(text[place + start : place + end].rstrip())
            stops.add(place + end - 1)
        ends.append(place + end - 1)
    if not generation and any(high - 1 not in stops for _, high in spans):
        raise ValueError(
            "the tokenizer's chat template ends an answer without an end token (eos or a special one), so a model "
            "would never learn to stop"
        )
    answers = [offset + n for n, end in enumerate(ends) if any(low <= end < high for low, high in spans)]
    return _Text(ids, offset, [] if generation else answers)


def _check_messages(messages: Sequence[Mapping[str, str]], generation: bool) -> None:
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            raise ValueError(
                f"message {number} must have a role (system, user or assistant) and a content that is text, got "
                f"{role!r} and {type(content).__name__}"
            )
        if role == "assistant" and not content.strip():
            raise ValueError(f"message {number}: the answer is empty")
    roles = [message["role"] for message in messages]
    if "user" not in roles or ("assistant" in roles and roles.index("assistant") < roles.index("user")):
        raise ValueError(f"a message of the user must be before all answers, got roles {roles}")
    if roles[-1] != ("user" if generation else "assistant"):
        last = "a question (user) to be answered" if generation else "an answer (assistant) to learn"
        raise ValueError(f"the last message must be {last}, got one of {roles[-1]}")


def _mark_video(messages: list[dict[str, str]]) -> None:
    """Put the marks of the video before the first question, unless a message has them."""
    mark = "".join(VIDEO)
    count = sum(message["content"].count(mark) for message in messages)
    if count > 1 or any(mark in message["content"] for message in messages if message["role"] == "assistant"):
        raise ValueError(f"the text must have {mark} once, in a question, or not at all, got it {count} times")
    first = next(message for message in messages if message["role"] == "user")
    if not count:
        first["content"] = f"{mark} {first['content']}"
    elif mark not in first["content"]:
        raise ValueError(f"{mark} must be in the first question, before all answers")


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]], generation: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    except Exception as error:  # templates raise errors of jinja's
        raise ValueError(f"the tokenizer's chat template refuses the messages: {error}") from error
    return text


def _batch(tokenizer: Any, texts: Sequence[_Text], max_tokens: int, what: str, left: bool) -> ChatTokens:
    if not texts:
        raise ValueError(f"{what} must be one or more, got none")
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be positive, got {max_tokens}")
    long = [number for number, text in enumerate(texts) if len(text.ids) > max_tokens]
    if left and long:
        raise ValueError(
            f"{what}[{long[0]}] has {len(texts[long[0]].ids)} tokens before the answer, which must be within "
            f"max_tokens {max_tokens}"
        )
    length = min(max_tokens, max(len(text.ids) for text in texts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.full((len(texts), length), pad)
    mask = torch.zeros(len(texts), length, dtype=torch.bool)
    places, answers, unanswered = [], list[int](), 0
    for row, text in enumerate(texts):
        kept = text.ids[:length]
        first = length - len(kept) if left else 0
        ids[row, first : first + len(kept)] = torch.tensor(kept)
        mask[row, first : first + len(kept)] = True
        places.append(min(first + text.place, length))
        left_over = [row * length + place for place in text.answers if place < length]
        answers += left_over
        unanswered += not left and not left_over
    return ChatTokens(ids, mask, torch.tensor(places), torch.tensor(answers, dtype=torch.int64), len(long), unanswered)


def _check_tokenizer(tokenizer: Any) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(f"tokenizer must be a fast one, which tells offsets, got {type(tokenizer).__name__}")
    if getattr(tokenizer, "eos_token_id", None) is None:
        raise ValueError("tokenizer has no token for the end of a text (eos_token)")
