"""Text towers of contrastive pre-training: kept features of a frozen one, random ones, and where weights come from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.recipes import aligned, paired, tiny
from videomae_fast.data import read_mixture
from videomae_fast.recipes.contrast import Contrast, contrast
from videomae_fast.recipes.pretrain import pretrain

pytest.importorskip("transformers")


def built(data: Path, text: Path, output: Path, **changes: Any) -> tuple[Contrast, Any, list[str]]:
    """A recipe, its model, and what it said."""
    said: list[str] = []
    config = paired.settings(data, text, output, **changes)
    torch.manual_seed(config.run.seed)
    recipe = Contrast(config)
    model, _ = recipe.build(torch.device("cpu"), said.append)
    return recipe, model, said


def test_kept_features_are_those_of_the_tower(pairs: Path, tmp_path: Path) -> None:
    """Also of a tower with dropout, which a frozen one does not have; and a second run reads them."""
    text = paired.write_text_model(tmp_path / "text", dropout=0.5)
    kept = {"freeze_text": True, "text_features": str(tmp_path / "kept")}
    recipe, model, said = built(pairs, text, tmp_path / "one", **kept)
    assert said == [f"computing the features of 20 captions: {tmp_path / 'kept'}"]
    (batch,) = recipe.batches(0, 1, 0, 1)
    assert batch.captions is None
    (part,) = recipe.parts(batch, 1, torch.device("cpu"))
    tokens, _ = recipe.tokenizer(batch.texts)
    expected = model.project_text(model.encode_text(*tokens).pooled)
    torch.testing.assert_close(part.text, expected, rtol=0, atol=1e-6)
    before = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    assert built(pairs, text, tmp_path / "two", **kept)[2] == []
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == before
    first, second = (contrast(paired.settings(pairs, text, tmp_path / n, max_steps=2, **kept)) for n in ("a", "b"))
    assert tiny.losses(tmp_path / "a") == tiny.losses(tmp_path / "b")
    assert first.step == second.step == 2


@pytest.mark.parametrize("other", ["weights", "tokenizer", "max_tokens", "captions", "pool"])
def test_kept_features_of_others_are_refused(other: str, pairs: Path, text_model: Path, tmp_path: Path) -> None:
    kept = {"freeze_text": True, "text_features": str(tmp_path / "kept")}
    built(pairs, text_model, tmp_path, **kept)
    data, text, name = pairs, text_model, other
    if other == "weights":
        kept["seed"] = 4  # another projection
    elif other == "max_tokens":
        kept["max_tokens"] = 7
    elif other == "pool":
        kept["text_pool"], name = "first", "weights"
    elif other == "tokenizer":
        text = paired.write_text_model(tmp_path / "text")
        path = text / "tokenizer.json"
        found = json.loads(path.read_text())
        found["model"]["vocab"]["red"], found["model"]["vocab"]["blue"] = 11, 9
        path.write_text(json.dumps(found))
    else:
        data = paired.write_pairs(tmp_path / "pairs", images=False)
    with pytest.raises(ValueError, match=rf"kept are of another run: {name}.*was .*, now .*\. Name another folder"):
        built(data, text, tmp_path, **kept)


def test_captions_that_are_cut_are_counted(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    """By the run that computes the features, and by those that read them."""
    kept = {"freeze_text": True, "text_features": str(tmp_path / "kept"), "max_tokens": 5}  # three words
    for computing in (1, 0):
        _, _, said = built(pairs, text_model, tmp_path, **kept)
        assert said[computing:] == ["16 of 20 captions were cut to the most tokens allowed"]


def test_damaged_features_are_refused(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    kept = {"freeze_text": True, "text_features": str(tmp_path / "kept")}
    built(pairs, text_model, tmp_path, **kept)
    path = tmp_path / "kept" / "features.npy"
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:-1], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"kept are damaged: .*; delete the folder"):
            built(pairs, text_model, tmp_path, **kept)
    np.save(path, np.zeros((20, 3), dtype=np.float32))
    with pytest.raises(
        ValueError, match=r"kept are damaged: .*'features': \(20, 3\), .*expected .*'features': \(20, 16\)"
    ):
        built(pairs, text_model, tmp_path, **kept)
    (tmp_path / "kept" / "key.json").write_text("{")
    with pytest.raises(ValueError, match=r"key\.json is damaged"):
        built(pairs, text_model, tmp_path, **kept)


def test_features_that_were_not_finished_are_made_again(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    recipe, _, _ = built(pairs, text_model, tmp_path, freeze_text=True)
    whole = (tmp_path / "text_features" / "features.npy").read_bytes()
    (tmp_path / "text_features" / "key.json").unlink()
    (tmp_path / "text_features" / "features.npy").write_bytes(b"half")
    _, _, said = built(pairs, text_model, tmp_path, freeze_text=True)
    assert said == [f"computing the features of 20 captions: {tmp_path / 'text_features'}"]
    assert (tmp_path / "text_features" / "features.npy").read_bytes() == whole
    unknown = torch.tensor([1], dtype=torch.int64)
    with pytest.raises(ValueError, match="has no text features of a pair of this batch"):
        recipe.kept.rows(unknown)


def test_a_frozen_run_continues_with_the_tower_of_its_checkpoint(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    """The first run has the text tower of --init, the continued one that of its checkpoint, not of --text-model."""
    contrast(paired.settings(pairs, text_model, tmp_path / "trained", max_steps=2))
    frozen = {"freeze_text": True, "train": "last:1", "init": str(tmp_path / "trained"), "epochs": 2}
    contrast(paired.settings(pairs, text_model, tmp_path / "whole", **frozen))
    contrast(paired.settings(pairs, text_model, tmp_path / "two", max_steps=3, **frozen))
    contrast(paired.settings(pairs, text_model, tmp_path / "two", resume=True, **frozen))
    assert tiny.losses(tmp_path / "two") == tiny.losses(tmp_path / "whole")


def test_a_folder_without_weights_is_random(pairs: Path, tmp_path: Path) -> None:
    text = paired.write_text_model(tmp_path / "text", weights=False)
    _, model, said = built(pairs, text, tmp_path)
    assert said == [f"{text} has no weights: the text tower is random, of the size in its config.json"]
    assert model.text_encoder.dim == 32
    again = built(pairs, text, tmp_path)[1].state_dict()
    other = built(pairs, text, tmp_path, seed=4)[1].state_dict()
    name = "text_encoder.model.encoder.layer.0.output.dense.weight"
    assert torch.equal(model.state_dict()[name], again[name]) and not torch.equal(other[name], again[name])


def test_the_video_tower_begins_with_other_weights(
    pairs: Path, videos: Path, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run of pretrain, an image model of transformers, and a run of contrast with more frames."""
    pretrain(tiny.settings(videos, tmp_path / "pretrain", max_steps=1, num_frames=4, track="none"))
    image = aligned.make_huggingface_teacher(
        tmp_path / "image", hidden_size=48, num_attention_heads=2, num_hidden_layers=2, intermediate_size=192
    )
    for source in (tmp_path / "pretrain", image):
        _, model, said = built(pairs, text_model, tmp_path, init=str(source), init_partial=source == image)
        assert len(said) == 1 and str(source) in said[0]
        fresh = built(pairs, text_model, tmp_path)[1].state_dict()
        assert not torch.equal(
            model.state_dict()["vision_encoder.blocks.0.attn.qkv.weight"],
            fresh["vision_encoder.blocks.0.attn.qkv.weight"],
        )
    first = contrast(paired.settings(pairs, text_model, tmp_path / "first", max_steps=2))
    longer = {"num_frames": 8, "train": "last:1", "init": str(tmp_path / "first")}
    _, model, said = built(pairs, text_model, tmp_path, **longer)
    assert str(first.checkpoint) in said[0] and "pos_embed" in said[0]
    assert model.vision_encoder.pos_embed.shape == (1, 16, 48)
    contrast(paired.settings(pairs, text_model, tmp_path / "second", max_steps=1, **longer))
    capsys.readouterr()


def test_pairs_are_read_as_they_are_listed(pairs: Path) -> None:
    """The captions that the other tests count."""
    mixture = read_mixture(pairs, captioned=True)
    assert len({text for index in range(16) for text in mixture.captioned(index).captions}) == 20
