"""The retrieval picture: frames of the videos that were found, and outlines of the right ones."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from videomae_fast.data import CaptionedEntry, CaptionedVideos, VideoFile, ViewDataset
from videomae_fast.pictures.canvas import LINE
from videomae_fast.pictures.retrieval import GREEN, GREY, QUERIES, SHOWN, SIDE, draw_retrieval, save_retrieval
from videomae_fast.recipes.evaluate_retrieval import RetrievalResult
from videomae_fast.recipes.retrieval import Ranking

BRIGHTNESS = (60, 120, 180, 240)


def result(folder: Path, captions: int = 2) -> RetrievalResult:
    """Four grey images; each caption finds them in order, and image k is right for caption k."""
    entries = []
    for number, light in enumerate(BRIGHTNESS):
        Image.fromarray(np.full((20, 30, 3), light, dtype=np.uint8)).save(folder / f"{number}.png")
        entries.append(CaptionedEntry(VideoFile(str(folder / f"{number}.png")), ("a",), 0.0, math.inf))
    views = ViewDataset(
        CaptionedVideos(entries), num_frames=1, frame_stride=1, size=(16, 16), short_side=16, segments=1, crops=1
    )
    found = torch.arange(4).expand(captions, 4)
    ranking = Ranking(torch.arange(captions) % 4 + 1, found, 0.9 - 0.1 * found)
    right = np.array([(k, k % 4) for k in range(captions)])
    names = [f"caption {k}\n{'long ' * 30}" for k in range(captions)]
    return RetrievalResult(entries, names, right, ranking, ranking, [], [(views, k) for k in range(4)], True)


def test_frames_and_outlines(tmp_path: Path) -> None:
    picture = draw_retrieval(result(tmp_path))
    side = 16 * (SIDE // 16)
    rows = (LINE + 2, LINE + 2 + side + LINE + 10 + LINE + 2)  # the first line of the frames of each caption
    for query, top in enumerate(rows):
        for place in range(SHOWN):
            left = place * (side + 6)
            assert picture.getpixel((left + 1, top + 1)) == (GREEN if place == query else GREY)
            assert picture.getpixel((left + side // 2, top + side // 2)) == (BRIGHTNESS[place],) * 3


def test_a_long_list_shows_some_captions_of_its_whole_length(tmp_path: Path) -> None:
    few, many = (draw_retrieval(result(tmp_path, captions)) for captions in (QUERIES, 50))
    assert few.height == many.height


def test_a_video_that_cannot_be_read_any_more_is_white(tmp_path: Path) -> None:
    found = result(tmp_path)
    (tmp_path / "1.png").unlink()
    picture = draw_retrieval(found)
    assert picture.getpixel((SIDE + 6 + SIDE // 2, LINE + 2 + SIDE // 2)) == (255, 255, 255)


def test_it_is_written(tmp_path: Path) -> None:
    save_retrieval(result(tmp_path), tmp_path / "retrieval.png")
    assert Image.open(tmp_path / "retrieval.png").width >= 3 * SIDE
