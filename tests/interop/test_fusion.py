"""fuse and unfuse: per instance, idempotent, undone exactly; errors say what was looked for."""

import copy
import io
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.interop.models import as_bool, assert_close, clip, hugging_face, plan
from videomae_fast.interop import FusionError, fuse, fusion, unfuse
from videomae_fast.interop.seam import is_attached

pytest.importorskip("transformers")
HIDDEN = as_bool(plan().visible)


def attributes(model: nn.Module) -> dict[str, Any]:
    """Everything that an instance holds, at any depth: values by identity."""
    return {f"{name}.{key}": id(value) for name, m in model.named_modules() for key, value in flat(m).items()}


def flat(module: nn.Module) -> dict[str, Any]:
    inner = {f"{k}.{name}": x for k, v in module.__dict__.items() if isinstance(v, dict) for name, x in v.items()}
    return {k: v for k, v in module.__dict__.items() if not isinstance(v, dict | set)} | inner


def test_exact_undo() -> None:
    model = hugging_face()
    before, expected = attributes(model), model(clip(), bool_masked_pos=HIDDEN)
    names = [list(m.__dict__) for m in model.modules()]
    fuse(model)
    assert attributes(model) != before
    assert unfuse(model) is model
    assert attributes(model) == before
    assert [sorted(m.__dict__) for m in model.modules()] == [sorted(n) for n in names]
    assert not any(m._non_persistent_buffers_set for m in model.modules())
    assert_close(dict(model(clip(), bool_masked_pos=HIDDEN)), dict(expected), 0)
    unfuse(model)


def test_idempotent_and_in_parts() -> None:
    model = hugging_face()
    assert fuse(model, ops=["embed_tokens"]) is model
    assert not is_attached(model) and is_attached(model.videomae.embeddings)
    fuse(model)
    once = attributes(model)
    fuse(model, verify=True)
    assert attributes(model) == once


def test_one_instance_only() -> None:
    model, other = hugging_face(), hugging_face()
    fuse(model)
    assert not any(is_attached(m) for m in other.modules())
    assert type(model) is type(other)


def test_state_dict_and_class_stay() -> None:
    model, other = hugging_face(), hugging_face()
    fuse(model)
    assert list(model.state_dict()) == list(other.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in other.named_parameters()]
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file), strict=True)
    assert {"position_embeddings", "videomae.embeddings.position_embeddings"} == {n for n, _ in model.named_buffers()}


def test_save_pretrained(tmp_path: Any) -> None:
    model = fuse(hugging_face())
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert not is_attached(loaded)
    assert_close(dict(loaded.state_dict()), dict(model.state_dict()), 0)


def test_a_copy_is_fused_and_its_own() -> None:
    model = fuse(hugging_face())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.mask_token.add_(1)
    assert twin.forward.__self__ is twin and twin.videomae.embeddings.forward.__self__ is twin.videomae.embeddings
    assert not torch.equal(*(m(clip(), bool_masked_pos=plan()).logits for m in (model, twin)))
    unfuse(twin)
    assert is_attached(model) and not is_attached(twin)


def test_whole_model_cannot_be_pickled() -> None:
    """It would come back with methods of another object: better an error while saving than a surprise in loading."""
    with pytest.raises(TypeError, match=r"save its state_dict\(\), or unfuse\(model\) first"):
        torch.save(fuse(hugging_face()), io.BytesIO())


@pytest.mark.parametrize("change", ["mean", "dtype", "count"])
def test_verify_finds_differences_and_undoes(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    def wrong(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = type(self).forward(self, *args, **kwargs)
        if change == "mean":
            output["logits"] = output.logits * 1.01
        elif change == "dtype":
            output["logits"] = output.logits.double()
        else:
            output["hidden_states"] = output.logits
        return output

    model = hugging_face()
    before = attributes(model)
    fuse(model, verify=True)
    unfuse(model)
    seams = tuple(replace(seam, forward=wrong) if seam.op == "decode" else seam for seam in fusion.SEAMS)
    monkeypatch.setattr(fusion, "SEAMS", seams)
    message = {"mean": r"output 1 differs .* by 1.0e-02", "dtype": "output 1 is torch.float64", "count": "3 tensors"}
    with pytest.raises(FusionError, match=rf"VideoMAEForPreTraining .*{message[change]}"):
        fuse(model, verify=True)
    assert attributes(model) == before


def test_verify_leaves_random_numbers_alone() -> None:
    model = hugging_face(hidden_dropout_prob=0.5)
    state = torch.get_rng_state()
    fuse(model, verify=True)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("ops", [[], ["gather"], ["decode", "loss"], "embed"])
def test_unknown_ops(ops: Any) -> None:
    with pytest.raises(ValueError, match=r"ops must be some of \('embed_tokens', 'decode', 'gather_tokens'\), got"):
        fuse(hugging_face(), ops=ops)


def test_nothing_to_fuse() -> None:
    with pytest.raises(
        TypeError, match=r"nothing in this Linear .* looked for .*VideoMAEForPreTraining \(transformers"
    ):
        fuse(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"looked for PatchDropout \(timm"):
        fuse(hugging_face(), ops=["gather_tokens"])


def test_unknown_structure_names_what_is_missing() -> None:
    model = hugging_face()
    del model.mask_token
    model.decoder = None
    with pytest.raises(TypeError) as error:
        fuse(model)
    for part in (
        "cannot be fused for 'decode'",
        "there is no mask_token",
        "decoder is a NoneType",
        "transformers 4.45",
    ):
        assert part in str(error.value)
    assert not any(is_attached(m) for m in model.modules())


def test_a_replaced_method_is_not_overwritten() -> None:
    model = hugging_face()
    model.forward = lambda *args: None
    with pytest.raises(TypeError, match=r"forward has been replaced on this instance by something else"):
        fuse(model)
    del model.forward
    fuse(model)
    original = model.forward
    model.forward = lambda *args, **kwargs: original(*args, **kwargs)
    fuse(model)
    with pytest.raises(TypeError, match="wrapped on this instance since it was fused"):
        unfuse(model)
    assert is_attached(model.videomae.embeddings)
    model.forward = original
    assert not any(is_attached(m) for m in unfuse(model).modules())


def test_says_once_what_it_did(caplog: pytest.LogCaptureFixture) -> None:
    model = hugging_face()
    with caplog.at_level(logging.INFO, logger="videomae_fast"):
        fuse(fuse(model))
    assert len(caplog.records) == 1 and "VideoMAEEmbeddings.forward" in caplog.records[0].message
