"""Training on answers: what a step computes, and runs that learn, start from others, continue and are evaluated."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.chatting import stand_in_for_peft
from tests.recipes import paired, tiny
from videomae_fast.cli import main
from videomae_fast.data.captioned import CaptionedBatch
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.interop import load_captioner
from videomae_fast.models import language_model as language_models
from videomae_fast.models.captioner import VideoCaptioner
from videomae_fast.models.chat_tokens import encode_captions, encode_chat
from videomae_fast.recipes.caption import CaptionConfig, Captioning, caption

pytest.importorskip("transformers")
from tests.recipes import captioning  # needs transformers

CROSS: dict[str, Any] = {"inject": "cross-attention", "time_mean": True, "mask_ratio": 0.3}
KINDS: dict[str, dict[str, Any]] = {
    "prefix": {"train": "all", "drop_path": 0.5},
    "cross-attention": CROSS,
    "internvideo2": {"model": "internvideo2-tiny", "patch_size": 16, "connector": "mean", "connector_depth": 0},
    "recompute": {"train": "last:1", "recompute_language": True},
}


@pytest.fixture(scope="session")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captioning.write_language_model(tmp_path_factory.mktemp("language"))


@pytest.fixture
def peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in where peft is not installed."""
    if find_spec("peft") is None:
        monkeypatch.setattr(language_models, "require", lambda name: stand_in_for_peft())


def prepared(config: CaptionConfig) -> tuple[Captioning, VideoCaptioner, list[CaptionedBatch]]:
    """A recipe as the loop builds it, its model in float64, and its first two batches: one of each kind."""
    torch.manual_seed(config.run.seed)
    recipe = Captioning(config)
    model, _ = recipe.build(torch.device("cpu"), lambda line: None)
    assert isinstance(model, VideoCaptioner)
    for name, parameter in model.named_parameters():
        if name.startswith("cross_attention") and name.endswith("_gate"):
            parameter.data.fill_(0.5)  # so that the video matters
    model.double()
    return recipe, model, list(recipe.batches(0, 1, 0, 2))


def gradients(recipe: Captioning, model: VideoCaptioner, batch: CaptionedBatch) -> tuple[Tensor, dict[str, Any]]:
    """The loss and gradients of a step, in as many parts as the configuration says."""
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for part in recipe.parts(batch, recipe.config.optimizer.parts, torch.device("cpu")):
        loss, numbers = recipe.step(model, part, 0)
        assert numbers.keys() == set(recipe.numbers)
        loss.backward()
        total += loss.detach()
    return total, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_have_the_gradients_of_one_batch(kind: str, pairs: Path, language: Path, tmp_path: Path) -> None:
    """In float64, of videos and of images, whose parts have different numbers of answer tokens."""
    sizes: tuple[dict[str, Any], ...] = ({"batch_size": 4}, {"batch_size": 1, "accumulate": 4})
    recipes = [prepared(captioning.settings(pairs, language, tmp_path, **KINDS[kind] | size)) for size in sizes]
    recipes[1][1].load_state_dict(recipes[0][1].state_dict())
    for number in range(2):
        (whole, expected), (divided, found) = (gradients(r, m, batches[number]) for r, m, batches in recipes)
        torch.testing.assert_close(divided, whole, rtol=1e-6, atol=0)  # weights are float32
        parts = recipes[1][0].parts(recipes[1][2][number], 4, torch.device("cpu"))
        assert len({len(part.tokens.answers) for part in parts}) > 1
        assert expected.keys() == found.keys() and expected
        scale = max(float(grad.abs().max()) for grad in expected.values())
        for name, grad in expected.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-6, atol=1e-7 * scale, msg=lambda t, n=name: n + t)


@pytest.mark.parametrize("template", [True, False], ids=["chat", "plain"])
def test_a_step_is_its_formula(template: bool, pairs: Path, language: Path, tmp_path: Path) -> None:
    folder = language if template else captioning.write_language_model(tmp_path / "plain", None)
    recipe, model, batches = prepared(captioning.settings(pairs, folder, tmp_path, **CROSS))
    assert sorted(batch.is_image for batch in batches) == [False, True]
    for batch in batches:
        (part,) = recipe.parts(batch, 1, torch.device("cpu"))
        clip_tokens, image_tokens = 8, 4
        assert part.visible is not None
        assert part.visible.shape == (4, image_tokens - 1 if batch.is_image else clip_tokens - 2)
        loss, _ = recipe.step(model, part, 0)
        talks = [
            [{"role": "user", "content": "What moves?"}, {"role": "assistant", "content": text}] for text in batch.texts
        ]
        tokenizer = recipe.texts.tokenizer
        tokens = encode_chat(tokenizer, talks, marks=False) if template else encode_captions(tokenizer, batch.texts)
        assert tokens.answers.tolist() == part.tokens.answers.tolist() and torch.equal(tokens.ids, part.tokens.ids)
        torch.testing.assert_close(loss, model(batch.clips, tokens, part.visible).loss)


def test_it_learns_and_is_evaluated(pairs: Path, language: Path, peft: None, tmp_path: Path) -> None:
    """On the captions that it has learnt. The language model is random: without adapters, little can be learnt."""
    options = {"lora_rank": 8, "lora_dropout": 0.0, "epochs": 10, "batch_size": 8, "lr": 0.5}
    result = caption(captioning.settings(pairs, language, tmp_path, eval_data=str(pairs), eval_every=10, **options))
    losses = torch.tensor(tiny.losses(tmp_path))
    assert len(losses) == 20 and losses[-4:].mean() < 0.5 * losses[:4].mean()
    first, last = read_log(tmp_path, EVALUATIONS)
    assert first.keys() == {"step", "loss"} and float(last["loss"]) < float(first["loss"])
    model = load_captioner(result.checkpoint)
    assert model.language_model.get_output_embeddings().lora_A  # type: ignore[operator]
    config = captioning.settings(pairs, language, tmp_path / "again", eval_data=str(pairs), eval_every=1, **options)
    recipe, _, _ = prepared(config)
    total, tokens = recipe.evaluate(model, 0, 1)["loss"].tolist()
    assert total / tokens == pytest.approx(float(last["loss"]), rel=1e-5)
    total_of_two = sum(recipe.evaluate(model, rank, 2)["loss"] for rank in range(2))
    torch.testing.assert_close(total_of_two, torch.tensor([total, tokens], dtype=torch.float64))


@pytest.mark.parametrize("adapters", [False, True], ids=["frozen", "lora"])
def test_a_run_continues_exactly(adapters: bool, pairs: Path, language: Path, peft: None, tmp_path: Path) -> None:
    """With dropout in the adapters, dropped branches, parts; and nothing of the language model in its files."""
    options: dict[str, Any] = {"train": "all", "drop_path": 0.5, "batch_size": 2, "accumulate": 2}
    options |= {"lora_rank": 2, "lora_dropout": 0.3} if adapters else CROSS
    before = {path.name: path.read_bytes() for path in language.iterdir()}
    whole = caption(captioning.settings(pairs, language, tmp_path / "whole", **options))
    caption(captioning.settings(pairs, language, tmp_path / "two", max_steps=3, **options))
    two = caption(captioning.settings(pairs, language, tmp_path / "two", resume=True, **options))
    assert tiny.losses(tmp_path / "whole") == tiny.losses(tmp_path / "two")
    weights = [(result.checkpoint / "model.safetensors").read_bytes() for result in (whole, two)]
    assert weights[0] == weights[1]
    kept = [name for name in paired.state_of(two.checkpoint) if name.startswith("language_model.")]
    assert bool(kept) == adapters and all(".lora_" in name for name in kept)
    assert {path.name: path.read_bytes() for path in language.iterdir()} == before
    loaded = load_captioner(two.checkpoint).state_dict()
    for name, tensor in paired.state_of(two.checkpoint).items():
        assert torch.equal(loaded[name], tensor), name


def test_a_stage_starts_from_the_one_before(
    pairs: Path, language: Path, peft: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More queries, adapters and frames than before; what both have is equal, positions are interpolated."""
    shared = {"connector": "qformer", "max_steps": 1, "train": "all"}
    first = caption(captioning.settings(pairs, language, tmp_path / "first", **shared))
    more = {"extra_queries": 3, "lora_rank": 2, "num_frames": 8, "lr": 0.0, "final_lr": 0.0}
    run = captioning.settings(pairs, language, tmp_path / "second", init=str(tmp_path / "first"), **shared | more)
    second = caption(run)
    before, after = (paired.state_of(result.checkpoint) for result in (first, second))
    differing = {name for name in before if not torch.equal(before[name], after[name])}
    assert differing == {"vision_encoder.pos_embed"}
    new = after.keys() - before.keys()
    assert "connector.extra_query_tokens" in new and all("lora_" in name or "extra" in name for name in new)
    out = capsys.readouterr().out
    assert "new, left as they were: connector.extra_query_tokens" in out and "interpolated to 4x2x2 tokens" in out


def test_the_tower_of_two_towers_and_a_connector_of_another_run(
    pairs: Path, language: Path, two_towers_run: Path, tmp_path: Path
) -> None:
    first = caption(captioning.settings(pairs, language, tmp_path / "first", max_steps=1))
    given = {"init": str(two_towers_run), "init_connector": str(tmp_path / "first"), "lr": 0.0, "final_lr": 0.0}
    second = caption(captioning.settings(pairs, language, tmp_path / "second", max_steps=1, **given))
    towers = paired.state_of(sorted((two_towers_run / "checkpoints").iterdir())[-1])
    connector, found = paired.state_of(first.checkpoint), paired.state_of(second.checkpoint)
    for name, tensor in found.items():
        assert torch.equal((connector if name.startswith("connector.") else towers)[name], tensor), name
    with pytest.raises(ValueError, match=r"init_connector '.*' does not go with init '.*', which is a run of caption"):
        caption(captioning.settings(pairs, language, tmp_path / "x", **given | {"init": str(tmp_path / "first")}))


def test_captions_that_are_cut_are_counted(
    pairs: Path, language: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, _, _ = prepared(captioning.settings(pairs, language, tmp_path / "x"))
    asked = recipe.texts.begin(1).ids.shape[1]
    caption(captioning.settings(pairs, language, tmp_path, max_tokens=asked + 1, max_steps=2))
    assert "8 of 8 texts were cut to the most tokens allowed" in capsys.readouterr().out


def test_the_command(pairs: Path, language: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = captioning.settings(pairs, language, tmp_path / "run", max_steps=2)
    config.save(tmp_path / "config.json")
    arguments = ["caption", "--config", str(tmp_path / "config.json"), "--connector", "mean", "--connector-depth", "0"]
    assert main([*arguments, "--train", "last:1", "--mask-ratio", "0.5", "--recompute-language"]) == 0
    assert "weights without the language model: " in capsys.readouterr().out
    assert (tmp_path / "run" / "curves.png").is_file()


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "extra_queries": ({"extra_queries": 3, "connector": "mean"}, "extra_queries 3 is of connector qformer, got 'mean'"),
    "depth": ({"connector": "mean", "connector_depth": 3}, "connector_depth 3 does not go with connector 'mean'"),
    "prompt": ({"prompt": " "}, "prompt is empty"),
    "alpha": ({"lora_rank": 2, "lora_alpha": 0.0}, "lora_alpha must be positive"),
    "eval_every": ({"eval_every": 5}, "eval_every 5 needs eval_data"),
    "recompute": ({"recompute_language": True, "inject": "cross-attention"}, "goes with inject prefix only"),
}
RUNS: dict[str, tuple[dict[str, Any], str]] = {
    "no language model": ({"language_model": ""}, "language_model is empty: name a folder"),
    "no folder": ({"language_model": "mistralai/Mistral-7B"}, "language_model must be a folder .* got mistralai"),
    "train": ({"train": "first:2"}, "train must be 'all', 'head' or 'last:K' .* got 'first:2'; or 'none'"),
    "context": ({"max_tokens": 127}, "max_tokens must be at most 126, .* beside 2 rows of the video, got 127"),
    "no room": ({"max_tokens": 3}, r"max_tokens must be more than the \d+ of the question, got 3"),
    "library": ({"loss": "liger"}, "liger_kernel"),
    "a bad init": ({"init": "nowhere"}, "nowhere"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    options, message = OPTIONS[name]
    with pytest.raises(ValueError, match=message):
        CaptionConfig.from_options(**options)


@pytest.mark.parametrize("name", RUNS)
def test_runs(name: str, pairs: Path, language: Path, tmp_path: Path) -> None:
    options, message = RUNS[name]
    with pytest.raises((ValueError, ImportError, FileNotFoundError), match=message):
        caption(captioning.settings(pairs, language, tmp_path, **options))


def test_a_run_continues_with_the_same_language_model_only(pairs: Path, language: Path, tmp_path: Path) -> None:
    caption(captioning.settings(pairs, language, tmp_path / "run", max_steps=1))
    other = captioning.write_language_model(tmp_path / "other", initializer_range=0.1)
    with pytest.raises(ValueError, match=r"a run continues with .*'language_model': "):
        caption(captioning.settings(pairs, other, tmp_path / "run", resume=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prefix", "cross-attention"])
def test_two_processes_caption_as_one(kind: str, pairs: Path, language: Path, tmp_path: Path) -> None:
    """Parts and processes with different numbers of answer tokens, images and videos, an uneven evaluation; resumed."""
    listed = pairs.parent / "seven.jsonl"
    listed.write_text("".join(pairs.read_text().splitlines(keepends=True)[:7]))
    shared = KINDS[kind] | {"eval_data": str(listed), "eval_every": 4}
    caption(captioning.settings(pairs, language, tmp_path / "one", **shared))
    continues = kind == "prefix"
    two = captioning.settings(pairs, language, tmp_path / "two", batch_size=1, accumulate=2, **shared)
    first = two.with_options(max_steps=5) if continues else two
    assert tiny.launch(tiny.arguments(first, "caption"), "tests.recipes.captioning").count("weights without") == 1
    if continues:
        tiny.launch(tiny.arguments(two.with_options(resume=True), "caption"), "tests.recipes.captioning")
    for file in ("log.csv", EVALUATIONS):
        one, two_ = (
            torch.tensor([float(row["loss"]) for row in read_log(tmp_path / name, file)]) for name in ("one", "two")
        )
        assert len(one) == (8 if file == "log.csv" else 2)
        torch.testing.assert_close(two_, one, rtol=1e-4, atol=0)
    states = [paired.state_of(list_checkpoints(tmp_path / name)[-1]) for name in ("one", "two")]
    assert states[0].keys() == states[1].keys()
    whole, divided = (torch.cat([state[name].flatten() for name in states[0]]) for state in states)
    assert (whole - divided).norm() < 1e-4 * whole.norm()
    load_captioner(list_checkpoints(tmp_path / "two")[-1])
