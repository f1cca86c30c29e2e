"""The predicted step of training on answers, its report, and what a run says of it before it begins on a GPU."""

import json
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.models.chatting import stand_in_for_peft
from videomae_fast.cli import main
from videomae_fast.memory import CARDS, MemoryFigures
from videomae_fast.memory.figures import CATEGORIES, Moment
from videomae_fast.models import language_model as language_models
from videomae_fast.recipes import caption_fit, caption_memory, step_fit
from videomae_fast.recipes.caption import CaptionConfig, Captioning
from videomae_fast.recipes.caption_memory import CaptionStep, predictor
from videomae_fast.recipes.step_memory import open_cache

pytest.importorskip("transformers")
from tests.recipes import captioning  # needs transformers

CROSS: dict[str, Any] = {"inject": "cross-attention", "time_mean": True, "mask_ratio": 0.3}
LORA: dict[str, Any] = {"lora_rank": 2, "lora_dropout": 0.0}
MIB = 2**20


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in where peft is not installed."""
    if find_spec("peft") is None:
        monkeypatch.setattr(language_models, "require", lambda name: stand_in_for_peft())


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config.json of a language model, and nothing else."""
    return write_sizes(tmp_path_factory.mktemp("sizes"), torch_dtype="bfloat16")


def write_sizes(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(
        json.dumps(captioning.language_model(hidden_size=64).config.to_dict() | changes), encoding="utf-8"
    )
    return folder


def settings(language: Path, **changes: Any) -> CaptionConfig:
    return captioning.settings(Path("-"), language, Path("-"), **({"max_tokens": 16} | changes))


def figures(config: CaptionConfig, clips: int = 4) -> MemoryFigures:
    with predictor(config, None) as predict:
        return predict(clips)


@pytest.mark.parametrize("changes", [{}, {"train": "last:1", **LORA}, CROSS, {"accumulate": 2}], ids=str)
def test_it_is_a_step_that_learns(changes: dict[str, Any], tmp_path: Path) -> None:
    """On real tensors, all that the run trains changes, and nothing else does."""
    torch.manual_seed(0)
    step = CaptionStep(settings(write_sizes(tmp_path, torch_dtype="float32"), **changes), clips=2)
    step.clips.copy_(torch.randint(0, 255, step.clips.shape))
    step.tokens.ids.copy_(torch.arange(2)[:, None] + torch.arange(16) + 5)
    for name, gate in step.model.named_parameters():
        if name.startswith("cross_attention") and name.endswith("_gate"):
            gate.data.fill_(0.5)  # so that the video matters
        if "lora_B" in name:
            gate.data.normal_()  # zero at first, so that A has no gradient
    for group in step.optimizer.param_groups:
        group["lr"] = 0.01
    before = {name: weight.clone() for name, weight in step.model.named_parameters()}
    step()
    trained = [name for name, weight in step.model.named_parameters() if weight.requires_grad]
    assert any(name.startswith("connector.") for name in trained)
    assert any(".lora_" in name for name in trained) == ("lora_rank" in changes)
    for name, weight in step.model.named_parameters():
        if weight.ndim > 1 and "image_embed" not in name and "img_pos_embed" not in name:
            assert torch.equal(weight, before[name]) != weight.requires_grad, name


def test_weights_and_their_state(sizes: Path) -> None:
    """The language model in its own dtype and frozen; gradients and AdamW of what is trained, in float32."""
    config = settings(sizes, train="all", **LORA)
    model = CaptionStep(config).model
    llm = [weight for name, weight in model.named_parameters() if name.startswith("language_model.")]
    assert {weight.dtype for weight in llm if not weight.requires_grad} == {torch.bfloat16}
    adapters = [weight for weight in llm if weight.requires_grad]
    assert {weight.dtype for weight in adapters} == {torch.float32} and len(adapters) == 2 * (2 * 7 + 1)
    found = figures(config).breakdown
    blocks = len(list(model.parameters())) * 512  # of which the last is seldom full
    weights = sum(weight.nbytes for weight in model.parameters())
    assert weights <= found["parameters"] <= weights + blocks
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    assert 2 * trained <= found["optimizer state"] <= 2 * (trained + blocks)


@pytest.mark.slow
def test_what_takes_less(sizes: Path) -> None:
    """A language model whose layers are repeated, and a frozen tower; parts hold the clips of all."""
    options: dict[str, Any] = {"train": "all", "max_tokens": 90}
    plain, *less = (
        figures(settings(sizes, **options, **change), 16).peak_bytes
        for change in ({}, {"recompute_language": True}, {"recompute": "never"})
    )
    assert less[0] < plain < less[1]
    parts = figures(settings(sizes, **options, accumulate=3), 16)
    clip = 4 * 32 * 32 * 3
    assert parts.breakdown["inputs"] >= 3 * 16 * clip and parts.peak_bytes >= plain + 2 * 16 * clip


@pytest.mark.slow
def test_the_loss_has_no_logits_of_all_tokens(sizes: Path, tmp_path: Path) -> None:
    """The memory of a step grows with the vocabulary as the embeddings, however long the texts are."""
    (tmp_path / "wide").mkdir()
    wide = write_sizes(tmp_path / "wide", torch_dtype="bfloat16", vocab_size=40_000)
    options = {"max_tokens": 120, "recompute_language": True}
    narrow, found = (figures(settings(folder, **options), 32) for folder in (sizes, wide))
    weights = found.breakdown["parameters"] - narrow.breakdown["parameters"]
    logits = 32 * 119 * 40_000 * 2  # in bfloat16
    assert found.peak_bytes - narrow.peak_bytes - weights < logits / 4


@pytest.mark.slow
def test_the_command(sizes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are those of the step, which are kept; options replace those of the file."""
    file = sizes.parent / "caption.toml"
    file.write_text(
        '[model]\nmodel = "tiny"\npatch_size = 16\n[connector]\nconnector = "mean"\n[optimizer]\nbatch_size = 4\n'
        "[language]\nmax_tokens = 16\n"
    )
    given = {"model": "tiny", "patch_size": 16, "connector": "mean", "train": "all", "num_frames": 8, "image_size": 32}
    config = CaptionConfig.from_options(
        **given, language_model=str(sizes), lora_rank=2, max_tokens=16, batch_size=16, precision="bf16"
    )
    with predictor(config, open_cache()) as predict:
        low, some, high = (predict(clips) for clips in (16, 24, 32))
    half_a_clip = (high.peak_bytes - low.peak_bytes) // 32
    monkeypatch.setitem(CARDS, "A100-80", some.peak_bytes + half_a_clip)
    monkeypatch.setattr(caption_memory, "CaptionStep", lambda *_: pytest.fail("it is predicted again"))
    command = ["memory", "--recipe", "caption", "--config", str(file), "--language-model", str(sizes)]
    command += ["--frames", "8", "--image-size", "32", "--train", "all", "--lora-rank", "2", "--batch-size", "16"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"tiny and {sizes.name} (bfloat16, LoRA of rank 2), 16 clips of 8x32x32, tokens of 2x16x16, train all, bf16, "
        "texts of up to 16 tokens: a step of `caption`"
    )
    assert low.table(depth=1) in out and out.endswith("Clips at a time that fit A100-80: 24\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "language_model is empty: name a folder of a causal language model"),
        ("--language-model nowhere", "language_model must be a folder of a causal language model of transformers"),
        ("--language-model EMPTY", "has no config.json that transformers knows"),
        ("--language-model SIZES --train last:9 --config SHORT", "with K from 1 to 2, got 'last:9'; or 'none'"),
        ("--language-model SIZES --frames 8,16", "frames of --recipe caption must be one number, got '8,16'"),
        ("--language-model SIZES --batch-size 0", "batch_size must be at least 1, got 0"),
        ("--language-model SIZES --lora-rank -1", "lora_rank must not be negative, got -1"),
        ("--config missing.toml", "missing.toml"),
        ("--decoder-mask-ratio 0.5", "decoder_mask_ratio does not go with --recipe caption"),
        ("--text-model bert", "text_model is of --recipe contrast, got --recipe caption"),
    ],
)
def test_errors_of_the_command(
    given: str, message: str, sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.toml"
    short.write_text("[language]\nmax_tokens = 16\n")
    words = given.replace("SIZES", str(sizes)).replace("EMPTY", str(tmp_path)).replace("SHORT", str(short)).split()
    assert main(["memory", "--recipe", "caption", "--model", "tiny", "--patch-size", "16", *words]) == 2
    assert message in capsys.readouterr().err


def test_its_options_are_not_those_of_other_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    for recipe in ("pretrain", "contrast"):
        assert main(["memory", "--recipe", recipe, "--lora-rank", "4"]) == 2
        assert f"lora_rank is of --recipe caption, got --recipe {recipe}" in capsys.readouterr().err


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU whose memory a test chooses, that of a context and of fragmentation apart."""
    found = SimpleNamespace(total_memory=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr(step_fit, "ALLOWANCE", 0)
    return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Predictions without a model: 10 MiB a clip, and twice that without recomputation. Those that were asked for."""
    found: list[tuple[str, int]] = []

    def known(config: CaptionConfig, cache: Any) -> Any:
        def predict(clips: int) -> MemoryFigures:
            found.append((config.model.recompute, clips))
            size = clips * 10 * MIB * (2 if config.model.recompute == "never" else 1)
            breakdown = dict.fromkeys(CATEGORIES, 0) | {"optimizer state": 2 * MIB}
            return MemoryFigures([size], size, Moment("forward", "", ""), breakdown, {}, None)

        return nullcontext(predict)

    monkeypatch.setattr(caption_fit, "predictor", known)
    return found


def fit(language: Path, ranks: int = 0, device: str = "cuda", **changes: Any) -> tuple[str, list[str]]:
    """The choice of recomputation, and the lines, of a run of batches of 4."""
    said: list[str] = []
    of = Captioning(settings(language, **({"train": "all"} | changes)))
    of.group = SimpleNamespace(size=lambda: ranks, rank=lambda: 0) if ranks else None
    options = caption_fit.fit_caption(of, torch.device(device), said.append)
    assert replace(options, recompute="auto") == replace(of.config.model, recompute="auto")
    return options.recompute, said


def test_what_a_run_says(card: SimpleNamespace, asked: list[tuple[str, int]], sizes: Path) -> None:
    card.total_memory = 2**10 * MIB
    line = "predicted memory of a step: 0.1 of the 1.0 GiB that can be used, with 4 clips at a time"
    assert fit(sizes) == ("never", [line])
    card.total_memory = 50 * MIB  # 40 MiB with recomputation, 80 without
    recompute, said = fit(sizes)
    assert recompute == "auto" and len(said) == 1
    card.total_memory = 40 * MIB  # the buckets of DDP hold the gradients: 1 MiB
    advice = (
        "this step is predicted not to fit: take a smaller --batch-size and a larger --accumulate or "
        "--recompute-language or --activation-checkpointing or fewer --max-tokens or --num-frames"
    )
    assert len(fit(sizes)[1]) == 1 and fit(sizes, ranks=2)[1][1] == advice
    card.total_memory = 5 * MIB
    least = {"batch_size": 1, "recompute_language": True, "activation_checkpointing": True}
    assert fit(sizes, **least)[1][1] == "this step is predicted not to fit: take fewer --max-tokens or --num-frames"
    asked.clear()
    assert fit(sizes, train="none")[0] == "auto" and asked == [("auto", 4)]  # a frozen tower keeps nothing


def test_nothing_is_predicted_on_a_cpu_or_without_a_folder(asked: list[tuple[str, int]], tmp_path: Path) -> None:
    assert fit(tmp_path, device="cpu") == ("auto", [])
    assert fit(tmp_path / "missing") == ("auto", []) and not asked


def test_a_model_that_cannot_be_predicted(card: SimpleNamespace, sizes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on, and says so."""

    def fails(*_: Any) -> None:
        raise NotImplementedError("attention with enable_gqa cannot be predicted")

    monkeypatch.setattr(caption_memory, "CaptionStep", fails)
    card.total_memory = 2**30
    message = "memory of this step cannot be predicted: attention with enable_gqa cannot be predicted"
    assert fit(sizes) == ("auto", [message])


@pytest.mark.slow
def test_a_run_is_built_as_it_is_predicted(
    card: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, pairs: Path, tmp_path: Path
) -> None:
    """And its random numbers are those of a run whose memory nobody predicted."""
    monkeypatch.setattr("videomae_fast.recipes.fit.activate_flash_attention", lambda device: "")
    card.total_memory = 2**10 * MIB
    folder = captioning.write_language_model(tmp_path / "language")
    config = captioning.settings(pairs, folder, tmp_path, train="all")
    (model, said), (unpredicted, silent) = built(config, "cuda"), built(config, "cpu")
    assert model.vision_encoder.config.recompute == "never" and unpredicted.vision_encoder.config.recompute == "auto"
    peak = figures(config.with_options(recompute="never"), 4).peak_bytes / 2**30
    assert said[0] == f"predicted memory of a step: {peak:.1f} of the 1.0 GiB that can be used, with 4 clips at a time"
    assert said[1:] == silent
    for weight, other in zip(model.parameters(), unpredicted.parameters(), strict=True):
        assert torch.equal(weight, other)


def built(config: CaptionConfig, device: str) -> tuple[Any, list[str]]:
    said: list[str] = []
    torch.manual_seed(1)
    model, _ = Captioning(config).build(torch.device(device), said.append)
    return model, said
