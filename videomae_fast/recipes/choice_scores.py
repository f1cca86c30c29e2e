"""Multiple choice: which of the options an answer in words names, and how many answers are right."""

import re
from collections.abc import Sequence

from ..data import Choice
from .text_scores import caption_words

_BEGIN = re.compile(r"(?:(?:the )?(?:best |correct )?(?:option|answer)\b(?: is\b)?)?[\s:]*", re.IGNORECASE)
_MARKED = re.compile(r"\(([A-Z])\)|([A-Z])[).:,]|([A-Z])$", re.IGNORECASE)  # (A), A) or A., or the letter alone
_UNMARKED = re.compile(r"([A-Z])\s+(.*)", re.IGNORECASE)


def chosen_option(answer: str, candidates: Sequence[str]) -> int | None:
    """Find the option that an answer names.

    Of an answer the first line counts, without "Best option:", "The answer is" and the like in front. It names an
    option

    1. by its letter at the beginning, if there are so many: "(A)", "A)", "A.", "A:" or "A,", whatever follows, or "A"
       alone or before the words of this option;
    2. or else by its words, letters of any size and without punctuation, if it has those of one option. Of options that
       it has, one within the words of another does not count.

    The published script compares the first word with the letter of the right option, and counts it if one is a part of
    the other. For answers that begin with a letter in brackets, as that script makes models begin, this is the same. It
    also counts an empty answer as right, and "A man" as the first option, which this does not, and no option by words.

    Args:
        answer: what a model wrote.
        candidates: the options, in the order of their letters.

    Returns:
        The number of the option; None if there is none, or more than one by words.

    References:
        `check_ans` of video_chat2/mvbench.ipynb of OpenGVLab/Ask-Anything.
    """
    text = answer.strip()
    begin = _BEGIN.match(text)
    place = begin.end() if begin else 0
    line = text[place:].partition("\n")[0].strip()
    options = [caption_words(text) for text in candidates]
    if marked := _MARKED.match(line):
        number = _number(next(filter(None, marked.groups())))
        if number < len(candidates):
            return number
    if unmarked := _UNMARKED.match(line):
        number = _number(unmarked[1])
        if number < len(candidates) and caption_words(unmarked[2]) == options[number]:
            return number
    words = caption_words(text[:place] + line)  # "answer the door" may be an option itself
    held = [number for number, option in enumerate(options) if _has(words, option)]
    longest = [k for k in held if not any(k != other and _has(options[other], options[k]) for other in held)]
    return longest[0] if len(longest) == 1 else None


def choice_scores(choices: Sequence[Choice], answers: Sequence[str]) -> dict[str, float]:
    """Score answers to multiple-choice questions.

    Args:
        choices: the questions, one or more.
        answers: what a model wrote to each.

    Returns:
        "accuracy", the share of answers that name the right option (`chosen_option`); "unclear", the share of those
        that name none; "chance", the mean of 1 / the number of options; and "questions", their number.

    Raises:
        ValueError: numbers differ, or there are no questions.
    """
    if not choices or len(choices) != len(answers):
        raise ValueError(f"answers must be one to each of one or more questions, got {len(answers)} to {len(choices)}")
    chosen = [chosen_option(answer, choice.candidates) for choice, answer in zip(choices, answers, strict=True)]
    count = len(choices)
    return {
        "accuracy": sum(number == choice.answer for number, choice in zip(chosen, choices, strict=True)) / count,
        "unclear": chosen.count(None) / count,
        "chance": sum(1 / len(choice.candidates) for choice in choices) / count,
        "questions": count,
    }


def _number(letter: str) -> int:
    return ord(letter.upper()) - ord("A")


def _has(words: list[str], part: list[str]) -> bool:
    """Whether some words have others one after another."""
    return bool(part) and any(words[k : k + len(part)] == part for k in range(len(words) - len(part) + 1))
