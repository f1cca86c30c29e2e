"""Conversations in lists: what is read, how it is kept, and what is refused."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import examples
from videomae_fast.data import (
    CaptionedVideos,
    InstructedVideos,
    Mixture,
    VideoFile,
    parse_conversation,
    read_captions,
    read_instructions,
    read_mixture,
)
from videomae_fast.data.sources import json_lists
from videomae_fast.data.sources.instructions import has_conversations, is_conversation

TURN = {"q": "What moves?", "a": "A dog."}
ENTRY = {"video": "a.mp4", "QA": [TURN]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b c.mp4", "d.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    if name.endswith(".jsonl") and isinstance(content, list):
        content = "".join(json.dumps(line) + "\n" for line in content)
    content = content if isinstance(content, bytes | str) else json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def said(videos: InstructedVideos, index: int) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in videos.conversation(index)]


def chat(*contents: str, roles: str = "ua", **changes: Any) -> dict[str, Any]:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    messages = [{"role": names[role], "content": text} for role, text in zip(roles, contents, strict=True)]
    return {"videos": ["a.mp4"], "messages": messages} | changes


def test_instruction_lists(folder: Path) -> None:
    turns = [{"i": "Watch.", "q": " Who? ", "a": "A dog\nand a cat. "}, {"i": "Else.", "q": "Why?", "a": "\u00e9"}]
    path = write(
        folder,
        "list.json",
        [
            {"video": "a.mp4", "QA": turns, "start": 1.5, "end": 3, "id": 7},
            {"image": "d.jpg", "QA": [{"i": "Describe it.", "q": "", "a": "Blue."}]},
            {"video": "b c.mp4", "QA": [TURN], "start": None},
        ],
    )
    videos = read_instructions(path)
    assert said(videos, 0) == [
        ("user", "Watch.\nWho?"),
        ("assistant", "A dog\nand a cat."),
        ("user", "Why?"),
        ("assistant", "\u00e9"),
    ]
    assert said(videos, 1) == [("user", "Describe it."), ("assistant", "Blue.")]
    assert said(videos, -1) == [("user", "What moves?"), ("assistant", "A dog.")]
    assert videos.captioned(0)[2:] == (1.5, 3) and videos.captioned(2)[2:] == (0, math.inf)
    assert videos[2] == VideoFile(str(folder / "b c.mp4")) and videos.is_image.tolist() == [False, True, False]
    images = videos.of_kind(True)
    assert isinstance(images, InstructedVideos) and said(images, 0) == said(videos, 1)


def test_chats(folder: Path) -> None:
    lines = [
        chat("Be short.", "<video>\nWho?", "A dog.", "Why?", "No idea.", roles="suaua", start=2),
        chat("<image> What?", "Blue.", images=["d.jpg"]) | {"source": "x"},
    ]
    del lines[1]["videos"]
    videos = read_instructions(write(folder, "l.jsonl", "\n".join(["", *map(json.dumps, lines), ""])))
    assert said(videos, 0) == [
        ("system", "Be short."),
        ("user", "Who?"),
        ("assistant", "A dog."),
        ("user", "Why?"),
        ("assistant", "No idea."),
    ]
    assert said(videos, 1) == [("user", "What?"), ("assistant", "Blue.")]
    assert videos.captioned(0).start == 2 and videos.is_image.tolist() == [False, True]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([1], r"entry 2: expected a JSON object, got '\[1\]'"),
        ({"QA": [TURN]}, "entry 2: expected video or image, got neither"),
        (ENTRY | {"image": "d.jpg"}, "entry 2: expected video or image, got video and image"),
        (ENTRY | {"video": 3}, "entry 2: video must be a path, got '3'"),
        (ENTRY | {"video": ""}, "entry 2: the path is empty"),
        (ENTRY | {"video": "a\0"}, "entry 2: a path cannot hold a NUL"),
        ({"image": "a.gif", "QA": [TURN]}, r"entry 2: image must end in one of .*\.png.*, got 'a.gif'"),
        ({"video": "a.mp4"}, "entry 2: QA must be a list of questions and answers, at least one"),
        (ENTRY | {"QA": []}, "entry 2: QA must be a list"),
        (ENTRY | {"QA": ["x"]}, r"entry 2: QA\[0\] must be an object with q and a, got"),
        (ENTRY | {"QA": [TURN, TURN | {"a": " "}]}, r"entry 2: QA\[1\].a: the answer is empty"),
        (ENTRY | {"QA": [{"q": "x"}]}, r"entry 2: QA\[0\].a must be a text, got 'None'"),
        (
            ENTRY | {"QA": [{"i": "", "a": "x"}]},
            r"entry 2: QA\[0\]: there is no question: i and q are empty",
        ),
        (ENTRY | {"QA": [TURN, {"i": "x", "q": "", "a": "x"}]}, r"entry 2: QA\[1\]: there is no question: q are"),
        (ENTRY | {"QA": [TURN | {"q": 3}]}, r"entry 2: QA\[0\].q must be a text, got '3'"),
        (ENTRY | {"QA": [TURN | {"a": "\ud800"}]}, r"entry 2: QA\[0\].a: the answer is no text in UTF-8"),
        (ENTRY | {"QA": [TURN | {"a": "x" * 70_000}]}, r"entry 2: QA\[0\].a: an answer has at most 65536 characters"),
        (ENTRY | {"start": 3, "end": 3}, "entry 2: start must be before end, got 3 and 3 in 'a.mp4'"),
        (ENTRY | {"end": "3"}, "entry 2: end must be seconds"),
        ({"image": "d.jpg", "QA": [TURN], "start": 1}, "entry 2: an image has no start and end"),
    ],
)
def test_malformed_instructions_name_entry_and_field(entry: Any, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=rf"l\.json, {message}"):
        read_instructions(write(folder, "l.json", [ENTRY, entry]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([1], "expected a JSON object with videos and messages"),
        (chat("q", "a", videos="a.mp4"), "videos must be a list of one path, got"),
        (chat("q", "a", videos=["a.mp4", "b.mp4"]), "videos must be a list of one path"),
        ({"messages": []}, "expected videos or images, got neither"),
        (chat("q", "a", messages={}), "messages must be a list of objects"),
        (chat(roles=""), "messages must end in an answer of the assistant to each question, got 0"),
        (chat("q", roles="u"), "messages must end in an answer"),
        (chat("s", "q", roles="su"), "messages must end in an answer"),
        (chat("a", "q", roles="au"), r"messages\[0\].role must be user, got ''assistant''"),
        (chat("q", "x", roles="ut"), r"messages\[1\].role must be assistant, got ''tool''"),
        (chat("q", "a", "q", "q", roles="uauu"), r"messages\[3\].role must be assistant"),
        (chat("q", " "), r"messages\[1\].content: the answer is empty"),
        (chat("<video>", "a"), r"messages\[0\].content: the question is empty"),
        (chat("q <video>", "a"), r"messages\[0\].content: <video> and <image> may only begin the first question"),
        (chat("<video><image>q", "a"), ".* may only begin the first question"),
        (chat("q", "a", "<video>q", "a", roles="uaua"), r"messages\[2\].content: <video> and"),
    ],
)
def test_malformed_chats_name_line_and_field(line: Any, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=rf"l\.jsonl:2: {message}"):
        read_instructions(write(folder, "l.jsonl", [chat("q", "a"), line]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.json", "[]", "l.json has no entries"),
        ("l.jsonl", "\n", "l.jsonl has no entries"),
        ("l.json", "{}", "l.json is no list in JSON: Expecting a list: line 1 column 1"),
        ("l.json", json.dumps([ENTRY]) + ",", r"l.json is no list in JSON: Extra data: line 1"),
        ("l.json", json.dumps([ENTRY])[:-1] + "\n x", r"l.json is no list in JSON: Expecting ',' or '\]': line 2"),
        ("l.json", json.dumps([ENTRY])[:-1] + ', {"a": 1, "a": 2}]', "l.json, entry 2: the key 'a' comes twice"),
        ("l.json", b'["\xff"]', "l.json is no text in UTF-8"),
        ("l.json", b"\x1f\x8b" + b"x" * 9, "it is compressed by gzip"),
        ("l.csv", "x", r"instructions: expected a list \(.json, .jsonl\), got .*l.csv"),
    ],
)
def test_other_files_are_refused(name: str, content: Any, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_instructions(write(folder, name, content))


def test_root_and_missing_files(folder: Path) -> None:
    (folder / "lists").mkdir()
    path = write(folder / "lists", "l.json", [ENTRY])
    assert read_instructions(path, folder)[0] == VideoFile(str(folder / "a.mp4"))
    with pytest.raises(FileNotFoundError, match=r"none of the first 1 entries of .*l.json exists under root="):
        read_instructions(path)
    with pytest.raises(FileNotFoundError, match=r"instructions: there is no list .* at .*x.json"):
        read_instructions(folder / "x.json")
    with pytest.raises(ValueError, match="is no regular file"):
        read_instructions(folder / "lists")


def test_a_conversation_is_no_caption(folder: Path) -> None:
    """Not even one that looks like it: of a caption, each run of white space is one space."""
    text = read_instructions(write(folder, "l.json", [ENTRY])).captioned(0).captions[0]
    assert is_conversation(text) and text.endswith('["","What moves?","A dog."]')
    for caption in (text[1:], text):
        listed = write(folder, "c.jsonl", [{"path": "a.mp4", "caption": caption}])
        (found,) = read_captions(listed).captioned(0).captions
        assert found == text[1:] and not is_conversation(found)


@pytest.mark.parametrize(
    "text", ["a caption", '["","q","a"]', *("\x1e" + t for t in ("3", '["","q"]', '["","q","a","q"]', '["",1,"a"]'))]
)
def test_other_texts_are_no_conversation(text: str) -> None:
    with pytest.raises(ValueError, match="expected a conversation of InstructedVideos, got"):
        parse_conversation(text)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("l.json", [ENTRY], True),
        ("l.json", [{"image": "d.jpg"}], True),  # malformed, and no mixture
        ("l.json", json.dumps([ENTRY])[:-1] + ", {", True),  # what follows is not read
        ("l.json", [{"data": "l.json"}], False),
        ("l.json", "[", False),
        ("l.json", "[]", False),
        ("l.json", b"\xff", False),
        ("l.json", ENTRY, False),
        ("l.jsonl", "\n" + json.dumps(chat("q", "a")) + "\n{", True),
        ("l.jsonl", [{"path": "a.mp4", "caption": "x"}], False),
        ("l.jsonl", "x\n", False),
        ("l.tsv", json.dumps([ENTRY]), False),
        ("gone.json", None, False),
    ],
)
def test_conversations_are_known_by_the_keys_of_the_first_entry(
    name: str, content: Any, expected: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / name if content is None else write(folder, name, content)
    for beginning in (2**16, 1):
        monkeypatch.setattr(json_lists, "_BEGINNING", beginning)
        assert has_conversations(path) == expected


def kinds(mixture: Mixture) -> list[type]:
    return [type(source.annotations) for source in mixture.sources]


def test_mixtures_of_captions_and_conversations(folder: Path) -> None:
    (folder / "lists").mkdir()
    talks, chats = write(folder / "lists", "t.json", [ENTRY]), write(folder, "t.jsonl", [chat("q", "a")])
    write(folder, "c.jsonl", [{"path": "a.mp4", "caption": "a dog"}])
    sources = [{"data": "lists/t.json", "root": ".", "weight": 3}, {"data": "c.jsonl"}, {"data": "t.jsonl"}]
    found = read_mixture(write(folder, "m.json", sources), captioned=True, conversations=True)
    assert kinds(found) == [InstructedVideos, CaptionedVideos, InstructedVideos]
    assert [source.weight for source in found.sources] == [3, 1, 1] and found.epoch_length == 5
    assert found.captioned(0).video == VideoFile(str(folder / "a.mp4"))
    for path, root in ((talks, folder), (chats, None)):
        assert kinds(read_mixture(path, root, captioned=True, conversations=True)) == [InstructedVideos]
        with pytest.raises(ValueError, match=rf"{path.name} has conversations, and captions are needed"):
            read_mixture(path, root, captioned=True)
    with pytest.raises(ValueError, match=r"m.json, source 1: .*t.json has conversations"):
        read_mixture(folder / "m.json", captioned=True)
    write(folder, "m.json", [{"data": "lists/t.json", "root": "."}, {"data": "bad.json"}])
    write(folder, "bad.json", [ENTRY, ENTRY | {"QA": [TURN | {"a": ""}]}])
    with pytest.raises(ValueError, match=r"m.json, source 2: .*bad.json, entry 2: QA\[0\].a: the answer is empty"):
        read_mixture(folder / "m.json", captioned=True, conversations=True)


def test_a_long_list_is_never_held_as_objects(folder: Path) -> None:
    count = 5000
    path = write(folder, "l.json", [ENTRY] * count)
    tracemalloc.start()
    videos = read_instructions(path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = path.stat().st_size
    # The text of the file is there twice, as bytes and as a string, then the arrays with room to grow; the objects of
    # `json.load` alone take more than 20 times the file.
    assert len(videos) == count and kept < 2 * size and peak < 5 * size


ENTRIES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from(["a.mp4", "d.jpg", "", " ", "x\ny", "\ud800", "\0"]),
    lambda each: (
        st.lists(each, max_size=3)
        | st.dictionaries(st.sampled_from(["video", "image", "QA", "i", "q", "a", "start", "end"]), each, max_size=5)
    ),
    max_leaves=12,
)
TURNS = st.lists(st.fixed_dictionaries({"q": st.text(max_size=3), "a": st.text(max_size=3)}), max_size=3)
CONTENT = st.lists(ENTRIES | st.fixed_dictionaries({"video": st.just("a.mp4"), "QA": TURNS}), max_size=3).map(
    json.dumps
) | st.text(alphabet='[]{},:"aqi3 \n', max_size=30)


@examples(200, 5000)
@given(content=CONTENT)
def test_any_json_is_conversations_or_an_error(folder: Path, content: str) -> None:
    try:
        videos = read_instructions(write(folder, "l.json", content))
    except (ValueError, FileNotFoundError) as error:
        assert "l.json" in str(error) and str(error).isprintable()
        return
    for index in range(len(videos)):
        roles, contents = zip(*said(videos, index), strict=True)
        assert set(roles[::2]) == {"user"} and set(roles[1::2]) == {"assistant"} and all(map(str.strip, contents))
