"""Training on conversations, alone and mixed with captions: what a step learns, what is refused, cut and replaced."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import tiny
from videomae_fast.models.chat_tokens import encode_chat
from videomae_fast.recipes.caption import Captioning, caption

pytest.importorskip("transformers")
from tests.models.chatting import MISTRAL
from tests.recipes import captioning

TURNS = [{"i": "Watch.", "q": "What moves?", "a": "red rows"}, {"q": "And the image?", "a": "it is wide"}]
SMALL: dict[str, Any] = {"connector": "mean", "connector_depth": 0, "max_tokens": 100}


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captioning.write_language_model(tmp_path_factory.mktemp("language"))


def write(folder: Path, pairs: Path, turns: Any = TURNS, count: int = 8) -> Path:
    """A mixture of the captions and, twice as often, of conversations about parts of the same videos."""
    folder.mkdir(exist_ok=True)
    talks = [{"video": f"video{n}.mp4", "QA": turns, "start": 0.1, "end": 0.3 + n / 100} for n in range(count)]
    (folder / "talks.json").write_text(json.dumps(talks))
    sources = [{"data": str(pairs)}, {"data": "talks.json", "root": str(pairs.parent), "weight": 2}]
    (folder / "mixture.json").write_text(json.dumps(sources))
    return folder / "mixture.json"


def built(data: Path, language: Path, output: Path, /, **changes: Any) -> Captioning:
    torch.manual_seed(3)
    recipe = Captioning(captioning.settings(data, language, output, **SMALL | changes))
    recipe.build(torch.device("cpu"), lambda line: None)
    return recipe


def test_all_answers_of_a_conversation_are_learnt_and_those_of_captions(
    pairs: Path, language: Path, tmp_path: Path
) -> None:
    recipe = built(write(tmp_path, pairs), language, tmp_path / "run", batch_size=8)
    batch = next(batch for batch in recipe.batches(0, 1, 0, 2) if not batch.is_image)
    (part,) = recipe.parts(batch, 1, torch.device("cpu"))
    talk = [
        {"role": "user", "content": "Watch.\nWhat moves?"},
        {"role": "assistant", "content": "red rows"},
        {"role": "user", "content": "And the image?"},
        {"role": "assistant", "content": "it is wide"},
    ]
    is_talk = [text.endswith('"it is wide"]') for text in batch.texts]
    assert {True, False} == set(is_talk)
    expected = encode_chat(
        recipe.texts.tokenizer,
        [
            talk if known else [{"role": "user", "content": "What moves?"}, {"role": "assistant", "content": text}]
            for known, text in zip(is_talk, batch.texts, strict=True)
        ],
    )
    assert torch.equal(part.tokens.ids, expected.ids) and torch.equal(part.tokens.answers, expected.answers)
    loss, _ = recipe.step(recipe.model, part, 0)
    torch.testing.assert_close(loss, recipe.model(batch.clips, expected).loss)


def test_a_list_alone_with_a_root_learns_and_continues_exactly(pairs: Path, language: Path, tmp_path: Path) -> None:
    write(tmp_path, pairs)
    listed = tmp_path / "talks.json"
    messages = [{"role": "user", "content": "<video>Who?"}, {"role": "assistant", "content": "rows"}]
    chats = (json.dumps({"videos": [f"video{n}.mp4"], "messages": messages}) for n in range(8))
    (tmp_path / "talks.jsonl").write_text("\n".join(chats))
    options = {**SMALL, "root": str(pairs.parent), "lr": 0.5, "batch_size": 8, "epochs": 4}
    options |= {"eval_data": str(tmp_path / "talks.jsonl"), "eval_every": 4}
    whole = captioning.settings(listed, language, tmp_path / "whole", **options)
    caption(whole)
    losses = tiny.losses(tmp_path / "whole")
    assert losses[-1] < losses[0] and len(losses) == 4
    two = whole.with_options(output=str(tmp_path / "two"))
    caption(two.with_options(max_steps=3))
    text = listed.read_text()
    listed.write_text(text.replace("rows", "dogs"))
    with pytest.raises(ValueError, match=r"a run continues with .*'fingerprint': "):
        caption(two.with_options(resume=True))
    listed.write_text(text)
    caption(two.with_options(resume=True))
    assert tiny.losses(tmp_path / "two") == losses


def test_a_tokenizer_without_chat_template_is_refused(pairs: Path, tmp_path: Path) -> None:
    plain = captioning.write_language_model(tmp_path / "plain", None)
    data = write(tmp_path, pairs)
    with pytest.raises(ValueError, match=r"tokenizer in .*plain has no chat template, by which conversations become"):
        built(data, plain, tmp_path / "run")
    with pytest.raises(ValueError, match=r"has no chat template"):
        built(pairs, plain, tmp_path / "run", eval_data=str(data), eval_every=1)
    with pytest.raises(ValueError, match=r"mixture.json, source 2: .*talks.json, entry 1: QA\[0\].a: the answer is em"):
        built(write(tmp_path, pairs, [TURNS[0] | {"a": " "}]), plain, tmp_path / "run")


def test_a_chat_template_that_refuses_a_list_does_so_before_training(pairs: Path, tmp_path: Path) -> None:
    roles = (("system", "Be short."), ("user", "Who?"), ("assistant", "rows"))
    chat = {"videos": ["video1.mp4"], "messages": [{"role": role, "content": text} for role, text in roles]}
    (tmp_path / "talks.jsonl").write_text(json.dumps(chat))
    mistral = captioning.write_language_model(tmp_path / "mistral", MISTRAL)
    with pytest.raises(ValueError, match=r"conversation about .*video1\.mp4 and .*mistral: .* only user and assistant"):
        built(tmp_path / "talks.jsonl", mistral, tmp_path / "run", root=str(pairs.parent), batch_size=1)


@pytest.mark.parametrize("inject", ["prefix", "cross-attention"])
def test_questions_that_leave_no_room_teach_nothing_and_are_counted(
    inject: str, pairs: Path, language: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part without answers has no gradient; a run goes on, and says how many there were."""
    data = write(tmp_path, pairs, [{"q": "red " * 150, "a": "red"}])
    resampler = {"connector": "resampler", "connector_depth": 1, "inject": inject, "batch_size": 1, "accumulate": 2}
    recipe = built(tmp_path / "talks.json", language, tmp_path / "run", root=str(pairs.parent), **resampler)
    (batch,) = recipe.batches(0, 1, 0, 1)
    for part in recipe.parts(batch, 2, torch.device("cpu")):
        loss, _ = recipe.step(recipe.model, part, 0)
        loss.backward()
        assert loss == 0
    assert all(not bool(p.grad.any()) for p in recipe.model.parameters() if p.grad is not None)
    assert {p.grad is None for p in recipe.model.connector.parameters() if p.requires_grad} == {False}
    caption(captioning.settings(data, language, tmp_path / "run", **SMALL | resampler, epochs=1, max_steps=8))
    out = capsys.readouterr().out
    count = int(out.partition(" of 16 texts were cut")[0].rpartition("\n")[2])
    assert 0 < count < 16 and f"of {count} texts nothing was learnt: their questions fill max_tokens" in out


def test_videos_that_cannot_be_read_are_replaced(
    pairs: Path, language: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path, pairs, count=9)  # there are 8
    caption(captioning.settings(data, language, tmp_path / "run", **SMALL, epochs=1, batch_size=2))
    out = capsys.readouterr().out
    assert "1 unreadable videos, replaced" in out and "video8.mp4" in out
