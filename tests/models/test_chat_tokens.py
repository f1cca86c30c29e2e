"""Conversations and captions as tokens: where the video is, which tokens are answers, what is cut, bad input."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from tests.models.chatting import CHATML, MISTRAL, tokenizer
from videomae_fast.models.chat_tokens import ChatTokens, begin_captions, encode_captions, encode_chat

TOKENIZER = tokenizer()


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ONE = [said("user", "What moves here?"), said("assistant", "A red square.")]
TWO = [
    said("system", "Look."),
    *ONE,
    said("user", "Where? A red square."),
    said("assistant", "It moves left, été."),
]


def answers(tokens: ChatTokens, source: Any, row: int) -> list[str]:
    """The text of each run of answer tokens in a row."""
    length = tokens.ids.shape[1]
    places = [int(a) - row * length for a in tokens.answers if row * length <= a < (row + 1) * length]
    starts = [n for n, p in enumerate(places) if n == 0 or places[n - 1] != p - 1]
    runs = [places[a:b] for a, b in zip(starts, [*starts[1:], len(places)], strict=True)]
    return [source.decode(tokens.ids[row, run]) for run in runs]


def around_video(tokens: ChatTokens, source: Any, row: int) -> tuple[str, str]:
    kept = tokens.mask[row]
    ids, place = tokens.ids[row], int(tokens.place[row])
    before = torch.arange(len(ids)) < place
    return source.decode(ids[kept & before]), source.decode(ids[kept & ~before])


@pytest.mark.parametrize("template", [CHATML, MISTRAL], ids=["chatml", "mistral"])
def test_every_answer_and_its_end_is_a_target(template: str) -> None:
    source = tokenizer(template)
    talk = TWO if template == CHATML else TWO[1:]
    tokens = encode_chat(source, [ONE, talk])
    space = "" if template == CHATML else " "
    assert answers(tokens, source, 0) == [f"{space}A red square.<|im_end|>"]
    assert answers(tokens, source, 1) == [f"{space}A red square.<|im_end|>", f"{space}It moves left, été.<|im_end|>"]
    assert (tokens.cut, tokens.unanswered) == (0, 0)
    # What the template writes, and nothing else.
    for row, messages in enumerate((ONE, talk)):
        marked = [dict(message) for message in messages]
        first = next(message for message in marked if message["role"] == "user")
        first["content"] = f"<Video></Video> {first['content']}"
        written = source.apply_chat_template(marked, tokenize=False)
        before, after = around_video(tokens, source, row)
        assert before + after == written and before.endswith("<Video>") and after.startswith("</Video>")


@pytest.mark.parametrize("options", [{"special": True}, {"special": True, "rstrip": True}], ids=["plain", "rstrip"])
def test_any_special_token_ends_an_answer(options: dict[str, bool]) -> None:
    """Gemma's and Phi-3's end of a turn has no role in the tokenizer, and Phi-3's takes the line break behind it."""
    source = tokenizer(CHATML.replace("<|im_end|>", "<|fin|>"))
    source.add_tokens([AddedToken("<|fin|>", normalized=False, **options)])
    found = answers(encode_chat(source, [TWO]), source, 0)
    assert found == ["A red square.<|fin|>", "It moves left, été.<|fin|>"]


NO_END = CHATML.replace("<|im_end|>", "")
# The end token is between messages only, so the last answer has none.
BETWEEN = CHATML.replace("<|im_end|>", "{% if not loop.last or m.role == 'user' %}<|im_end|>{% endif %}")


def test_a_prompt_needs_no_end_of_an_answer() -> None:
    prompt = encode_chat(tokenizer(NO_END), [[*ONE, ONE[0]]], generation=True)
    assert not len(prompt.answers)


def test_no_token_lies_across_the_place_of_the_video() -> None:
    merged = TOKENIZER("<Video></Video>", add_special_tokens=False)["input_ids"]
    whole = TOKENIZER.convert_ids_to_tokens(merged)
    assert any(">" in token and "</" in token for token in whole), "else this tests nothing"
    before, after = around_video(encode_chat(TOKENIZER, [ONE]), TOKENIZER, 0)
    assert before.endswith("<Video>") and after.startswith("</Video>")


def test_the_video_goes_where_the_text_says() -> None:
    talk = [said("user", "Compare <Video></Video> with this."), said("assistant", "No.")]
    before, after = around_video(encode_chat(TOKENIZER, [talk]), TOKENIZER, 0)
    assert before.endswith("Compare <Video>") and after.startswith("</Video> with this.")
    plain = encode_chat(TOKENIZER, [ONE], marks=False)
    assert plain.place.tolist() == [0] and "Video" not in TOKENIZER.decode(plain.ids[0])
    assert answers(plain, TOKENIZER, 0) == ["A red square.<|im_end|>"]


def test_a_prompt_is_what_is_before_the_answer() -> None:
    whole = encode_chat(TOKENIZER, [ONE])
    prompt = encode_chat(TOKENIZER, [ONE[:1], [said("user", "Why?")]], generation=True)
    first = int(whole.answers[0])
    assert prompt.ids[0][prompt.mask[0]].tolist() == whole.ids[0, :first].tolist()
    assert prompt.mask[:, -1].all() and not prompt.mask[1, 0] and not len(prompt.answers)
    before, after = around_video(prompt, TOKENIZER, 1)
    assert before.endswith("<Video>") and after.endswith("</Video> Why?<|im_end|>\n<|im_start|>assistant\n")


def test_captions() -> None:
    tokens = encode_captions(TOKENIZER, ["A red square moves.", "Blue"])
    assert TOKENIZER.decode(tokens.ids[0]) == "<s>A red square moves.<|im_end|>"
    assert tokens.place.tolist() == [1, 1]
    assert [answers(tokens, TOKENIZER, n) for n in (0, 1)] == [["A red square moves.<|im_end|>"], ["Blue<|im_end|>"]]
    begin = begin_captions(TOKENIZER, 2)
    assert begin.ids.tolist() == [[3], [3]] and begin.place.tolist() == [1, 1] and not len(begin.answers)
    assert begin_captions(tokenizer(bos_token=None), 1).ids.tolist() == [[2]]


def test_what_is_too_long_is_cut_and_counted() -> None:
    whole = encode_captions(TOKENIZER, ["A red square moves left.", "Blue"])
    assert whole.ids.shape[1] > 5
    tokens = encode_captions(TOKENIZER, ["A red square moves left.", "Blue"], max_tokens=5)
    assert tokens.ids.shape == (2, 5) and (tokens.cut, tokens.unanswered) == (1, 0)
    assert torch.equal(tokens.ids[0], whole.ids[0, :5]) and int(tokens.answers.max()) < 10
    first = int(encode_chat(TOKENIZER, [ONE]).answers[0])
    tokens = encode_chat(TOKENIZER, [ONE, ONE], max_tokens=first)
    assert (tokens.cut, tokens.unanswered, len(tokens.answers)) == (2, 2, 0)
    long = [said("system", "red " * 9), *ONE]
    tokens = encode_chat(TOKENIZER, [long, ONE], max_tokens=20)  # the video is behind what is left of the first text
    assert tokens.place[0] == 20 > tokens.place[1] and (tokens.cut, tokens.unanswered) == (2, 2)


def test_a_batch_moves() -> None:
    tokens = encode_captions(TOKENIZER, ["Blue"]).to("meta")
    assert {t.device.type for t in (tokens.ids, tokens.mask, tokens.place, tokens.answers)} == {"meta"}


MARK = "<Video></Video>"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode_chat(tokenizer(None), [ONE]), "has no chat template"),
        (lambda: encode_chat(TOKENIZER, []), "conversations must be one or more, got none"),
        (
            lambda: encode_chat(TOKENIZER, [ONE, [ONE[0], said("assistant", " ")]]),
            "conversations[1]: message 1: the answer",
        ),
        (
            lambda: encode_chat(TOKENIZER, [ONE[:1]]),
            "the last message must be an answer (assistant) to learn, got one of",
        ),
        (lambda: encode_chat(TOKENIZER, [ONE], generation=True), "must be a question (user) to be answered"),
        (lambda: encode_chat(TOKENIZER, [ONE[1:]]), "a message of the user must be before all answers"),
        (
            lambda: encode_chat(TOKENIZER, [[said("bot", "a")]]),
            "message 0 must have a role (system, user or assistant)",
        ),
        (lambda: encode_chat(TOKENIZER, [[{"role": "user"}]]), "got 'user' and NoneType"),
        (
            lambda: encode_chat(TOKENIZER, [[said("user", MARK * 2), ONE[1]]]),
            "once, in a question, or not at all, got it 2",
        ),
        (lambda: encode_chat(TOKENIZER, [[ONE[0], said("assistant", MARK)]]), "once, in a question, or not at all"),
        (lambda: encode_chat(TOKENIZER, [[*ONE, said("user", MARK), ONE[1]]]), "must be in the first question"),
        (lambda: encode_chat(tokenizer(MISTRAL), [TWO]), "chat template refuses the messages: only user and assistant"),
        (lambda: encode_chat(tokenizer("{{ messages[-1].content }}"), [ONE]), "does not write messages one after the"),
        (
            lambda: encode_chat(tokenizer(NO_END), [ONE]),
            "conversations[0]: the tokenizer's chat template ends an answer",
        ),
        (lambda: encode_chat(tokenizer(BETWEEN), [ONE, ONE]), "ends an answer without an end token (eos or a special"),
        (lambda: encode_chat(tokenizer(NO_END), [ONE], max_tokens=30), "so a model would never learn to stop"),
        (lambda: encode_chat(TOKENIZER, [ONE[:1]], max_tokens=9, generation=True), "must be within max_tokens 9"),
        (lambda: encode_captions(TOKENIZER, ["a", " "]), "captions[1] is empty"),
        (lambda: encode_captions(TOKENIZER, ["a"], max_tokens=0), "max_tokens must be positive, got 0"),
        (lambda: encode_captions(tokenizer(eos_token=None), ["a"]), "tokenizer has no token for the end of a text"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(TypeError, match="tokenizer must be a fast one, which tells offsets, got Slow"):
        encode_captions(Slow(), ["a"])
