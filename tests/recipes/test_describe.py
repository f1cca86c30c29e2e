"""`describe`: what a run of `caption` says about videos, one or many, good or damaged."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.recipes import paired, tiny
from videomae_fast._text import printable, printable_lines
from videomae_fast.cli import main
from videomae_fast.data import MissingVideo
from videomae_fast.models.config import CONFIGS
from videomae_fast.recipes.caption import caption
from videomae_fast.recipes.describe import Describer, Description, describe, make_streamer

pytest.importorskip("transformers")
from tests.recipes import captioning


@pytest.fixture(scope="session")
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of masks, one of whose tokens of four is hidden, that learned a little; its language model is beside it."""
    folder = tmp_path_factory.mktemp("captioner")
    language = captioning.write_language_model(folder / "language")
    options = {"max_steps": 2, "mask_ratio": 0.25, "train": "all"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", tiny.TINY)
        caption(captioning.settings(pairs, language, folder / "run", **options))
    return folder / "run"


@pytest.fixture
def videos(pairs: Path) -> list[str]:
    return [str(pairs.parent / f"video{number}.mp4") for number in range(5)]


def test_one_video_is_streamed(run: Path, videos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (expected,) = describe(Describer(str(run)), videos[:1], max_new_tokens=8)
    assert isinstance(expected, Description) and expected.text
    assert main(["describe", videos[0], "--init", str(run), "--max-new-tokens", "8"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("\n") and shown.split() == printable_lines(expected.text).split()


def test_words_come_as_they_are_found(run: Path) -> None:
    """The question is left out, and a word comes when the next one begins."""
    describer, words = Describer(str(run)), list[str]()
    streamer = make_streamer(describer.tokenizer, words.append)
    streamer.put(describer.texts.begin(1).ids)
    for number in describer.tokenizer("the red rows move<|im_end|>")["input_ids"]:
        streamer.put(torch.tensor([number]))
    assert words == ["the ", "red ", "rows "]
    streamer.end()
    assert words[3:] == ["move", ""]


def test_an_answer_does_not_depend_on_other_videos(run: Path, videos: list[str]) -> None:
    describer = Describer(str(run))
    alone = [found for video in videos for found in describe(describer, [video], max_new_tokens=6)]
    together = list(describe(describer, videos, max_new_tokens=6, batch_size=3))
    assert together == alone
    assert [each.path for each in together] == videos  # type: ignore[union-attr]
    assert {(each.start, each.end) for each in together} == {(0.0, 12 / 25)}  # type: ignore[union-attr]


def test_damaged_and_missing_videos_are_named_and_others_done(
    run: Path, videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, none = tmp_path / "damaged.mp4", tmp_path / "none.mp4"
    damaged.write_bytes(b"no video")
    asked = [videos[0], str(damaged), videos[1], str(none)]
    output = tmp_path / "found.jsonl"
    options = ["--init", str(run), "--max-new-tokens", "5", "--batch-size", "2"]
    assert main(["describe", *asked, *options, "--output", str(output)]) == 2
    captured = capsys.readouterr()
    assert f"cannot be read: {damaged}: " in captured.err and f"cannot be read: {none}: " in captured.err
    assert "describe: error: 2 of 4 videos cannot be read" in captured.err
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [line["path"] for line in lines] == videos[:2]
    assert all(line.keys() == {"path", "start", "end", "text"} for line in lines)
    assert main(["describe", *videos[:2], *options]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"{line['path']}: {printable(line['text'])}" for line in lines]


def test_images_are_described_among_videos(run: Path, videos: list[str], pairs: Path) -> None:
    """In the order asked for; an image alone has the same answer, and no seconds."""
    describer, images = Describer(str(run)), [str(pairs.parent / f"image{number}.png") for number in range(3)]
    asked = [images[0], videos[0], str(pairs.parent / "none.png"), images[1], videos[1], images[2]]
    found = list(describe(describer, asked, max_new_tokens=6, batch_size=2))
    assert [each.path for each in found] == asked and isinstance(found[2], MissingVideo)
    assert [getattr(each, "end", None) for each in found] == [None, 12 / 25, None, None, 12 / 25, None]
    for number in (0, 1, 5):
        assert found[number] == next(describe(describer, [asked[number]], max_new_tokens=6))
    clips = describer.views(images[:1], images=True)[0].clips
    assert clips is not None and clips.shape == (1, 3, 1, 32, 32)


def test_the_prompt_is_asked(run: Path, videos: list[str]) -> None:
    asked = [Describer(str(run), prompt).texts.begin(1).ids.tolist() for prompt in ("", "What moves?", "Where?")]
    assert asked[0] == asked[1] != asked[2]


def test_a_language_model_that_moved(run: Path, videos: list[str], tmp_path: Path) -> None:
    moved = shutil.copytree(run.parent / "language", tmp_path / "moved")
    found = list(describe(Describer(str(run), language_model=str(moved)), videos[:1], max_new_tokens=4))
    assert found == list(describe(Describer(str(run)), videos[:1], max_new_tokens=4))


def test_what_cannot_be_asked(run: Path, pairs: Path, two_towers_run: Path, videos: list[str], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"init must be a run of caption, .* there is no captioner\.json with a config"
    ):
        Describer(str(two_towers_run))
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        Describer("nowhere")
    describer = Describer(str(run))
    for asked, options, message in (
        (videos, {"stream": print}, "one to be streamed, got 5"),
        ([], {}, "videos must be one or more"),
        (videos, {"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        (videos, {"max_new_tokens": 1000}, r"max_new_tokens must be at most \d+, which the language model has"),
    ):
        with pytest.raises(ValueError, match=message):
            list(describe(describer, asked, **options))
    plain = captioning.write_language_model(tmp_path / "plain", None)
    caption(captioning.settings(pairs, plain, tmp_path / "run", max_steps=1))
    with pytest.raises(ValueError, match=r"prompt 'Where\?' cannot be asked: the tokenizer in .* has no chat template"):
        Describer(str(tmp_path / "run"), "Where?")
    assert list(describe(Describer(str(tmp_path / "run")), videos[:1], max_new_tokens=4))


@pytest.mark.slow
@pytest.mark.parametrize("inject", ["prefix", "cross-attention"])
def test_what_is_learnt_is_said(inject: str, tmp_path: Path) -> None:
    """Eight videos, each with a caption of its own, by a random language model with adapters. Chance: one of eight."""
    pytest.importorskip("peft")
    pairs = paired.write_pairs(tmp_path / "pairs", images=False)
    entries = [json.loads(line) for line in pairs.read_text().splitlines()]
    captions = [entry["caption"][0] for entry in entries]
    assert len(set(captions)) == 8
    lines = (json.dumps(entry | {"caption": caption}) for entry, caption in zip(entries, captions, strict=True))
    pairs.write_text("\n".join(lines))
    language = captioning.write_language_model(
        tmp_path / "language", hidden_size=64, intermediate_size=128, initializer_range=0.1
    )
    options = {"train": "all", "lora_rank": 16, "lora_dropout": 0.0, "queries": 4, "epochs": 100, "batch_size": 8}
    caption(captioning.settings(pairs, language, tmp_path / "run", inject=inject, lr=0.15, log_every=50, **options))
    videos = [str(pairs.parent / entry["path"]) for entry in entries]
    found = describe(Describer(str(tmp_path / "run")), videos, max_new_tokens=24)
    said = [each.text for each in found if isinstance(each, Description)]
    assert sum(text == caption for text, caption in zip(said, captions, strict=True)) >= 7, said
