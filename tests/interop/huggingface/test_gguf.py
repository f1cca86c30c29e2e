"""GGUF files as language models: what is read is what was written, and files that cannot be read are named."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.chatting import language_model, tokenizer
from videomae_fast.interop import CheckpointError
from videomae_fast.interop.huggingface.language_model import (
    LanguageModelFolder,
    read_chat_tokenizer,
    read_language_model,
)

pytest.importorskip("gguf")
from tests.interop.huggingface.gguf_files import write_gguf

SIZES = {"hidden_size": 32, "intermediate_size": 64}  # blocks of Q4_1 have 32 weights


@pytest.fixture(scope="module")
def model() -> Any:
    return language_model(**SIZES)


@pytest.fixture(scope="module")
def file(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model, tokenizer())


def test_weights_and_tokens_are_those_that_were_written(
    file: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a relative name, where the working directory has another file of this name."""
    monkeypatch.chdir(tmp_path)
    Path(file.name).write_bytes(b"GGUF")
    found = read_language_model(Path("..") / file.parent.name / file.name)
    assert found.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    ours, theirs = tokenizer(), read_chat_tokenizer(file, found)
    text = "<|im_start|>user\nWhat moves here? é<|im_end|>\n"
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text, add_special_tokens=False)
    assert (theirs.chat_template, theirs.eos_token_id) == (ours.chat_template, ours.eos_token_id)
    with pytest.raises(ValueError, match=r"tokenizer has \d+ tokens, and the language model 50: it is of another"):
        read_chat_tokenizer(file, language_model(vocab_size=50))


def test_quantised_weights_become_floating(model: Any, tmp_path: Path) -> None:
    """Q4_1 has 16 values from the least to the largest weight of each 32."""
    found = read_language_model(write_gguf(tmp_path / "q4.gguf", model, tokenizer(), quantisation="Q4_1"))
    for name, tensor in model.state_dict().items():
        assert found.state_dict()[name].dtype == torch.float32
        blocks = tensor.unflatten(-1, (-1, 32))
        step = (blocks.amax(-1, keepdim=True) - blocks.amin(-1, keepdim=True)).expand_as(blocks).flatten(-2) / 15
        error = (found.state_dict()[name] - tensor).abs()
        assert bool((error <= 0.52 * step + 1e-6).all()), name  # half a step, and the step's rounding to 16 bits
        assert tensor.ndim == 1 or bool(error.any()), name


def test_the_digest_is_of_the_weights_alone(file: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    renamed.write_bytes(file.read_bytes())
    assert LanguageModelFolder.of(renamed).digest == LanguageModelFolder.of(file).digest
    renamed.write_bytes(file.read_bytes()[:-1] + b"!")
    assert LanguageModelFolder.of(renamed).digest != LanguageModelFolder.of(file).digest


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another file": (lambda data: b"{}", "is no GGUF file: it begins with b'{}', not with b'GGUF'"),
    "empty": (lambda data: b"", "is no GGUF file: it begins with b''"),
    "half": (lambda data: data[: len(data) // 2], "the file is cut off or damaged"),
    "half a header": (lambda data: data[:200], "the file is cut off or damaged"),
    "another architecture": (lambda data: data.replace(b"llama", b"lmama"), "rchitecture lmama"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_read_are_named_in_one_line(name: str, file: Path, model: Any, tmp_path: Path) -> None:
    change, message = REFUSED[name]
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(change(file.read_bytes()))
    with pytest.raises(CheckpointError, match=re.escape(message)) as refused:
        read_language_model(bad)
    assert str(bad) in str(refused.value) and "\n" not in str(refused.value)
    if name != "another architecture":
        with pytest.raises(CheckpointError, match=re.escape(message)):
            read_chat_tokenizer(bad, model)


def test_what_lacks_is_said(file: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = write_gguf(tmp_path / "lacking.gguf", model, tokenizer(), drop="blk.1.ffn_up.weight")
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        read_language_model(lacking)
    with pytest.raises(CheckpointError, match=r"has no config\.json: name its GGUF file itself, such as .*tiny\.gguf"):
        read_language_model(file.parent)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"'gguf' is needed here .* pip install 'videomae-fast\[chat\]'"):
        read_language_model(file)
