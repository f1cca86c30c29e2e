"""Conversations about videos and images: VideoChat2's instruction lists, and lists of chats."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..._json import parse_json
from .captioned import CaptionedVideos, CaptionRow
from .fields import shown
from .json_lists import check_json_list, clip_row, first_entry, found_under, json_entries, media_path, words_of
from .lists import numbered_lines

Messages = list[dict[str, str]]
SUFFIXES = (".json", ".jsonl")
INSTRUCTIONS_HELP = "list of conversations (.json as VideoChat2's, .jsonl of messages)"
_PLACES = ("<video>", "<image>")  # where chats have the video
_MARK = "\x1e"  # begins a text of JSON (RFC 7464), and is in no caption: it is white space, which is one space there
_KEYS = {".json": {"video", "image", "QA"}, ".jsonl": {"videos", "images", "messages"}}  # of an entry, by the suffix


class InstructedVideos(CaptionedVideos):
    """Read-only sequence of videos and images with a conversation each, as flat in memory as `CaptionedVideos`.

    The caption of an entry is its conversation as a text, which `parse_conversation` reads. So `CaptionedDataset` and
    its loader carry conversations as they carry captions.

    Args:
        entries: the videos, the caption of each a conversation as a text. `read_instructions` makes them.
        root: folder that relative paths are joined to.
    """

    def conversation(self, index: int) -> Messages:
        """The conversation of an entry.

        Args:
            index: number of the entry; negative: counted from the end.

        Returns:
            Messages with "role" ("system", "user" or "assistant") and "content": the system's first, if there is one,
            then questions of the user and answers of the assistant in turn. `encode_chat` takes it.

        Raises:
            IndexError: there is no such entry.
        """
        return parse_conversation(self.captioned(index).captions[0])


def read_instructions(source: str | os.PathLike, root: str | os.PathLike | None = None) -> InstructedVideos:
    """Read conversations about videos and images.

    A list is text in UTF-8, and its suffix is its format:

    * ".json": VideoChat2's, a list of objects with "video" or "image", a path, and "QA", a list of turns. A turn has
      "q", a question, "a", the answer, and in the first one if wanted "i", an instruction, which goes in front of the
      question, in a line of its own; it may also stand without a question. As published, "i" of further turns is not
      read. Other than published, the instruction is behind the video, and turns keep their order.
    * ".jsonl": a chat a line, as ms-swift and LLaMA-Factory have it: an object with "videos" or "images", a list of one
      path, and "messages", each with "role" and "content": a system's if wanted, then the user's and the assistant's in
      turn. The first question may begin with <video> or <image>, which is left out.

    Both may have "start" and "end", seconds of the video: the clip is the part between them, to the video's end without
    "end". Other keys are not read. A path that ends in .jpg, .jpeg, .png or .webp is an image. Texts lose the white
    space at their ends only.

    Args:
        source: the list.
        root: folder that relative paths are joined to; by default the folder that holds the list.

    Returns:
        The videos and images, in the order of the list.

    Raises:
        FileNotFoundError: `source` is missing, or none of the first entries exists under `root`.
        ValueError: the suffix is another, `source` is no regular file or no text, or the list is empty; or an entry is
            malformed (the message has its number, or the line, and the field): without a video or image or with both,
            without turns, with an empty answer or no question, with roles in another order, start not before end, or an
            image with a start or end.

    References:
        VideoChat2, video_chat2/dataset/it_dataset.py of OpenGVLab/Ask-Anything.
    """
    path = Path(source)
    check_json_list(path, "instructions", SUFFIXES)
    rows = _chat_rows(path) if path.suffix.lower() == ".jsonl" else json_entries(path, _instruction_row)
    folder = path.parent if root is None else Path(root)
    found = InstructedVideos.from_rows(found_under(folder, rows, path), folder)
    assert isinstance(found, InstructedVideos)
    return found


def has_conversations(source: str | os.PathLike) -> bool:
    """Whether a source is a list that `read_instructions` reads, and no captions or mixture.

    Args:
        source: anything that names videos.

    Returns:
        Whether the suffix is one of SUFFIXES, and the first entry has a key of conversations.
    """
    path = Path(source)
    keys = _KEYS.get(path.suffix.lower(), set())
    return bool(keys) and not keys.isdisjoint(first_entry(path))


def is_conversation(text: str) -> bool:
    """Whether a text is a conversation, which `parse_conversation` reads, and no caption.

    Args:
        text: one of `CaptionedBatch.texts`.

    Returns:
        Whether it is.
    """
    return text.startswith(_MARK)


def format_conversation(system: str, turns: list[str]) -> str:
    """Write a conversation as a text.

    Args:
        system: the system's message, or empty.
        turns: a question and an answer in turn.

    Returns:
        The text.
    """
    return _MARK + json.dumps([system, *turns], ensure_ascii=False, separators=(",", ":"))


def parse_conversation(text: str) -> Messages:
    """Read a conversation, such as one of `CaptionedBatch.texts` of `InstructedVideos`.

    Args:
        text: as `InstructedVideos` has it for a caption.

    Returns:
        As `InstructedVideos.conversation`.

    Raises:
        ValueError: it is another text.
    """
    try:
        if not is_conversation(text):
            raise ValueError
        system, *turns = json.loads(text[len(_MARK) :])
        if len(turns) < 2 or len(turns) % 2 or not all(isinstance(each, str) for each in (system, *turns)):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"expected a conversation of InstructedVideos, got {shown(text)}") from None
    messages = [{"role": "system", "content": system}] if system else []
    return messages + [{"role": ("user", "assistant")[k % 2], "content": each} for k, each in enumerate(turns)]


def _instruction_row(entry: Mapping[str, Any]) -> CaptionRow:
    path, turns = media_path(entry, ("video", "image")), entry.get("QA")
    if not isinstance(turns, list) or not turns:
        raise ValueError("QA must be a list of questions and answers, at least one")
    texts = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise ValueError(f"QA[{number}] must be an object with q and a, got {shown(repr(turn)[:999])}")
        names = ("i", "q") if number == 0 else ("q",)
        asked = {name: "" if turn.get(name) is None else turn[name] for name in names}
        parts = [words_of(text, f"QA[{number}].{name}", "question") for name, text in asked.items() if text != ""]
        if not parts:
            raise ValueError(f"QA[{number}]: there is no question: {' and '.join(asked)} are empty or missing")
        texts += ["\n".join(parts), words_of(turn.get("a"), f"QA[{number}].a", "answer")]
    return clip_row(path, entry, format_conversation("", texts))


def _chat_rows(path: Path) -> Iterator[CaptionRow]:
    with numbered_lines(path) as texts:
        for text in texts:
            if line := text.strip():
                entry = parse_json(line)
                if not isinstance(entry, dict):
                    raise ValueError(f"expected a JSON object with videos and messages, got {shown(line)}")
                yield _chat_row(entry)


def _chat_row(entry: Mapping[str, Any]) -> CaptionRow:
    path, messages = media_path(entry, ("videos", "images"), listed=True), entry.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("messages must be a list of objects with role and content")
    first = int(bool(messages) and messages[0].get("role") == "system")
    if len(messages) - first < 2 or (len(messages) - first) % 2:
        raise ValueError(f"messages must end in an answer of the assistant to each question, got {len(messages)}")
    texts = []
    for number, message in enumerate(messages):
        role = "system" if number < first else ("user", "assistant")[(number - first) % 2]
        if message.get("role") != role:
            raise ValueError(f"messages[{number}].role must be {role}, got {shown(repr(message.get('role'))[:99])}")
        what = {"system": "message", "user": "question", "assistant": "answer"}[role]
        field = f"messages[{number}].content"
        content = words_of(message.get("content"), field, what)
        if number == first:
            begin = next((place for place in _PLACES if content.startswith(place)), "")
            content = words_of(content[len(begin) :], field, what)
        if any(place in content for place in _PLACES):
            raise ValueError(
                f"{field}: {' and '.join(_PLACES)} may only begin the first question, got {shown(content)}"
            )
        texts.append(content)
    return clip_row(path, entry, format_conversation(texts[0] if first else "", texts[first:]))
