"""Multiple-choice lists: what is read, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from videomae_fast.data import Choice, VideoFile, read_choices

ENTRY = {"video": "a.mp4", "question": "What?", "candidates": ["up", "down"], "answer": "down"}


def write(folder: Path, entries: Any) -> Path:
    (folder / "a.mp4").touch()
    (folder / "l.json").write_text(json.dumps(entries))
    return folder / "l.json"


def test_choices(tmp_path: Path) -> None:
    found = read_choices(write(tmp_path, [ENTRY | {"start": 1.5, "end": 3, "fps": 30}, ENTRY | {"answer": "up"}]))
    assert found.choices == (Choice("What?", ("up", "down"), 1), Choice("What?", ("up", "down"), 0))
    assert found.videos.captioned(0) == (VideoFile(str(tmp_path / "a.mp4")), ("What?",), 1.5, 3)
    assert len(found.videos) == 2


def test_the_question_in_words() -> None:
    (message,) = Choice("What?", ("up", "down"), 1).messages()
    assert message["role"] == "user" and message["content"].startswith("Carefully watch the video")
    assert message["content"].endswith("\nQuestion: What?\nOptions:\n(A) up\n(B) down\nOnly give the best option.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": None}, "video must be a path"),
        ({"question": ""}, "question: the question is empty"),
        ({"candidates": "up"}, "candidates must be a list of 2 to 26 texts, got"),
        ({"candidates": ["down"]}, "candidates must be a list of 2 to 26 texts"),
        ({"candidates": list(map(str, range(27)))}, "candidates must be a list of 2 to 26"),
        ({"candidates": ["down", 3]}, r"candidates\[1\] must be a text, got '3'"),
        ({"candidates": ["down", " "]}, r"candidates\[1\]: the candidate is empty"),
        ({"answer": "left"}, "answer must be one of the candidates, once, got 'left' of"),
        ({"candidates": ["down", "down"]}, "answer must be one of the candidates, once, got 'down' of"),
        ({"answer": None}, "answer must be a text, got 'None'"),
        ({"start": 4, "end": 3}, "start must be before end"),
    ],
)
def test_malformed_choices_name_entry_and_field(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"l\.json, entry 2: {message}"):
        read_choices(write(tmp_path, [ENTRY, ENTRY | changes]))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"choices: there is no list \(.json\) at"):
        read_choices(tmp_path / "x.json")
    (tmp_path / "l.jsonl").write_text("x")
    with pytest.raises(ValueError, match=r"choices: expected a list \(.json\), got"):
        read_choices(tmp_path / "l.jsonl")
