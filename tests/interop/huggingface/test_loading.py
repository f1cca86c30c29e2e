"""Weights into the installed transformers' models, whichever names it has for the biases; 5.5 to 5.16 lose them."""

import warnings

import pytest
import torch

from tests.interop.huggingface.test_weights import LAYOUTS, assert_same_model, hugging_face
from videomae_fast.interop import CheckpointError, load_huggingface, load_published, save_published, to_huggingface
from videomae_fast.interop.huggingface.weights import bias_layout, rename_biases

transformers = pytest.importorskip("transformers")
VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))
LOSES_BIASES = (5, 5) <= VERSION < (5, 17)  # as sampled: 5.5.4 to 5.16.1; 5.17 was not seen
pytestmark = pytest.mark.filterwarnings("ignore:transformers 5.5 to 5.16 loses")


def write_folder(model, layout, folder):
    """What save_pretrained of another version wrote."""
    from safetensors.torch import save_file

    model.float().double()  # from_pretrained has float32
    hugging_face().config.save_pretrained(folder)
    save_file(to_huggingface(model.state_dict(), layout), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_a_folder(model, layout, tmp_path):
    write_folder(model, layout, tmp_path)
    hf = hugging_face()
    assert load_huggingface(hf, tmp_path) == ([], [])
    assert_same_model(model, hf)


def test_from_a_published_file_or_state(model, tmp_path):
    save_published(model, tmp_path / "checkpoint.pth")
    for source in (tmp_path / "checkpoint.pth", str(tmp_path / "checkpoint.pth"), model.state_dict()):
        hf = hugging_face()
        load_huggingface(hf, source)
        assert_same_model(model, hf)


def test_warns_where_from_pretrained_loses_biases(model):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_huggingface(hugging_face(), model.state_dict())
    said = [str(w.message) for w in caught if "loses the biases" in str(w.message)]
    assert len(said) == LOSES_BIASES == (bias_layout(hugging_face().state_dict()) == "qkv")


def test_repairs_what_from_pretrained_loses(model, tmp_path):
    """The canary of that bug: a checkpoint as the hub has them, through from_pretrained alone and repaired."""
    write_folder(model, "q_bias", tmp_path)
    loaded = type(hugging_face()).from_pretrained(tmp_path)
    hf = hugging_face()
    hf.load_state_dict(loaded.double().state_dict())
    if LOSES_BIASES:
        with pytest.raises(AssertionError):
            assert_same_model(model, hf)
    else:
        assert_same_model(model, hf)
    load_huggingface(hf, tmp_path)
    assert_same_model(model, hf)


def test_classifier(model, tmp_path):
    """Fine-tuning from a pre-trained checkpoint: what is not the encoder's is told, not lost in silence."""
    write_folder(model, "q_bias", tmp_path)
    config = transformers.VideoMAEConfig.from_pretrained(tmp_path, use_mean_pooling=True)
    classifier = transformers.VideoMAEForVideoClassification(config)
    with pytest.raises(CheckpointError, match=r"missing: classifier.bias.*unexpected: decoder"):
        load_huggingface(classifier, tmp_path)
    missing, unexpected = load_huggingface(classifier, tmp_path, strict=False)
    assert set(missing) == {"classifier.bias", "classifier.weight", "fc_norm.bias", "fc_norm.weight"}
    assert all(
        name.startswith(("decoder", "encoder_to_decoder", "mask_token", "videomae.layernorm")) for name in unexpected
    )
    own = classifier.state_dict()
    state = rename_biases(to_huggingface(model.state_dict(), "q_bias"), bias_layout(own))
    assert all(torch.equal(own[name], state[name].float()) for name in own if name not in missing)


@pytest.mark.parametrize("old", LAYOUTS)
@pytest.mark.parametrize("new", LAYOUTS)
def test_rename_biases(model, old, new):
    """Every layout to every other; a trained key.bias stays where there is a place for it."""
    state, wanted = (to_huggingface(model.state_dict(), layout) for layout in (old, new))
    if old == "qkv":
        keys = {name: torch.randn_like(t) for name, t in state.items() if name.endswith("key.bias")}
        state |= keys
        wanted |= keys if new == "qkv" else {}
    renamed = rename_biases(state, new)
    assert renamed.keys() == wanted.keys()
    assert all(torch.equal(renamed[name], wanted[name]) for name in wanted)


def test_errors(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"has none of model.safetensors, pytorch_model.bin"):
        load_huggingface(hugging_face(), tmp_path)
    with pytest.raises(FileNotFoundError):
        load_huggingface(hugging_face(), tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="known layouts are"):
        load_huggingface(torch.nn.Linear(2, 2), model.state_dict())
    hf = hugging_face()
    before = {name: t.clone() for name, t in hf.state_dict().items()}
    state = to_huggingface(model.state_dict(), "qv")
    state["mask_token"] = torch.zeros(1, 1, 3)
    with pytest.raises(CheckpointError, match="mask_token is"):
        load_huggingface(hf, state)
    assert all(torch.equal(before[name], t) for name, t in hf.state_dict().items())


def test_pytorch_model_bin(model, tmp_path):
    """As the hub's first VideoMAE checkpoints have it."""
    torch.save(to_huggingface(model.state_dict(), "q_bias"), tmp_path / "pytorch_model.bin")
    hf = hugging_face()
    load_huggingface(hf, tmp_path)
    assert_same_model(model, hf)
    assert load_published(tmp_path / "pytorch_model.bin").keys() == to_huggingface(model.state_dict(), "q_bias").keys()
