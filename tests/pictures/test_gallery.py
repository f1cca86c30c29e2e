"""The gallery shows what training gets: the boxes, masks and pixels of the run's first sample."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tests.data.files import stamp, write_video
from tests.recipes import tiny
from videomae_fast.data import Crop, CropBox, Draw, UnreadableVideosError, cut_clips, make_loader
from videomae_fast.models.config import CONFIGS
from videomae_fast.pictures.canvas import to_image
from videomae_fast.pictures.gallery import (
    CANVAS_WIDTH,
    COLOURS,
    DARK,
    TINT,
    Sample,
    clips_on_grey,
    describe,
    draw_canvas,
    first_sample,
    mark_frame,
    mark_tokens,
    save_gallery,
    token_map,
)
from videomae_fast.pictures.reconstruction import GREY
from videomae_fast.recipes.pretrain import PretrainConfig


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretrainConfig:
    """Four crops, some of them flipped, of 64 x 48 pixels; clips have 4 x 4 x 4 tokens."""
    monkeypatch.setitem(CONFIGS, "tiny", tiny.TINY)
    videos = tiny.write_videos(tmp_path / "videos", 3)
    return tiny.settings(videos, tmp_path, image_size=64, crops_per_video=4, hflip=True)


def _made(height: int = 60, width: int = 100, crops: int = 4) -> Sample:
    """Crops of noise, every second one flipped, that need no video."""
    frames = torch.randint(0, 256, (8, height, width, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    boxes = [Crop(CropBox(n, 3 * n, 48, 32), n % 2 == 1) for n in range(crops)]
    plan = PretrainConfig().masks.plan(torch.arange(crops), (4, 4, 4), 0)
    drawn = Draw(0, np.arange(0, 16, 2), frames, boxes, [])
    return Sample(cut_clips(frames, boxes, (64, 64)), plan, (2, 16, 16), drawn, "one.mp4")


def _tokens_by_hand(crop: Crop, frame: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """`token_map` of a box whose sides are multiples of the grid's: a block for each token."""
    (top, left, height, width), flipped = crop
    tokens = torch.full(frame, -1)
    down, across = height // grid[0], width // grid[1]
    for h in range(grid[0]):
        for w in range(grid[1]):
            x = left + (width - (w + 1) * across if flipped else w * across)
            tokens[top + h * down : top + (h + 1) * down, x : x + across] = h * grid[1] + w
    return tokens


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("box", [(8, 10, 32, 48), (0, 0, 60, 72), (28, 22, 32, 48), (5, 7, 2, 3)], ids=str)
def test_tokens_of_the_source(box: tuple[int, int, int, int], flipped: bool) -> None:
    crop, frame, grid = Crop(CropBox(*box), flipped), (60, 72), (2, 3)
    expected = _tokens_by_hand(crop, frame, grid)
    assert torch.equal(token_map(crop, frame, frame, grid), expected)
    twice = expected.repeat_interleave(2, dim=0).repeat_interleave(3, dim=1)
    assert torch.equal(token_map(crop, frame, (120, 216), grid), twice)


def test_tokens_that_are_no_whole_number_of_pixels() -> None:
    """Seven pixels in two rows of tokens: the middle of the fourth is where the second begins."""
    tokens = token_map(Crop(CropBox(1, 0, 7, 3), False), (9, 3), (9, 3), (2, 3))
    assert tokens[:, 0].tolist() == [-1, 0, 0, 0, 3, 3, 3, 3, -1]
    assert tokens[1].tolist() == [0, 1, 2]


def test_marks() -> None:
    """Inside the box hidden tokens are dark, predicted ones tinted, and both at once; nothing else changes."""
    pixels = torch.full((2, 5, 3), 200, dtype=torch.uint8)
    tokens = torch.tensor([[0, 1, 2, 3, -1]]).expand(2, -1)
    visible, predicted = torch.tensor([True, True, False, False]), torch.tensor([False, True, True, False])
    marked = mark_tokens(pixels, tokens, visible, predicted, (255, 0, 100))
    dark, colour = 200 * DARK, torch.tensor([255.0, 0, 100])
    expected = [torch.tensor([200.0] * 3), 200 + TINT * (colour - 200), dark + TINT * (colour - dark)]
    expected += [torch.tensor([dark] * 3), expected[0]]
    torch.testing.assert_close(marked, torch.stack(expected).round().byte().expand(2, 5, 3), rtol=0, atol=0)
    assert (pixels == 200).all()


def test_a_marked_frame_shows_masks_and_boxes() -> None:
    sample = _made(crops=2)
    for number, time in ((0, 0), (1, 0), (1, 5)):
        frame = torch.from_numpy(np.array(mark_frame(sample, number, time, scale=1)))
        tokens = _tokens_by_hand(sample.drawn.crops[number], (60, 100), (4, 4)) + time // 2 * 16
        tokens[tokens < time // 2 * 16] = -1
        (top, left, height, width), _ = sample.drawn.crops[number]
        edge = (frame == torch.tensor(COLOURS[number])).all(2)
        assert edge[top : top + height, [left, left + 2, left + width - 3, left + width - 1]].all()
        assert edge[[top, top + 2, top + height - 3, top + height - 1], left : left + width].all()
        assert not edge[:, left + width].any() and not edge[top + height].any()
        inside = torch.zeros_like(tokens, dtype=torch.bool)
        inside[top + 3 : top + height - 3, left + 3 : left + width - 3] = True
        other, _ = sample.drawn.crops[1 - number]
        bottom, right = other.top + other.height - 1, other.left + other.width - 1
        corner = (bottom, right) if number == 0 else (other.top, other.left)  # the one outside this box
        assert (frame[corner] == torch.tensor(COLOURS[1 - number])).all()
        inside[[other.top, bottom]], inside[:, [other.left, right]] = False, False
        original = sample.drawn.frames[time]
        for token in tokens[inside].unique().tolist():
            here = inside & (tokens == token)
            seen, tinted = (token in index[number] for index in (sample.plan.visible, sample.plan.predicted))
            expected = original[here].float() * (1 if seen else DARK)
            if tinted:
                expected += TINT * (torch.tensor(COLOURS[number]) - expected)
            torch.testing.assert_close(frame[here].float(), expected, rtol=0, atol=0.51)
        assert (frame[:, 80:] == original[:, 80:]).all()


def test_tokens_of_the_source_are_those_of_the_clips(config: PretrainConfig) -> None:
    """Each token has the same mean colour in the source, where `token_map` finds it, and in the clip the op makes."""
    sample = first_sample(config)
    assert {crop.flipped for crop in sample.drawn.crops} == {False, True}
    everything = torch.arange(sample.plan.num_tokens).expand(4, -1)
    for crop, clip in zip(sample.drawn.crops, clips_on_grey(sample, everything), strict=True):
        errors = {}
        for flipped in (False, True):
            tokens = token_map(crop._replace(flipped=flipped), (48, 64), (48, 64), (4, 4))
            in_source = torch.stack([sample.drawn.frames[0][tokens == n].float().mean(0) for n in range(16)])
            in_clip = clip[0].reshape(4, 16, 4, 16, 3).mean((1, 3)).flatten(0, 1) * 255
            errors[flipped] = (in_source - in_clip).abs().mean()
        assert errors[crop.flipped] < 5 < errors[not crop.flipped] / 2


@pytest.mark.parametrize(
    ("image_size", "crops_per_video"), [(32, 1), (64, 4)]
)  # the crop travels resized, and the frames do
def test_panels_show_the_resized_crops(image_size: int, crops_per_video: int, config: PretrainConfig) -> None:
    sample = first_sample(config.with_options(image_size=image_size, crops_per_video=crops_per_video))
    assert (sample.clips.geometry[0, 1:3].tolist() == [32, 32]) == (image_size == 32)
    rows = image_size // 16
    for index in (sample.plan.visible, sample.plan.predicted):
        for number, shown in enumerate(clips_on_grey(sample, index)):
            (top, left, height, width), flipped = sample.drawn.crops[number]
            cut = sample.drawn.frames[:, top : top + height, left : left + width].permute(0, 3, 1, 2).float()
            size = (image_size, image_size)
            clip = functional.interpolate(cut, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1) / 255
            clip = clip.flip(2) if flipped else clip
            expected = torch.full_like(clip, GREY)
            for token in index[number].tolist():
                t, y, x = 2 * (token // rows**2), token // rows % rows * 16, token % rows * 16
                block = slice(t, t + 2), slice(y, y + 16), slice(x, x + 16)
                expected[block] = clip[block]
            torch.testing.assert_close(shown, expected, rtol=0, atol=0.51 / 255)


def test_it_is_the_first_sample_of_the_run(config: PretrainConfig) -> None:
    for seed in range(4):
        config = config.with_options(seed=seed)
        batch = next(iter(make_loader(config.data.dataset(seed), 1)))
        sample = first_sample(config)
        assert torch.equal(sample.clips.frames, batch.clips.frames)
        assert torch.equal(sample.clips.geometry, batch.clips.geometry)
        assert torch.equal(sample.plan.visible, config.masks.plan(batch.sample, sample.plan.grid, seed).visible)


def test_the_source_is_that_of_the_clips(config: PretrainConfig) -> None:
    """Also where unreadable videos were replaced, once or several times."""
    for name in ("bad0.mp4", "bad1.mp4", "bad2.mp4"):
        (Path(config.data.data) / name).touch()
    replaced = set()
    for seed in range(10):
        sample = first_sample(config.with_options(seed=seed))
        lines = describe(sample)
        assert lines[1].startswith(sample.path) and "bad" not in lines[1]
        assert lines[3:] == [f"instead of {p.path}: the file is empty (0 bytes)" for p in sample.drawn.bad_videos]
        replaced.add(len(sample.drawn.bad_videos))
    assert replaced >= {0, 1} and max(replaced) > 1


def test_frame_numbers(config: PretrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "stamped"
    folder.mkdir()
    write_video(folder / "stamped.mp4")
    sample = first_sample(config.with_options(data=str(folder), frame_stride=3))
    assert sample.drawn.frame_numbers.tolist() == [stamp(frame.numpy()) for frame in sample.drawn.frames]
    assert np.diff(sample.drawn.frame_numbers).tolist() == [3] * 7


def test_settings_of_the_source_count(config: PretrainConfig, tmp_path: Path) -> None:
    """A mixture's frame stride overrides the run's, and large videos are scaled down before they are cropped."""
    mixture = tmp_path / "mixture.json"
    mixture.write_text(json.dumps([{"data": config.data.data, "frame_stride": 2}]))
    sample = first_sample(config.with_options(data=str(mixture), short_side=32))
    assert sample.drawn.frame_numbers.tolist() == [0, 2, 4, 6, 8, 10, 10, 10]
    assert sample.drawn.frames.shape[1] == 32


def test_lines_under_the_picture() -> None:
    sample = _made()
    assert describe(sample)[1:] == [
        "one.mp4: 100 x 60, frames 0, 2, 4, 6, 8, 10, 12, 14",
        # What is around boxes of 48 x 32, 9 and 3 pixels further in all, in 8 frames of 3 bytes; where they begin
        # and lie, and of 64 rows and columns the first tap and 2 weights.
        f"resize antialias, to 64 x 64; {51 * 41 * 8 * 3 // 4 + 10 * 8 + 2 * 64 * 3 * 4:,} bytes sent per clip",
    ]


def _where(part: Tensor, canvas: np.ndarray) -> tuple[int, int]:
    """(top, left) of a picture in a larger one, enlarged by 3 as clips of 64 pixels are."""
    large = np.asarray(to_image(part)).repeat(3, axis=0).repeat(3, axis=1)
    row = int((large != 128).any(axis=(1, 2)).argmax())  # the first that is not grey
    for top in range(len(canvas) - len(large) + 1):
        left = canvas[top + row].tobytes().find(large[row].tobytes()) // 3
        if left >= 0 and np.array_equal(canvas[top : top + len(large), left : left + large.shape[1]], large):
            return top, left
    raise AssertionError("not in the picture")


def test_the_picture_holds_the_clips() -> None:
    """Row by row, what the encoder sees left of what the decoder predicts, pixel by pixel."""
    sample = _made()
    canvas = np.asarray(draw_canvas(sample))
    encoder, decoder = clips_on_grey(sample, sample.plan.visible), clips_on_grey(sample, sample.plan.predicted)
    tops = []
    for seen, predicted in zip(encoder, decoder, strict=True):
        corners = [_where(clip[time], canvas) for clip in (seen, predicted) for time in (0, 2, 5, 7)]
        (top, left), _, _, (bottom, right) = corners[:4]
        assert corners[:4] == [(top, left), (top, right), (bottom, left), (bottom, right)]
        assert [y for y, _ in corners[4:]] == [y for y, _ in corners[:4]]
        assert min(x for _, x in corners[4:]) > right > left > 192
        tops.append(top)
    assert tops == sorted(set(tops))


@pytest.mark.parametrize(("height", "width"), [(60, 100), (100, 60), (54, 340)])
def test_size_of_the_picture(height: int, width: int) -> None:
    """The picture has at most four crops, and its width is limited for any width of the source."""
    picture = draw_canvas(_made(height, width))
    assert 4 * 192 < picture.width <= CANVAS_WIDTH
    assert draw_canvas(_made(height, width, crops=6)).size == picture.size
    assert draw_canvas(_made(height, width, crops=2)).height < picture.height / 1.7


@pytest.mark.parametrize("name", ["gallery.png", "gallery.JPG"])
def test_written_as_the_suffix_says(name: str, config: PretrainConfig, tmp_path: Path) -> None:
    save_gallery(config, tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == {"png": "PNG", "jpg": "JPEG"}[name[-3:].lower()]
        assert picture.size == draw_canvas(first_sample(config)).size


@pytest.mark.parametrize("name", ["", "runs/mine", "picture.mp4"])
def test_a_suffix_that_is_no_picture(name: str, config: PretrainConfig) -> None:
    with pytest.raises(ValueError, match=rf"output must name a picture .* got '{name or '.'}'"):
        save_gallery(config, Path(name))


def test_nothing_readable(config: PretrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "one.mp4").touch()
    with pytest.raises(UnreadableVideosError, match=r"one.mp4: the file is empty"):
        save_gallery(config.with_options(data=str(folder)), tmp_path / "gallery.png")
