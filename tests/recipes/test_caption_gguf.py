"""A run of `caption` with a GGUF file trains as one with the folder of the same model, continues and describes."""

from pathlib import Path

import pytest

from tests.recipes import paired, tiny
from videomae_fast.models.config import CONFIGS
from videomae_fast.recipes.caption import caption
from videomae_fast.recipes.describe import Describer, describe

pytest.importorskip("gguf")
pytest.importorskip("transformers")
from tests.interop.huggingface.gguf_files import write_gguf
from tests.models.chatting import language_model, tokenizer
from tests.recipes import captioning


@pytest.fixture(autouse=True)
def tower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "tiny", tiny.TINY)


def test_a_gguf_file_is_the_language_model_of_a_run(pairs: Path, tmp_path: Path) -> None:
    words = tokenizer(texts=["the red rows move", "a wide image"])
    model = {"vocab_size": len(words)}  # rows of no token have names in a GGUF file, which would be said
    folder = captioning.write_language_model(tmp_path / "folder", **model)
    file = write_gguf(tmp_path / "model.gguf", language_model(**model), words)
    whole = caption(captioning.settings(pairs, folder, tmp_path / "whole", max_steps=4))
    caption(captioning.settings(pairs, file, tmp_path / "two", max_steps=2))
    two = caption(captioning.settings(pairs, file, tmp_path / "two", max_steps=4, resume=True))
    assert tiny.losses(tmp_path / "two") == tiny.losses(tmp_path / "whole")
    states = [paired.state_of(result.checkpoint) for result in (whole, two)]
    assert states[0].keys() == states[1].keys()
    assert all(states[0][name].equal(tensor) for name, tensor in states[1].items())
    video = [str(pairs.parent / "video0.mp4")]
    said = list(describe(Describer(str(tmp_path / "whole")), video, max_new_tokens=6))
    assert said == list(describe(Describer(str(tmp_path / "two")), video, max_new_tokens=6))
    moved = file.rename(tmp_path / "moved.gguf")
    found = describe(Describer(str(tmp_path / "two"), language_model=str(moved)), video, max_new_tokens=6)
    assert said == list(found)
    other = write_gguf(tmp_path / "other.gguf", language_model(**model, initializer_range=0.1), words)
    with pytest.raises(ValueError, match="is not the one that it was trained with"):
        Describer(str(tmp_path / "two"), language_model=str(other))
    with pytest.raises(ValueError, match=r"a run continues with .*'language_model': "):
        caption(captioning.settings(pairs, other, tmp_path / "two", resume=True))
