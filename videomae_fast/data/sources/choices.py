"""Multiple-choice questions about videos: lists as MVBench has them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._json import parse_json, read_text
from ..._text import printable
from .captioned import CaptionedVideos, CaptionRow
from .fields import shown
from .json_lists import check_json_list, clip_row, first_entry, found_under, json_entries, media_path, words_of

CHOICES_HELP = "list of multiple-choice questions as MVBench's (.json), or mixture of such lists, one of each task"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)  # MVBench's


@dataclass(frozen=True)
class Choice:
    """A question with several answers.

    Attributes:
        question: what is asked.
        candidates: the answers, two or more; the k-th has the k-th letter.
        answer: number of the right one.
    """

    question: str
    candidates: tuple[str, ...]
    answer: int

    def lettered(self, number: int) -> str:
        """An answer as the question lists it: its letter in brackets, and its words.

        Args:
            number: of the answer.

        Returns:
            For example "(A) a dog".
        """
        return f"({LETTERS[number]}) {self.candidates[number]}"

    def messages(self) -> list[dict[str, str]]:
        """The question as a conversation that an answer is to follow, for `encode_chat(..., generation=True)`.

        Returns:
            One message of the user, in MVBench's words. Other than published, the answer does not begin with "Best
            option:(".

        References:
            MVBench, arXiv 2311.17005; video_chat2/mvbench.ipynb of OpenGVLab/Ask-Anything.
        """
        options = map(self.lettered, range(len(self.candidates)))
        lines = [SYSTEM, f"Question: {self.question}", "Options:", *options, "Only give the best option."]
        return [{"role": "user", "content": "\n".join(lines)}]


@dataclass(frozen=True)
class ChoiceVideos:
    """Videos with a multiple-choice question each.

    Attributes:
        videos: the videos, for `ViewDataset` and `CaptionedDataset`; the caption of each is its question.
        choices: the question of each.
    """

    videos: CaptionedVideos
    choices: Sequence[Choice]


def read_choices(source: str | os.PathLike, root: str | os.PathLike | None = None) -> ChoiceVideos:
    """Read multiple-choice questions.

    A list is JSON in UTF-8: a list of objects with "video" (or "image"), "question", "candidates", a list of two or
    more texts, and "answer", one of them; if wanted "start" and "end", seconds of the video. Other keys are not read.
    MVBench has a list for each of its tasks, whose accuracies are averaged. Its "episodic_reasoning", whose videos are
    folders of frames, cannot be read.

    Args:
        source: the list.
        root: folder that relative paths are joined to; by default the folder that holds the list.

    Returns:
        The videos and their questions, in the order of the list.

    Raises:
        FileNotFoundError: `source` is missing, or none of the first entries exists under `root`.
        ValueError: `source` is no .json, no regular file or no text, the list is empty, or an entry is malformed (the
            message has its number and the field): without a video, an empty question or candidate, a candidate that
            comes twice, an answer that is none of the candidates, or start not before end.

    References:
        MVBench, arXiv 2311.17005; video_chat2/MVBENCH.md of OpenGVLab/Ask-Anything.
    """
    path = Path(source)
    check_json_list(path, "choices", (".json",))
    folder = path.parent if root is None else Path(root)
    choices: list[Choice] = []

    def parse(entry: Mapping[str, Any]) -> CaptionRow:
        choice = _choice(entry)
        row = clip_row(media_path(entry, ("video", "image")), entry, choice.question)
        choices.append(choice)
        return row

    rows: Iterator[CaptionRow] = json_entries(path, parse)
    videos = CaptionedVideos.from_rows(found_under(folder, rows, path), folder)
    return ChoiceVideos(videos, tuple(choices))


def read_choice_tasks(source: str | os.PathLike, root: str | os.PathLike | None = None) -> dict[str, ChoiceVideos]:
    """Read the multiple-choice questions of one task or of several.

    Args:
        source: a list, as `read_choices` reads it; or a mixture, a JSON list of objects with "data", such a list, and
            if wanted "root", both relative to the mixture.
        root: as in `read_choices`; not for a mixture.

    Returns:
        The videos and questions of each task, by the name of its list without the suffix, in the order of the mixture.

    Raises:
        FileNotFoundError: as `read_choices`.
        ValueError: as `read_choices`; or the mixture is malformed, two of its lists have one name, or `root` is given
            with it. The message names the source.
    """
    path = Path(source)
    if "data" not in first_entry(path):
        return {path.stem: read_choices(path, root)}
    if root is not None:
        raise ValueError(f"root is given for each source in {printable(path)}: leave it out")
    try:
        listed = parse_json(read_text(path))
    except ValueError as error:
        raise ValueError(f"{printable(path)} is not JSON: {error}") from error
    tasks: dict[str, ChoiceVideos] = {}
    for number, given in enumerate(listed, 1):
        where = f"{printable(path)}, source {number}"
        _check_source(given, where)
        name = Path(given["data"]).stem
        if name in tasks:
            raise ValueError(f"{where}: there is a list called {shown(name)} already, and lists are tasks: rename one")
        folder = path.parent / given["root"] if "root" in given else None
        try:
            tasks[name] = read_choices(path.parent / given["data"], folder)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from error
    return tasks


def _check_source(given: Any, where: str) -> None:
    if not isinstance(given, dict) or "data" not in given:
        raise ValueError(f'{where} must be an object with "data", got {shown(repr(given)[:999])}')
    for key, value in given.items():
        if key not in ("data", "root"):
            raise ValueError(f"{where}: unknown key {shown(key)}; known are data and root")
        if not isinstance(value, str):
            raise ValueError(f"{where}: {key} must be a path, got {shown(repr(value)[:999])}")


def _choice(entry: Mapping[str, Any]) -> Choice:
    question, given = words_of(entry.get("question"), "question", "question"), entry.get("candidates")
    if not isinstance(given, list) or not 2 <= len(given) <= len(LETTERS):
        raise ValueError(f"candidates must be a list of 2 to {len(LETTERS)} texts, got {shown(repr(given)[:999])}")
    candidates = tuple(words_of(text, f"candidates[{number}]", "candidate") for number, text in enumerate(given))
    answer = words_of(entry.get("answer"), "answer", "answer")
    if twice := [text for text in candidates if candidates.count(text) > 1]:
        raise ValueError(f"candidates must differ, got {shown(twice[0])} more than once")
    if answer not in candidates:
        raise ValueError(f"answer must be one of the candidates, got {shown(answer)} of {shown(repr(candidates))}")
    return Choice(question, candidates, candidates.index(answer))
