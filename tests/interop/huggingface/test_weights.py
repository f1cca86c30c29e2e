"""Published <-> Hugging Face weights: every bias layout, and the real `VideoMAEForPreTraining` as the judge."""

import pytest
import torch
from torch import nn

from benchmarks.baselines.published.loss import published_loss
from benchmarks.baselines.published.model import sinusoid_table
from videomae_fast.interop import from_huggingface, load_huggingface, load_weights, to_huggingface
from videomae_fast.interop.huggingface.weights import bias_layout

pytestmark = pytest.mark.filterwarnings("ignore:transformers 5.5 to 5.16 loses")
LAYOUTS = ("q_bias", "qkv", "qv")
TOKENS = 2 * 4 * 4


def hugging_face(**changes):
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=96,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        layer_norm_eps=1e-6,
        **({"use_mean_pooling": False, "norm_pix_loss": True} | changes),
    )
    torch.manual_seed(5)
    hf = transformers.VideoMAEForPreTraining(config).double()
    hf.decoder.norm.eps = 1e-6
    # Its float32 tables would hide errors below 1e-7.
    hf.videomae.embeddings.position_embeddings = sinusoid_table(TOKENS, 24, torch.float64)
    hf.position_embeddings = sinusoid_table(TOKENS, 16, torch.float64)
    return hf


def inputs():
    generator = torch.Generator().manual_seed(3)
    clip = torch.randn(2, 3, 4, 32, 32, generator=generator, dtype=torch.float64)
    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(TOKENS, generator=generator)[:10]] = False
    return clip, mask


def assert_same_model(published, hf):
    """Logits, loss and the gradient of the clip, with decoder mask = encoder-visible (VideoMAE V1)."""
    clip, mask = inputs()
    ours, theirs = clip.clone().requires_grad_(), clip.clone().requires_grad_()
    logits = published(ours, mask, ~mask)
    loss = published_loss(logits, clip, mask, ~mask, (2, 8, 8))
    loss.backward()
    out = hf(theirs.transpose(1, 2), bool_masked_pos=mask)
    out.loss.backward()
    torch.testing.assert_close(logits, out.logits, rtol=0, atol=1e-11)
    torch.testing.assert_close(loss, out.loss, rtol=1e-11, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)


def add_key_biases(hf):
    """The module structure of transformers 5.5 to 5.16, on the installed version from 5.18 on."""
    for module in hf.modules():
        if hasattr(module, "key"):
            key = nn.Linear(module.key.in_features, module.key.out_features).double()
            with torch.no_grad():
                key.weight.copy_(module.key.weight)
            module.key = key


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip(model, layout):
    state = model.state_dict()
    hf = to_huggingface(state, layout)
    back = from_huggingface(hf)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    again = to_huggingface(back, layout)
    assert again.keys() == hf.keys() and all(torch.equal(again[name], hf[name]) for name in hf)


def test_layout_names(model):
    state = model.state_dict()
    stem = "decoder.decoder_layers.1.attention.attention."
    biases = {
        "q_bias": {"q_bias", "v_bias"},
        "qkv": {"query.bias", "key.bias", "value.bias"},
        "qv": {"query.bias", "value.bias"},
    }
    for layout, names in biases.items():
        hf = to_huggingface(state, layout)
        found = {name.removeprefix(stem) for name in hf if name.startswith(stem)}
        assert found == names | {"query.weight", "key.weight", "value.weight"}
        weights = [hf[f"{stem}{part}.weight"] for part in ("query", "key", "value")]
        assert torch.equal(torch.cat(weights), state["decoder.blocks.1.attn.qkv.weight"])
    assert not to_huggingface(state, "qkv")[stem + "key.bias"].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_result_can_be_saved_as_safetensors(model, layout, tmp_path):
    from safetensors.torch import save_file

    from videomae_fast.interop import load_published

    save_file(to_huggingface(model.state_dict(), layout), tmp_path / "model.safetensors")
    back = from_huggingface(load_published(tmp_path / "model.safetensors"))
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_real_model_gives_the_same(model):
    hf = hugging_face()
    hf.load_state_dict(to_huggingface(model.state_dict(), bias_layout(hf.state_dict())), strict=True)
    assert_same_model(model, hf)


def test_real_model_with_its_own_weights(model):
    hf = hugging_face()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, parameter in hf.named_parameters():
            if name.endswith("key.bias"):
                parameter.zero_()  # the one thing that the published layout does not hold
    load_weights(model, from_huggingface(hf.state_dict()))
    assert_same_model(model, hf)
    back = to_huggingface(model.state_dict(), bias_layout(hf.state_dict()))
    assert back.keys() == hf.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in hf.state_dict().items())


def test_key_bias_changes_nothing(model):
    hf = hugging_face()
    if bias_layout(hf.state_dict()) == "q_bias":
        pytest.skip("this version of transformers has no place for it")
    add_key_biases(hf)
    load_huggingface(hf, model.state_dict())
    for module in hf.modules():
        if hasattr(module, "key"):
            torch.nn.init.normal_(module.key.bias)
    state = hf.state_dict()
    assert any(name.endswith("key.bias") and tensor.any() for name, tensor in state.items())
    load_weights(model, from_huggingface(state))
    assert_same_model(model, hf)
    assert to_huggingface(model.state_dict(), "qkv").keys() == state.keys()
    hf.load_state_dict(to_huggingface(model.state_dict(), "qkv"), strict=True)
    assert_same_model(model, hf)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_pretrained_reads_what_we_write(model, layout, tmp_path):
    """transformers from 5.18 on renames the "q_bias" layout while it loads; other versions know their own alone."""
    from safetensors.torch import save_file

    hf = hugging_face()
    model.float().double()  # from_pretrained has float32
    hf.config.save_pretrained(tmp_path)
    save_file(to_huggingface(model.state_dict(), layout), tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = type(hf).from_pretrained(tmp_path, output_loading_info=True)
    own = bias_layout(hf.state_dict())
    if layout != own and (layout, own) != ("q_bias", "qv"):
        assert info["unexpected_keys"] or info["missing_keys"]
        return
    assert not info["missing_keys"] and not info["unexpected_keys"]
    hf.load_state_dict(loaded.double().state_dict())
    assert_same_model(model, hf)


def test_wrong_order_would_show(model):
    """The comparison with the real model must be able to fail: biases of q and v swapped."""
    state = to_huggingface(model.state_dict(), "qv")
    stem = "videomae.encoder.layer.0.attention.attention."
    state[stem + "query.bias"], state[stem + "value.bias"] = state[stem + "value.bias"], state[stem + "query.bias"]
    hf = hugging_face()
    load_huggingface(hf, state)
    with pytest.raises(AssertionError):
        assert_same_model(model, hf)
