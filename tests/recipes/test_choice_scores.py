"""Which option an answer names, and the accuracy of answers."""

import pytest

from videomae_fast.data import Choice
from videomae_fast.recipes.choice_scores import choice_scores, chosen_option

OPTIONS = ("Opened the door.", "The red ball", "A man", "ball")


def published(answer: str, right: str) -> bool:
    """`check_ans` of MVBench, written anew from what it does: first words, one a part of the other."""
    said, wanted = answer.lower().split(" ")[0], right.lower().split(" ")[0]
    return said.replace(".", "") in wanted or wanted in said


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("(A) Opened the door.", 0),
        ("(b)", 1),
        ("C", 2),
        ("d.", 3),
        ("B) a thing that is none of them", 1),
        ("A: opened", 0),
        ("Best option:(C) A man", 2),
        ("The answer is (D).", 3),
        ("answer: b", 1),
        (" (A) Opened the door.\n(B) The red ball", 0),
        ("A opened the door", 0),
        ("opened the DOOR", 0),
        ("A man", 2),
        ("It is the red ball, I think.", 1),  # and not "ball", which is in it
        ("the ball", 3),
        ("", None),
        ("(E) nothing", None),
        ("E", None),
        ("I do not know", None),
        ("a man opened the door", None),
        ("(", None),
    ],
)
def test_options_by_letter_and_by_words(answer: str, option: int | None) -> None:
    assert chosen_option(answer, OPTIONS) == option


def test_the_order_of_options_does_not_matter_for_words() -> None:
    assert chosen_option("It is the red ball", ("ball", "the red ball")) == 1
    assert chosen_option("It is the red ball", ("the red ball", "ball")) == 0


@pytest.mark.parametrize(("answer", "option"), [("Answering the phone", 0), ("Answer the door", 1), ("answer: (B)", 1)])
def test_options_that_begin_as_a_lead_does(answer: str, option: int) -> None:
    assert chosen_option(answer, ("answering the phone", "answer the door")) == option


@pytest.mark.parametrize("letter", ["(A)", "(B)", "(c)", "(D).", "(D),", "(B):"])
@pytest.mark.parametrize("rest", ["", " Opened the door.", " something else"])
def test_letters_in_brackets_count_as_published(letter: str, rest: str) -> None:
    for number, option in enumerate(OPTIONS):
        right = f"({'ABCD'[number]}) {option}"
        assert (chosen_option(letter + rest, OPTIONS) == number) == published(letter + rest, right)


def test_accuracy() -> None:
    choices = [Choice("q", OPTIONS, 2), Choice("q", OPTIONS, 1), Choice("q", ("x", "y"), 0), Choice("q", ("x", "y"), 1)]
    assert choice_scores(choices, ["(C)", "(A)", "x", "?"]) == {
        "accuracy": 0.5,
        "unclear": 0.25,
        "chance": 0.375,
        "questions": 4,
    }
    with pytest.raises(ValueError, match="answers must be one to each of one or more questions, got 1 to 4"):
        choice_scores(choices, ["x"])
    with pytest.raises(ValueError, match="got 0 to 0"):
        choice_scores([], [])
