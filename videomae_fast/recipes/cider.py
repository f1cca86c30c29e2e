"""CIDEr-D: how much a caption says what most people say about the video."""

import math
from collections import Counter
from collections.abc import Sequence

ORDERS = (1, 2, 3, 4)  # words of an n-gram
SIGMA = 6.0  # of the penalty of lengths
SCALE = 10.0

Words = Sequence[str]
Weights = dict[tuple[str, ...], float]


def cider_d(references: Sequence[Sequence[Words]], candidates: Sequence[Words]) -> list[float]:
    """CIDEr-D of captions.

        g(w)        = count of w in a caption · log(N / max(1, videos of which a reference has w))
        sim_n(c, r) = Σ_w min(g_c(w), g_r(w)) · g_r(w) / (‖g_c‖ ‖g_r‖)           over n-grams w
        CIDEr-D(c)  = 10 · mean over n = 1…4 and references r of sim_n(c, r) · exp(−(l_c − l_r)² / (2·6²))

    N is the number of videos, and l the number of words. A sum over no n-grams is 0.

    Args:
        references: words of the captions of each of N videos, one or more; N is at least 2.
        candidates: words of the N captions to judge.

    Returns:
        The N figures, in [0, 10]; papers print 100 times their mean.

    Raises:
        ValueError: numbers differ, N is below 2, or a video has no reference.

    References:
        Vedantam, Zitnick and Parikh, CIDEr, CVPR 2015, arXiv 1411.5726. The figures are those of the published code,
        `pyciderevalcap` and `pycocoevalcap`, on the same words.
    """
    if len(references) != len(candidates) or len(candidates) < 2 or not all(references):
        raise ValueError(
            f"CIDEr-D needs two videos or more, with one or more references each, got {len(candidates)} candidates and "
            f"references of {sum(map(bool, references))} of {len(references)} videos"
        )
    counted = [[_count(words) for words in own] for own in references]
    videos = Counter(gram for own in counted for gram in set().union(*own))
    logs = {gram: math.log(len(references) / count) for gram, count in videos.items()}
    unknown = math.log(len(references))
    scores = []
    for words, own, texts in zip(candidates, counted, references, strict=True):
        weighted = _weigh(_count(words), logs, unknown)
        similar = [
            _similarity(weighted, _weigh(count, logs, unknown))
            * math.exp(-((len(words) - len(text)) ** 2) / (2 * SIGMA**2))
            for count, text in zip(own, texts, strict=True)
        ]
        scores.append(SCALE * math.fsum(similar) / len(similar))
    return scores


def _count(words: Words) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[k : k + n]) for n in ORDERS for k in range(len(words) - n + 1))


def _weigh(counts: Counter[tuple[str, ...]], logs: Weights, unknown: float) -> Weights:
    return {gram: count * logs.get(gram, unknown) for gram, count in counts.items()}


def _similarity(candidate: Weights, reference: Weights) -> float:
    """The mean over n of clipped cosines."""
    dots, squares = dict.fromkeys(ORDERS, 0.0), [dict.fromkeys(ORDERS, 0.0) for _ in range(2)]
    for gram, weight in candidate.items():
        other = reference.get(gram, 0.0)
        dots[len(gram)] += min(weight, other) * other
    for square, weights in zip(squares, (candidate, reference), strict=True):
        for gram, weight in weights.items():
            square[len(gram)] += weight**2
    norms = {n: math.sqrt(squares[0][n] * squares[1][n]) for n in ORDERS}
    return sum(dots[n] / norms[n] for n in ORDERS if norms[n]) / len(ORDERS)
