"""Scores of captions against those that people wrote: exact match, BLEU, ROUGE-L and CIDEr-D, as for COCO."""

import re
from collections.abc import Sequence
from typing import Any

from .._optional import require
from .cider import cider_d

_BETA = 1.2  # of ROUGE-L: recall counts more than precision
_ENDINGS = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))\b")
_JOINED = re.compile(r"\b(can(?=not\b)|gon(?=na\b)|got(?=ta\b)|wan(?=na\b))")
_WORD = re.compile(r"n't|'(?:s|m|d|re|ve|ll)\b|\w+(?:[-'./,:@]\w+)*|[$%&#]")


def caption_scores(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> dict[str, float]:
    """Score captions.

    Captions are compared by `caption_words`.

    Args:
        references: the captions of each video that people wrote, one or more; two videos or more.
        candidates: of each video the caption to score. It may be empty, and is then like no reference.

    Returns:
        * "exact_match": the share of captions that are equal to one of their references.
        * "bleu1" to "bleu4": BLEU of all captions together, in [0, 1], not smoothed; the length of the reference is
            that of the closest one, of two the shorter.
        * "rouge_l": the mean over videos of (1 + β²)·P·R / (R + β²·P), in [0, 1], with β = 1.2 and P and R the highest
            precision and recall of the longest common subsequence over the references.
        * "cider_d": the mean of `cider_d`, in [0, 10].

        Papers print 100 times these figures.

    Raises:
        ValueError: numbers differ, there are fewer than two videos, a video has no reference, or one without words.
        TypeError: the captions of a video are one text, and not a list of texts.
        ImportError: torchmetrics is missing; the message names the extra that installs it.

    References:
        Papineni et al., BLEU, ACL 2002; Lin, ROUGE, 2004; Vedantam et al., CIDEr, 2015; Chen et al., Microsoft COCO
        captions, arXiv 1504.00325, for the choices. torchmetrics has BLEU, and precision and recall of ROUGE-L.
    """
    wanted, found = _words_of(references, candidates)
    metrics: Any = require("torchmetrics.functional.text")
    joined = [" ".join(words) for words in found]
    # torchmetrics takes the first of the references whose lengths are closest.
    texts = [[" ".join(words) for words in sorted(own, key=len)] for own in wanted]
    exact = sum(words in own for words, own in zip(found, wanted, strict=True))
    bleu = {f"bleu{n}": float(metrics.bleu_score(joined, texts, n_gram=n)) for n in (1, 2, 3, 4)}
    rouge = [_rouge_l(metrics, text, own) for text, own in zip(joined, texts, strict=True)]
    cider = cider_d(wanted, found)
    count = len(found)
    means = {"rouge_l": sum(rouge) / count, "cider_d": sum(cider) / count}
    return {"exact_match": exact / count, **bleu, **means}


def caption_words(caption: str) -> list[str]:
    """The words of a caption, as the evaluation of COCO captions divides it.

    Letters are made small, punctuation is left out, and "n't", "'s" and the like are words of their own, as in the Penn
    Treebank. COCO's own program needs Java; other than there, brackets are left out, and so is the last dot of an
    abbreviation.

    Args:
        caption: any text.

    Returns:
        The words; none if there are only marks.
    """
    text = _ENDINGS.sub(r" \1", caption.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return _WORD.findall(_JOINED.sub(r"\1 ", text))


def _words_of(
    references: Sequence[Sequence[str]], candidates: Sequence[str]
) -> tuple[list[list[list[str]]], list[list[str]]]:
    if len(references) != len(candidates):
        raise ValueError(
            f"references and candidates must be of the same videos, got {len(references)} and {len(candidates)}"
        )
    if len(candidates) < 2:
        raise ValueError(
            f"captions of two videos or more are needed, got {len(candidates)}: CIDEr-D weighs words by how few videos "
            "have them"
        )
    wanted = []
    for number, own in enumerate(references):
        if isinstance(own, str):
            raise TypeError(f"references[{number}] must be a list of texts, got a text")
        wanted.append([caption_words(text) for text in own])
        if not own or not all(wanted[-1]):
            raise ValueError(f"references[{number}] must be one or more captions with words, got {list(own)!r:.200}")
    return wanted, [caption_words(text) for text in candidates]


def _rouge_l(metrics: Any, text: str, references: Sequence[str]) -> float:
    each = [
        metrics.rouge_score(text, reference, rouge_keys="rougeL", normalizer=str, tokenizer=str.split)
        for reference in references
    ]
    precision, recall = (max(float(scores[f"rougeL_{name}"]) for scores in each) for name in ("precision", "recall"))
    weight = _BETA**2
    return (1 + weight) * precision * recall / (recall + weight * precision) if precision else 0.0
