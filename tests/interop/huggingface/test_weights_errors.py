"""State dicts that cannot be converted: the errors name what is missing, unknown or inconsistent."""

import pytest
import torch

from videomae_fast.interop import CheckpointError, from_huggingface, to_huggingface


def test_mean_pooling_is_refused(model):
    """Such a model has all the keys but those of the final encoder LayerNorm."""
    state = {k: t for k, t in to_huggingface(model.state_dict(), "qv").items() if "videomae.layernorm" not in k}
    with pytest.raises(CheckpointError, match=r"use_mean_pooling=True.*encoder.norm"):
        from_huggingface(state)


def test_no_biases_is_refused(model):
    """As with qv_bias=False, or when a version that did not know the biases has dropped them."""
    state = to_huggingface(model.state_dict(), "q_bias")
    state = {k: t for k, t in state.items() if not k.endswith(("q_bias", "v_bias"))}
    with pytest.raises(CheckpointError, match=r"biases \[\] below.*known layouts are 'q_bias': q_bias, v_bias;"):
        from_huggingface(state)


def test_mixed_layouts_are_refused(model):
    state = to_huggingface(model.state_dict(), "qv")
    stem = "videomae.encoder.layer.0.attention.attention."
    state[stem + "q_bias"] = state.pop(stem + "query.bias")
    with pytest.raises(CheckpointError, match=r"biases .*'q_bias', 'query.bias', 'value.bias'"):
        from_huggingface(state)


def test_missing_and_unknown_keys(model):
    state = to_huggingface(model.state_dict(), "qkv")
    del state["videomae.encoder.layer.1.attention.attention.key.bias"]
    state["classifier.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"missing: videomae.*layer.1.*key.bias; unexpected: classifier.weight"):
        from_huggingface(state)
    published = model.state_dict()
    del published["encoder.blocks.1.attn.q_bias"]
    published["fc_norm.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"missing: encoder.blocks.1.attn.q_bias; unexpected: fc_norm.weight"):
        to_huggingface(published, "qv")


def test_a_missing_block_is_named(model):
    published = {name: t for name, t in model.state_dict().items() if not name.startswith("encoder.blocks.1.")}
    with pytest.raises(
        CheckpointError, match=r"missing: encoder.blocks.1.*\(13 in all\); unexpected: encoder.blocks.2"
    ):
        to_huggingface(published, "qv")


def test_wrong_direction(model):
    with pytest.raises(CheckpointError, match=r"known layouts"):
        from_huggingface(model.state_dict())
    with pytest.raises(CheckpointError, match="not a published pre-training state dict"):
        to_huggingface(to_huggingface(model.state_dict(), "qv"), "qv")


def test_other_errors(model):
    with pytest.raises(ValueError, match="layout is 'new'; allowed: 'q_bias', 'qkv', 'qv'"):
        to_huggingface(model.state_dict(), "new")
    state = model.state_dict()
    state["encoder.blocks.0.attn.qkv.weight"] = torch.zeros(70, 24)
    with pytest.raises(CheckpointError, match=r"encoder.blocks.0.attn.qkv.weight is \(70, 24\).*72 rows"):
        to_huggingface(state, "qv")
