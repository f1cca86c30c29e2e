"""Captioned entries of one video, made one entry, as retrieval takes them."""

from collections.abc import Iterator
from dataclasses import replace

from ..sources.captioned import CaptionedEntry, CaptionedVideos
from ..sources.mixture import Mixture
from .dataset import check_captioned


def merge_captions(mixture: Mixture) -> Mixture:
    """Join the entries of one part of one video, so that each is there once, with all its captions.

    Args:
        mixture: as `read_mixture(..., captioned=True)` returns it; a list may have a line for each caption.

    Returns:
        The parts of videos, and images, in the order of their first entries, each in the source of its first one, with
        its captions from all sources, each once. Paths are joined to their roots. A source of which nothing is left is
        left out.

    Raises:
        ValueError: a source has no captions.
    """
    check_captioned(mixture)
    captions: dict[tuple[str, float, float], dict[str, None]] = {}
    firsts: list[list[CaptionedEntry]] = [[] for _ in mixture.sources]
    for number, entry in _entries(mixture):
        key = (entry.name, entry.start, entry.end)
        if key not in captions:
            captions[key] = {}
            firsts[number].append(entry)
        captions[key].update(dict.fromkeys(entry.captions))
    return Mixture(
        [
            replace(
                source,
                annotations=CaptionedVideos(
                    entry._replace(captions=tuple(captions[entry.name, entry.start, entry.end])) for entry in entries
                ),
            )
            for source, entries in zip(mixture.sources, firsts, strict=True)
            if entries
        ]
    )


def _entries(mixture: Mixture) -> Iterator[tuple[int, CaptionedEntry]]:
    index = 0
    for number, source in enumerate(mixture.sources):
        for _ in range(len(source.annotations)):
            yield number, mixture.captioned(index)
            index += 1
