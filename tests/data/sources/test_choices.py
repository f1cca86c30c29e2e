"""Multiple-choice lists: what is read, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from videomae_fast.data import Choice, VideoFile, read_choice_tasks, read_choices

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
        ({"answer": "left"}, "answer must be one of the candidates, got 'left' of"),
        ({"candidates": ["down", "down "]}, "candidates must differ, got 'down' more than once"),
        ({"candidates": ["up", "down", "up"]}, "candidates must differ, got 'up' more than once"),
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


def mixture(folder: Path, sources: Any) -> Path:
    (folder / "m.json").write_text(sources if isinstance(sources, str) else json.dumps(sources))
    return folder / "m.json"


def test_tasks(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    first = write(tmp_path, [ENTRY])
    (tmp_path / "lists" / "second task.json").write_text(json.dumps([ENTRY, ENTRY]))
    assert {name: len(task.choices) for name, task in read_choice_tasks(first).items()} == {"l": 1}
    sources = [{"data": "lists/second task.json", "root": "."}, {"data": "l.json"}]
    found = read_choice_tasks(mixture(tmp_path, sources))
    assert [(name, len(task.choices)) for name, task in found.items()] == [("second task", 2), ("l", 1)]
    assert found["second task"].videos[1] == VideoFile(str(tmp_path / "a.mp4"))
    with pytest.raises(ValueError, match=r"root is given for each source in .*m.json"):
        read_choice_tasks(tmp_path / "m.json", tmp_path)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([{"data": "l.json"}, 3], "m.json, source 2 must be an object with \"data\", got '3'"),
        ([{"data": "l.json"}, {"root": "x"}], "source 2 must be an object with"),
        ([{"data": "l.json", "weight": 2}], "source 1: unknown key 'weight'; known are data and root"),
        ([{"data": ["l.json"]}], "source 1: data must be a path, got"),
        ([{"data": "l.json"}, {"data": "x/../l.json"}], "source 2: there is a list called 'l' already"),
        ([{"data": "l.json"}, {"data": "empty.json"}], "source 2: .*empty.json has no entries"),
        ([{"data": "bad.json"}], "source 1: .*bad.json, entry 1: expected video or image, got neither"),
        ('[{"data": "l.json"}, ', "m.json is not JSON"),
        ("[]", "m.json has no entries"),
    ],
)
def test_malformed_mixtures_name_the_source(sources: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path, [ENTRY])
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "bad.json").write_text('[{"question": "What?", "candidates": ["a", "b"], "answer": "a"}]')
    with pytest.raises(ValueError, match=message):
        read_choice_tasks(mixture(tmp_path, sources))
    with pytest.raises(FileNotFoundError, match="source 1: choices: there is no list"):
        read_choice_tasks(mixture(tmp_path, [{"data": "gone.json"}]))
