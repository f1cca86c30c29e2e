"""Scores of captions: against figures worked out by hand, and against those of the published code."""

import math

import pytest

from videomae_fast.recipes.cider import cider_d
from videomae_fast.recipes.text_scores import caption_scores, caption_words

REFERENCES = [
    ["A man rides a bike on the road.", "someone is riding a bike", "a man on a bike rides fast"],
    ["Two dogs play with a red ball.", "Dogs play with balls"],
    ["It's raining; the man's hat falls down!", "a hat falls in the rain"],
    ["a red car", "The red car doesn't move"],
]
CANDIDATES = ["a man rides a bike", "two cats play with balls", "A man's hat falls down", "the red car does not move"]
# pycocoevalcap 1.2 (Bleu, Rouge and Cider, with the words of its PTBTokenizer) of the captions above.
PUBLISHED = {
    "bleu1": 0.90909091,
    "bleu2": 0.81028739,
    "bleu3": 0.75012023,
    "bleu4": 0.67778298,
    "rouge_l": 0.72389736,
    "cider_d": 3.46301294,
}


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog doesn't bark, and can't run.", "a man 's dog does n't bark and ca n't run"),
        ("It\u2019s a well-known T-shirt!", "it 's a well-known t-shirt"),
        ('They cannot; "we\'re gonna" -- 3.5 & 1,000', "they can not we 're gon na 3.5 & 1,000"),
        ("They'll fall, I've seen he'd", "they 'll fall i 've seen he 'd"),
        ("Rock (loud) o'clock: the dogs' \u00c9t\u00e9...", "rock loud o'clock the dogs \u00e9t\u00e9"),
        ("... - !", ""),
    ],
)
def test_words(caption: str, words: str) -> None:
    assert caption_words(caption) == words.split()


def test_cider_by_hand() -> None:
    """Two videos, in which no n-gram is shared: every weight is count · log 2, and cosines are of counts."""
    references = [[["a", "b", "c", "d"]], [["e", "f", "g", "h"], ["e", "f"]]]
    scores = cider_d(references, [["a", "b", "x", "d"], ["e", "e", "f"]])
    # n = 1: 3 of 4 words; n = 2: "a b" of 3 pairs; longer ones: none.
    assert scores[0] == pytest.approx(10 * (3 / 4 + 1 / 3) / 4)
    # Reference 1: "e" is clipped to 1, norms √5 and 2; "e f" of norms √2 and √3; one word less.
    # Reference 2: norms √5 and √2, √2 and 1; one word more.
    first = (2 / math.sqrt(20) + 1 / math.sqrt(6)) / 4
    second = (2 / math.sqrt(10) + 1 / math.sqrt(2)) / 4
    assert scores[1] == pytest.approx(10 * math.exp(-1 / 72) * (first + second) / 2)


def test_cider_of_words_in_every_video_is_nothing() -> None:
    assert cider_d([[["a"]], [["a"]]], [["a"], ["b"]]) == [0, 0]
    own = [["a", "b", "c", "d"], ["e", "f", "g", "h"]]
    assert cider_d([[words] for words in own], own) == pytest.approx([10, 10])
    assert cider_d([[words] for words in own], [own[1], []]) == [0, 0]


@pytest.mark.parametrize(
    ("references", "candidates"), [([[["a"]]], [["a"]]), ([[["a"]], []], [["a"], ["a"]]), ([[["a"]]] * 3, [["a"]] * 2)]
)
def test_cider_needs_references_of_two_videos(references: list, candidates: list) -> None:
    with pytest.raises(ValueError, match="CIDEr-D needs two videos or more"):
        cider_d(references, candidates)


def test_scores_are_the_published_ones() -> None:
    pytest.importorskip("torchmetrics")
    found = caption_scores(REFERENCES, CANDIDATES)
    assert found.pop("exact_match") == 0
    assert found == pytest.approx(PUBLISHED, rel=1e-6)


def test_scores_of_the_references_themselves() -> None:
    pytest.importorskip("torchmetrics")
    found = caption_scores(REFERENCES, [own[0].upper() for own in REFERENCES])
    assert found["exact_match"] == 1 and found["rouge_l"] == pytest.approx(1) and found["bleu4"] == pytest.approx(1)
    assert 2 < found["cider_d"] < 10


def test_an_empty_caption_is_like_nothing() -> None:
    pytest.importorskip("torchmetrics")
    references = [["a man walks home now"], ["two dogs play here"]]
    assert set(caption_scores(references, ["", "..."]).values()) == {0}
    half = caption_scores(references, ["a man walks home now", ""])
    assert half["exact_match"] == 0.5 and half["rouge_l"] == pytest.approx(0.5) and half["cider_d"] == pytest.approx(5)
    assert half["bleu1"] == pytest.approx(math.exp(1 - 9 / 5))  # all words are right, and too few


def test_the_shorter_of_two_closest_references_has_the_length() -> None:
    pytest.importorskip("torchmetrics")
    found = caption_scores([["a b c d e", "a b c"], ["f g h i"]], ["a b c d", "f g h i"])
    assert found["bleu1"] == pytest.approx(1)  # 8 words for 7, and not for 9


def test_references_and_captions_that_are_refused() -> None:
    with pytest.raises(ValueError, match="references and candidates must be of the same videos, got 1 and 2"):
        caption_scores([["a"]], ["a", "b"])
    with pytest.raises(ValueError, match="captions of two videos or more are needed, got 1"):
        caption_scores([["a"]], ["a"])
    with pytest.raises(TypeError, match=r"references\[1\] must be a list of texts, got a text"):
        caption_scores([["a"], "abc"], ["a", "b"])
    for own in ([], ["a", "!"]):
        with pytest.raises(ValueError, match=r"references\[1\] must be one or more captions with words, got"):
            caption_scores([["a"], own], ["a", "b"])
