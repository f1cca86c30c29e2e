"""The predicted step of contrastive pre-training, and its report."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import paired, sounding
from videomae_fast.cli import main
from videomae_fast.memory import CARDS, MemoryFigures
from videomae_fast.memory.cache import PredictionCache
from videomae_fast.models.config import CONFIGS
from videomae_fast.recipes import contrast_memory, contrast_memory_report
from videomae_fast.recipes.contrast import Contrast, ContrastConfig
from videomae_fast.recipes.contrast_memory import ContrastStep, predictor

pytest.importorskip("transformers")
FUSION = {"model": "internvideo2-tiny", "patch_size": 16, "fusion_layers": 1, "text_pool": "first"}
MIB = 2**20


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model without weights."""
    return paired.write_text_model(tmp_path_factory.mktemp("sizes"), weights=False)


def recipe(text: Path, **changes: Any) -> Contrast:
    return Contrast(paired.settings(Path("-"), text, Path("-"), **changes))


def figures(of: Contrast, clips: int, pairs: int | None = None) -> MemoryFigures:
    with predictor(of, pairs, None) as predict:
        return predict(clips)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "siglip"},
        {"train": "last:1", "freeze_text": True},
        {"train": "none", "video_features": "kept", "mask_ratio": 0.0, "image_mask_ratio": 0.0},
        FUSION,
        FUSION | {"train": "none", "video_features": "kept", "mask_ratio": 0.0, "image_mask_ratio": 0.0},
    ],
    ids=str,
)
def test_it_is_a_step_that_learns(changes: dict[str, Any], text_model: Path) -> None:
    """On real tensors, all that the run trains changes, and nothing else does."""
    torch.manual_seed(0)
    step = ContrastStep(recipe(text_model, **changes), clips=4)
    for rows in (step.clips, step.text, *(step.video or ())):
        if rows is not None:
            rows.copy_(torch.randint(0, 255, rows.shape) / (1 if rows.dtype == torch.uint8 else 255))
    if step.captions is not None:
        step.captions.input_ids.copy_(torch.arange(4)[:, None] + torch.arange(8) + 5)
    for group in step.optimizer.param_groups:
        group["lr"] = 0.01
    before = {name: weight.clone() for name, weight in step.model.named_parameters()}
    step()
    zero = {"image_embed", "img_pos_embed", "padding"}  # of images; their gradients are zero
    for name, weight in step.model.named_parameters():
        if not zero & set(name.split(".")) and "word_embeddings" not in name and weight.ndim > 1:
            assert torch.equal(weight, before[name]) != weight.requires_grad, name


@pytest.mark.parametrize("options", [{}, FUSION | {"negatives": "global"}], ids=str)
def test_it_is_of_one_process(options: dict[str, Any], sizes: Path) -> None:
    """Whatever group the recipe has, so that all figures of a report, kept ones too, are of one step."""
    of = recipe(sizes, **options)
    alone = figures(of, 2)
    of.group = of.losses.group = object()  # with which no rows can be gathered
    assert figures(of, 2).peak_bytes == alone.peak_bytes


@pytest.mark.parametrize("pairs", [None, 6])
def test_it_hears(pairs: int | None, text_model: Path, tmp_path: Path) -> None:
    """With an audio tower: its frozen weights, and all that the losses of sound and video keep."""
    sound = FUSION | {"audio_model": str(sounding.write_beats(tmp_path / "beats.pt"))}
    step = ContrastStep(recipe(text_model, **sound), pairs, clips=2)
    step()
    for name, weight in step.model.named_parameters():
        assert (weight.grad is None) == name.startswith("audio_encoder."), name
    without, found = (figures(recipe(text_model, **options), 2, pairs) for options in (FUSION, sound))
    frozen = sum(weight.nbytes for weight in step.model.audio_encoder.parameters())
    assert found.breakdown["parameters"] >= without.breakdown["parameters"] + frozen
    assert found.peak_bytes - found.breakdown["parameters"] > without.peak_bytes - without.breakdown["parameters"]


def test_parts_have_the_gradients_of_the_batch(text_model: Path) -> None:
    found = []
    for pairs, clips in ((None, 4), (4, 2)):
        torch.manual_seed(0)
        step = ContrastStep(recipe(text_model), pairs, clips)
        assert step.clips is not None and step.captions is not None
        step.clips.copy_(torch.arange(4)[:, None, None, None, None].mul(50).expand(step.clips.shape))
        step.captions.input_ids.copy_(torch.arange(4)[:, None] + torch.arange(8) + 5)
        step()
        found.append({name: weight.grad for name, weight in step.model.named_parameters()})
    scale = max(float(grad.abs().max()) for grad in found[0].values())
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=1e-5 * scale, msg=lambda t, n=name: n + t)


def test_one_clip_is_two_pairs_one_at_a_time(sizes: Path) -> None:
    step = ContrastStep(recipe(sizes), clips=1)
    assert len(step.sample) == 2 and [len(part.sample) for part in step._parts()] == [1, 1]
    with pytest.raises(ValueError, match="two rows or more"):
        recipe(sizes).losses.of_pairs(step.model(*_one(step)), step.sample[:1], step.sample[:1])


def _one(step: ContrastStep) -> tuple:
    (part, _) = step._parts()
    assert part.captions is not None
    return part.clips, *part.captions, part.visible


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-B of four blocks."""
    monkeypatch.setitem(CONFIGS, "tiny", replace(CONFIGS["base"], encoder_depth=4))


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(
    "train, blocks, frames, ratio",
    [("last:2", 2, 64, 0.75), pytest.param("all", 4, 16, 0.0, marks=pytest.mark.slow)],
)
def test_against_the_formula(train: str, blocks: int, frames: int, ratio: float, sizes: Path) -> None:
    """What a further clip keeps is 20 bytes for each token, channel and trained block, to 2 %.

    Its peak has the pixels besides, and, while the last block goes backward, 18 bytes for each token and channel.
    """
    changes = {"num_frames": frames, "image_size": 224, "mask_ratio": ratio, "train": train, "precision": "bf16"}
    of = recipe(sizes, freeze_text=True, **changes)
    with predictor(of, None, None) as predict:
        low, high = predict(8), predict(16)
    cells = round(frames // 2 * 14 * 14 * (1 - ratio)) * 768
    kept = (high.breakdown["activations"] - low.breakdown["activations"]) / 8
    assert kept == pytest.approx(20 * cells * blocks, rel=0.02)
    assert (high.peak_bytes - low.peak_bytes) / 8 == pytest.approx(
        20 * cells * blocks + 18 * cells + 3 * frames * 224**2, rel=0.02
    )


@pytest.mark.slow
def test_what_is_not_trained_takes_less(sizes: Path) -> None:
    """A frozen text tower has no activations, gradients or state; kept rows of the video need no clips."""
    plain = figures(recipe(sizes), 4)
    text = figures(recipe(sizes, freeze_text=True), 4)
    assert text.breakdown["optimizer state"] < plain.breakdown["optimizer state"]
    assert not any(path.startswith("text_encoder") for path in text.activations)
    kept = {"train": "none", "video_features": "kept", "mask_ratio": 0.0, "image_mask_ratio": 0.0}
    rows = figures(recipe(sizes, **kept), 4)
    assert rows.breakdown["inputs"] < plain.breakdown["inputs"] - 4 * 4 * 32 * 32 * 3 + 4 * 4 * 512


def test_micro_batches_take_less_however_many(sizes: Path) -> None:
    """Beyond what a further pair is: its clip, its features, its products, and its tokens."""
    whole, quarters = (figures(recipe(sizes), clips, 32).peak_bytes for clips in (32, 8))
    assert quarters < whole
    more = figures(recipe(sizes), 8, 64).peak_bytes - quarters
    clip, products = 4 * 32 * 32 * 3, (64**2 - 32**2) * 4
    assert 32 * clip < more < 32 * (clip + 16 * 4 * 8 + 2000) + products


def test_the_longest_clip_fits_and_no_longer_one(sizes: Path, tmp_path: Path) -> None:
    usable, of, kept = 32 * MIB, recipe(sizes), PredictionCache(tmp_path, ())
    longest = contrast_memory.longest_clip(of, 2, usable, cache=kept)
    longer = figures(Contrast(of.config.with_options(num_frames=longest + 2)), 2)
    assert longest % 2 == 0 and longer.peak_bytes > usable
    with predictor(Contrast(of.config.with_options(num_frames=longest)), None, kept) as predict:
        assert predict(2).peak_bytes <= usable


def tables(report: str) -> list[list[list[str]]]:
    parts = [part.splitlines() for part in report.split("\n\n") if part.startswith("|")]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in part] for part in parts]


@pytest.mark.slow
def test_the_command(sizes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures in both tables are those of the step; the second time, all are those that are kept."""
    monkeypatch.setitem(CARDS, "A100-80", 64 * MIB)
    monkeypatch.setattr(contrast_memory_report, "KNOWN_BATCHES", (2, 4))
    options = "--frames 4,8 --mask-ratio 0.75 --train last:1 --card A100-80 --image-size 32 --patch-size 16"
    command = ["memory", "--recipe", "contrast", "--model", "tiny", *options.split(), "--batch-size", "8"]
    command += ["--text-model", str(sizes)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"tiny and {sizes.name}, 32x32, tokens of 2x16x16, train last:1, bf16, captions of up to 32 tokens"
    )
    assert "Predicted for a GPU" in out and "`--batch-size 2 --micro-batch 1`" in out
    rows, longest = tables(out)
    assert rows[0] == ["frames", "mask ratio", "tokens read", "MiB for a further clip", "clips on A100-80"]
    assert [row[:3] for row in rows[2:]] == [["4", "0.75", "2"], ["8", "0.75", "4"]]
    given = {"model": "tiny", "image_size": 32, "patch_size": 16, "mask_ratio": 0.75, "train": "last:1"}
    of = Contrast(ContrastConfig.from_options(**given, num_frames=8, text_model=str(sizes), precision="bf16"))
    fewer, clips = (int(row[4].replace(",", "")) for row in rows[2:])
    with predictor(of, None, None) as predict:
        assert predict(clips).peak_bytes <= 64 * MIB < predict(clips + 1).peak_bytes
        further = (predict(4).peak_bytes - predict(2).peak_bytes) / 2
    assert clips < fewer and rows[3][3] == f"{further / MIB:.1f}"
    assert longest[0] == ["mask ratio", "1 clip", "8 clips"]
    ratio, one, eight = (float(cell.replace(",", "")) for cell in longest[2])
    assert ratio == 0.75 and 8 < eight < one
    monkeypatch.setattr(contrast_memory, "ContrastStep", lambda *_: pytest.fail("it is predicted again"))
    assert main(command) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--frames 16,x", "frames must be whole numbers with commas between, got '16,x'"),
        ("--frames 16,15", "num_frames 15 and image_size"),
        ("--frames 0", "num_frames must be at least 1, got 0"),
        ("--mask-ratio 0,", "mask_ratio must be numbers with commas between, got '0,'"),
        ("--mask-ratio 0,1", "mask_ratio must be in [0, 1), got 1.0"),
        ("--train last:99", "train must be 'all', 'head' or 'last:K' with K from 1 to 2, got 'last:99'; or 'none'"),
        ("--text-model nowhere", "text_model must be a folder of a text encoder of transformers, got nowhere"),
        ("--batch-size 0", "batch_size must be positive, got 0"),
        ("--decoder-mask-ratio 0.5", "decoder_mask_ratio does not go with --recipe contrast"),
        ("--decoder-mask-ratio 0", "decoder_mask_ratio does not go with --recipe contrast"),
        ("--frames=", "frames must be whole numbers with commas between, got ''"),
        ("--mask-ratio=", "mask_ratio must be numbers with commas between, got ''"),
        ("--all", "all does not go with --recipe contrast"),
    ],
)
def test_errors_of_the_command(given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "--recipe", "contrast", "--model", "tiny", *given.split()]) == 2
    assert message in capsys.readouterr().err


def test_errors_of_other_recipes_and_cards(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for recipe_of, given, message in (
        ("pretrain", "--mask-ratio 0,0.75", "mask_ratio of --recipe pretrain must be one number, got '0,0.75'"),
        ("finetune", "--frames 16", "frames is of --recipe contrast or caption, got --recipe finetune"),
        ("pretrain", "--frames=", "frames is of --recipe contrast or caption, got --recipe pretrain"),
        ("finetune", "--image-size 0", "image_size is of --recipe contrast or caption, got --recipe finetune"),
        ("pretrain", "--card H200", "card is of --recipe contrast or caption, got --recipe pretrain"),
    ):
        assert main(["memory", "--recipe", recipe_of, *given.split()]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["memory", "--recipe", "contrast", "--card", "B200"])
    assert "'A100-80'" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert main(["memory", "--recipe", "contrast", "--model", "tiny"]) == 2
    assert "pip install 'videomae-fast[hf]'" in capsys.readouterr().err
