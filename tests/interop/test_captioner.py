"""Captioners in files: saved and loaded, with the language model by reference; published connectors; bad files."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.chatting import language_model, stand_in_for_peft, tokenizer
from tests.models.test_captioner import TALKS, captioner, clip
from tests.models.test_connectors import qformer, resampler
from tests.models.test_video_tower import TINY, internvideo2, transformer
from videomae_fast.interop import CheckpointError, init_connector, load_captioner, save_captioner
from videomae_fast.interop.checkpoint import read_weights, write_safetensors
from videomae_fast.interop.huggingface.language_model import (
    LanguageModelFolder,
    read_chat_tokenizer,
    read_language_model,
)
from videomae_fast.models.captioner import VideoCaptioner
from videomae_fast.models.chat_tokens import encode_chat
from videomae_fast.models.language_model import add_language_lora


@pytest.fixture
def language_folder(tmp_path: Path) -> Path:
    language_model().save_pretrained(tmp_path / "language")
    tokenizer().save_pretrained(tmp_path / "language")
    return tmp_path / "language"


def loss(model: VideoCaptioner) -> Tensor:
    tokens = encode_chat(tokenizer(), TALKS, marks=model.injection == "prefix")
    value: Tensor = model.double()(clip(), tokens).loss
    return value


def randomised(model: nn.Module) -> None:
    torch.manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize(
    ("injection", "options"),
    [
        ("prefix", {"mask_ratio": 0.3}),
        ("cross-attention", {"time_mean": True}),
        ("prefix", {"tower": lambda: internvideo2(pool="mean")}),
        ("prefix", {"tower": lambda: transformer(pool="attention", learn_positions=False)}),
    ],
    ids=["prefix", "cross-attention", "InternVideo2", "attention pool"],
)
def test_what_is_saved_is_loaded(
    injection: str, options: dict[str, Any], language_folder: Path, tmp_path: Path
) -> None:
    made = {name: value() if callable(value) else value for name, value in options.items()}
    found = captioner(injection, language=read_language_model(language_folder), **made)
    save_captioner(found, tmp_path / "run", LanguageModelFolder.of(language_folder))
    loaded = load_captioner(tmp_path / "run")
    assert not loaded.training and type(loaded.vision_encoder) is type(found.vision_encoder)
    assert (loaded.mask_ratio, loaded.time_mean) == (found.mask_ratio, found.time_mean)
    for (name, ours), (other, theirs) in zip(
        found.state_dict().items(), loaded.double().state_dict().items(), strict=True
    ):
        assert name == other
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7, msg=name)
    torch.testing.assert_close(loss(loaded), loss(found), rtol=1e-5, atol=1e-6)
    names = read_weights(tmp_path / "run").keys()
    assert not any(name.startswith("language_model.") for name in names)


@pytest.mark.parametrize("library", ["stand-in", "peft"])
def test_adapters_are_saved(
    library: str, language_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "peft":
        pytest.importorskip("peft")
    else:
        monkeypatch.setitem(sys.modules, "peft", stand_in_for_peft())
    language = read_language_model(language_folder)
    add_language_lora(language, ("q_proj", "lm_head"), rank=2, alpha=6, dropout=0.25)
    found = captioner(language=language)
    randomised(found)
    save_captioner(found, tmp_path / "run", LanguageModelFolder.of(language_folder))
    settings = json.loads((tmp_path / "run" / "captioner.json").read_text())["captioner"]
    assert settings["lora"] == {"targets": ["lm_head", "q_proj"], "rank": 2, "alpha": 6, "dropout": 0.25}
    loaded = load_captioner(tmp_path / "run")
    torch.testing.assert_close(loss(loaded), loss(found), rtol=1e-5, atol=1e-6)
    saved = {name for name in read_weights(tmp_path / "run") if name.startswith("language_model.")}
    assert len(saved) == 6 and all(".lora_" in name for name in saved)


def test_another_language_model_is_refused(language_folder: Path, tmp_path: Path) -> None:
    save_captioner(captioner(), tmp_path / "run", LanguageModelFolder.of(language_folder))
    moved = language_folder.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="language' is no folder with the weights of a language model"):
        load_captioner(tmp_path / "run")
    assert isinstance(load_captioner(tmp_path / "run", moved), VideoCaptioner)
    other = language_model()
    other.model.norm.weight.data[0] += 1e-3
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="is not the one that it was trained with: its digest is"):
        load_captioner(tmp_path / "run", tmp_path / "other")


def saved(tmp_path: Path, language_folder: Path) -> Path:
    save_captioner(captioner(), tmp_path / "run", LanguageModelFolder.of(language_folder))
    return tmp_path / "run"


def without(prefix: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = {n: t for n, t in read_weights(folder).items() if not n.startswith(prefix)}
        write_safetensors(state, folder / "model.safetensors")

    return change


def edited(path: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / "captioner.json").read_text())
        part = found["captioner"]
        *parents, last = path.split(".")
        for parent in parents:
            part = part[parent]
        part[last] = value
        (folder / "captioner.json").write_text(json.dumps(found))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("connector."), "it holds no captioner: no name begins with 'connector.'"),
        (without("connector.proj"), "missing: connector.proj.bias, connector.proj.weight"),
        (without("vision_encoder.norm"), "missing: vision_encoder.norm.bias, vision_encoder.norm.weight"),
        (lambda folder: (folder / "captioner.json").unlink(), "no captioner.json there has a section 'captioner'"),
        (lambda folder: (folder / "captioner.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "is damaged"),
        (edited("connector.kind", "Magic"), "is not as save_captioner wrote it: KeyError('Magic')"),
        (edited("connector.queries", 5), "of another shape"),
        (edited("video_tower.config.encoder_dim", "wide"), "is not as save_captioner wrote it"),
        (edited("injection", "suffix"), "is not as save_captioner wrote it"),
        (edited("connector", None), "is not as save_captioner wrote it: 'connector' is None"),
        (edited("lora", "all"), "is not as save_captioner wrote it: 'lora' is 'all'"),
        (
            edited("lora", {"ranks": 2}),
            "is not as save_captioner wrote it: lora: add_language_lora() got an un",
        ),
        (edited("lora", {"rank": "2"}), "is not as save_captioner wrote it: lora: '<' not supported"),
        (edited("lora", {"rank": 0}), "is not as save_captioner wrote it: lora: rank must be at least 1"),
    ],
)
def test_bad_files_are_named(
    change: Callable[[Path], Any], message: str, language_folder: Path, tmp_path: Path
) -> None:
    folder = saved(tmp_path, language_folder)
    change(folder)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        load_captioner(folder)
    assert str(folder) in str(caught.value)


def test_no_folder_is_no_captioner(tmp_path: Path, language_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none' does not exist"):
        load_captioner(tmp_path / "none")
    with pytest.raises(CheckpointError, match="is no folder with a language model of transformers"):
        read_language_model(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty' is no language model that transformers reads"):
        read_language_model(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="has no tokenizer that transformers reads"):
        read_chat_tokenizer(tmp_path / "empty", language_model())
    assert len(read_chat_tokenizer(language_folder, language_model())) <= 304
    with pytest.raises(
        ValueError, match=r"tokenizer has \d+ tokens, and the language model 50: it is of another model"
    ):
        read_chat_tokenizer(language_folder, language_model(vocab_size=50))

    class Tower(type(transformer())):  # type: ignore[misc]
        pass

    with pytest.raises(ValueError, match="a captioner of Tower and QFormer cannot be saved"):
        save_captioner(captioner(tower=Tower(TINY)), tmp_path / "x", LanguageModelFolder("", ""))


def test_half_a_language_model_is_refused_in_one_line(language_folder: Path) -> None:
    weights = language_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"language' is no language model that transformers reads: \S") as refused:
        read_language_model(language_folder)
    assert "\n" not in str(refused.value)


def test_code_in_the_folder_does_not_run(language_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if somebody would say yes at the terminal, where nobody is asked."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (language_folder / "own.py").write_text(f"open({str(language_folder / 'ran')!r}, 'w')\n")
    model = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    for name, code in (("config.json", model), ("tokenizer_config.json", {"AutoTokenizer": [None, "own.Own"]})):
        found = json.loads((language_folder / name).read_text())
        own = {"model_type": "own", "tokenizer_class": "Own", "auto_map": code}
        (language_folder / name).write_text(json.dumps(found | own))
    with pytest.raises(CheckpointError, match=r"is no language model that transformers reads: .* custom code"):
        read_language_model(language_folder)
    with pytest.raises(CheckpointError, match=r"has no tokenizer that transformers reads: .* custom code"):
        read_chat_tokenizer(language_folder, language_model())
    assert not (language_folder / "ran").exists()


def published_videochat2() -> tuple[nn.Module, dict[str, Tensor]]:
    """The names of a file of the third stage, of the sizes of a test."""
    found = qformer()
    own = found.state_dict()
    file = {name.replace("proj.", "mistral_proj.") if name.startswith("proj.") else name: t for name, t in own.items()}
    adapter = "mistral_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    file |= {adapter: torch.ones(2, 3), "vision_encoder.encoder.blocks.0.norm1.weight": torch.ones(4)}
    return found, file


def test_the_qformer_starts_from_videochat2(tmp_path: Path) -> None:
    truth, file = published_videochat2()
    torch.save({"model": file}, tmp_path / "stage3.pth")
    torch.manual_seed(9)
    found = qformer()
    for parameter in found.parameters():
        parameter.data.normal_()
    report = init_connector(found, tmp_path / "stage3.pth")
    for name, tensor in truth.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert "not used: mistral_model" in report and "vision_encoder" in report and "left as" not in report
    first = {n: t for n, t in file.items() if not n.startswith(("extra", "mistral_proj"))}
    torch.save({"model": first}, tmp_path / "stage1.pth")
    report = init_connector(qformer(), tmp_path / "stage1.pth")
    assert "new, left as they were: extra_query_tokens, proj.weight, proj.bias" in report
    with pytest.raises(CheckpointError, match="it holds no PerceiverResampler"):
        torch.save({"query_tokens": torch.ones(1)}, tmp_path / "other.pth")
        init_connector(resampler(), tmp_path / "other.pth")


def test_the_resampler_starts_from_openflamingo_and_from_a_captioner(language_folder: Path, tmp_path: Path) -> None:
    truth = resampler()
    state = {f"perceiver.{name}": t for name, t in truth.state_dict().items() if not name.startswith("proj.")}
    torch.save(state, tmp_path / "flamingo.pt")
    found = resampler()
    report = init_connector(found, tmp_path / "flamingo.pt")
    assert "new, left as they were: proj.weight, proj.bias" in report
    model = captioner()
    save_captioner(model, tmp_path / "run", LanguageModelFolder.of(language_folder))
    other = captioner().connector
    other.query_tokens.data.zero_()
    init_connector(other, tmp_path / "run")
    torch.testing.assert_close(other.query_tokens, model.connector.query_tokens)
