"""Every script in examples/ runs, and what examples/README.md says is so."""

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from videomae_kernels import tube_mask_gather

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = (EXAMPLES / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_example_is_left_out() -> None:
    tested = {
        "ops_in_your_vit",
        "your_own_mask",
        "crops_in_your_loader",
        "clip_in_your_training_code",
        "pretrain_on_your_videos",
        "finetune_on_your_videos",
        "features_of_a_long_video",
        "train_huggingface",
    }
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested
    assert set(re.findall(r"\]\((\w+)\.py\)", PAGE)) == tested


@pytest.mark.parametrize("title", SECTIONS)
def test_sections_of_the_page_run(title: str) -> None:
    """From top to bottom, each in a namespace of its own; `before` and `after` are equal."""
    if "transformers" in SECTIONS[title]:
        pytest.importorskip("transformers")
    namespace: dict[str, object] = {"__name__": "page"}
    for block in FENCE.finditer(SECTIONS[title]):
        line = PAGE.count("\n", 0, PAGE.index(block[1]))
        exec(compile("\n" * line + block[1], str(EXAMPLES / "README.md"), "exec"), namespace)
    if title != "The published training loop":
        torch.testing.assert_close(namespace["after"], namespace["before"], rtol=1e-4, atol=1e-5)


def test_figures_of_the_page() -> None:
    """`formula` = figure, as the page has it."""
    claims = re.findall(r"`([-+*/\d. ()]+)` = ([\d,.]*\d)", PAGE)
    assert len(claims) == 11 == len(re.findall(r"` = ", PAGE))
    for formula, figure in claims:
        assert eval(formula) == pytest.approx(float(figure.replace(",", "")), rel=1e-12), formula


def test_figures_of_the_page_are_the_models() -> None:
    """Widths and counts that its formulas use, from the configurations they are said to be of."""
    from videomae_fast import get_config, make_masks

    base, large = get_config("base"), get_config("large", image_size=(256, 256))
    assert (base.num_tokens, base.encoder_dim, base.decoder_dim) == (1568, 768, 384)
    assert (large.num_tokens, large.encoder_dim, large.patch_dim) == (2048, 1024, 1536)
    kept = [large.num_tokens - int(ratio * large.num_tokens) for ratio in (0.7, 0.9)]
    assert sum(kept) == 820
    plan = make_masks(torch.arange(1), base.grid)
    assert (plan.visible.shape[1] + plan.decoded.shape[1], plan.predicted.shape[1]) == (944, 704)


def test_ops_in_your_vit() -> None:
    losses = load("ops_in_your_vit").main()
    assert losses[-1] < losses[0] - 0.02


def test_your_own_mask() -> None:
    assert 0.5 < load("your_own_mask").main().item() < 2


def test_crops_in_your_loader(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ((72, 112), (96, 112), (128, 100))
    load("crops_in_your_loader").main([torch.randint(0, 256, (8, *size, 3), dtype=torch.uint8) for size in sizes])
    step, pixels = capsys.readouterr().out.splitlines()
    loss, sent, floats = (float(number.replace(",", "")) for number in re.findall(r"\d[\d,.]*\b", step)[:3])
    assert 0.5 < loss < 2
    assert floats == torch.empty(3 * 4, 3, 8, 64, 64).nbytes
    decoded = sum(8 * 3 * height * width for height, width in sizes)
    assert decoded / 4 < sent < floats / 4  # a box has at least half of the frame's height and width
    assert float(pixels.split()[-1]) < 1e-6


def test_collate_of_crops_in_your_loader() -> None:
    """Every clip shows its own video, flipped if it says so."""
    torch.manual_seed(0)
    example = load("crops_in_your_loader")
    ramp = torch.arange(100, dtype=torch.uint8).expand(8, 80, 100)[..., None].expand(-1, -1, -1, 3)
    items = [example.YourVideos([video])[0] for video in (ramp, ramp[:, :70] + 100)]
    clips = example.collate(items)
    rows = tube_mask_gather(clips, torch.zeros(8, 1, dtype=torch.int64), (8, 64, 64)).view(clips.shape) * 255
    assert (rows[:4] < 100).all() and (rows[4:] >= 99.9).all()
    flips = [flipped for _, crops in items for _, flipped in crops]
    assert {True, False} == set(flips)
    assert (rows[:, 0, 0, 0, 0] > rows[:, 0, 0, 0, -1]).tolist() == flips


def test_clip_in_your_training_code(capsys: pytest.CaptureFixture[str]) -> None:
    """It learns more than the scene, of which a clip has four captions, and its figures are those of both codes."""
    pytest.importorskip("av")
    load("clip_in_your_training_code").main(steps=80, pairs=3072)
    losses, found, gradients, memory = capsys.readouterr().out.splitlines()
    first, last = (float(number) for number in re.findall(r"\d\.\d+", losses))
    assert first > 3 and last < first - 0.5
    assert int(found.partition("%")[0]) > 28 and found.endswith("(chance 8%)")
    assert 0 <= float(re.search(r"by (\S+) from", gradients)[1]) < 1e-4
    tiles, matrix = (int(number) for number in re.findall(r"(\d+) MiB", memory))
    assert tiles < 3072**2 * 4 / 2**20 < matrix  # less than one whole matrix in float32


def test_train_huggingface(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    sizes = dict(image_size=64, num_frames=8, hidden_size=96, num_hidden_layers=2, num_attention_heads=2)
    decoder = dict(decoder_hidden_size=48, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)
    example = load("train_huggingface")
    plain, fused = example.main(clips=8, steps=4, **sizes, **decoder)
    assert fused.losses == pytest.approx(plain.losses, rel=1e-4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["plain", "fused", "gain"]
    for line, run in zip(lines, (plain, fused), strict=False):
        assert f" {example.spread(run.seconds[1:4])} s/step" in line  # not the first step, nor that of the memory
    peaks = [float(re.search(r"peak ([\d,]+) MiB", line)[1].replace(",", "")) for line in lines[:2]]
    assert 0 < peaks[1] < peaks[0]
    gains = [before / after for before, after in zip(plain.seconds[1:4], fused.seconds[1:4], strict=True)]
    assert lines[2].startswith(f"gain: {example.spread(gains)} times the speed, 0.")


def test_spread_of_train_huggingface() -> None:
    assert load("train_huggingface").spread([4.0, 1.0, 3.0, 2.0, 5.0]) == "3 (2 to 4)"


def test_pretrain_on_your_videos(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    from videomae_fast.data import demo_folder

    model = load("pretrain_on_your_videos").main(
        str(demo_folder()),
        str(tmp_path),
        model="small",
        num_frames=4,
        image_size=32,
        frame_stride=1,
        crops_per_video=1,
        batch_size=2,
        epochs=2,
        warmup_epochs=1,
        workers=0,
    )
    assert model.config.image_size == (32, 32)
    assert (tmp_path / "log.csv").is_file()


def small_weights(folder: Path) -> str:
    """Pre-training weights of ViT-S, random, as a file."""
    from videomae_fast import VideoMAEForPretraining, get_config
    from videomae_fast.interop import save_published

    save_published(VideoMAEForPretraining(get_config("small")), folder / "checkpoint.pth")
    return str(folder / "checkpoint.pth")


def test_finetune_on_your_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from videomae_fast.data import demo_folder

    for number, file in enumerate(sorted(demo_folder().glob("*.mp4"))[:2]):
        (tmp_path / "videos" / f"class {number}").mkdir(parents=True)
        shutil.copy(file, tmp_path / "videos" / f"class {number}")
    size = {"model": "small", "num_frames": 4, "image_size": 32, "workers": 0}
    few = {"batch_size": 2, "epochs": 1, "warmup_epochs": 0, "track": "none"}
    views = {"segments": 1, "crops": 1, "workers": 0}
    videos = str(tmp_path / "videos")
    result = load("finetune_on_your_videos").main(
        videos, videos, small_weights(tmp_path), str(tmp_path / "run"), views, **size, **few
    )
    assert result.evaluation.summary()["videos"] == 2
    assert "class 1: " in capsys.readouterr().out


def test_features_of_a_long_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from videomae_fast.data import demo_folder

    video = min(demo_folder().glob("*.mp4"))
    found = load("features_of_a_long_video").main(str(video), small_weights(tmp_path), 1.0, num_frames=4, image_size=32)
    assert found.values.shape == (len(found.starts), 384)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].endswith(": 1.000")
