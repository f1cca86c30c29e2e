"""The canary: what `fuse` relies on in transformers, name by name. A release that breaks it is told apart here."""

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from tests.interop.models import SIZES, TOKENS, clip, hugging_face
from videomae_fast.interop.fusion import SEAMS
from videomae_fast.interop.huggingface import model as huggingface

transformers = pytest.importorskip("transformers")
PARAMETERS = {  # of forward, after self, in this order; others may follow
    "VideoMAEPatchEmbeddings": ["pixel_values"],
    "VideoMAEEmbeddings": ["pixel_values", "bool_masked_pos"],
    "VideoMAEModel": ["pixel_values", "bool_masked_pos"],
    "VideoMAEForPreTraining": ["pixel_values", "bool_masked_pos"],
    "VideoMAEDecoder": ["hidden_states", "return_token_num"],
}
OUTPUTS = {
    "VideoMAEForPreTrainingOutput": ["loss", "logits", "hidden_states", "attentions"],
    "VideoMAEDecoderOutput": ["logits"],
}


def changes(model: Any) -> list[str]:
    """What is not as `fuse` needs it, in sentences; empty if nothing."""
    code = inspect.getmodule(transformers.VideoMAEForPreTraining)
    found = []
    for name, wanted in PARAMETERS.items():
        if not hasattr(code, name):
            found.append(f"class {name} is gone")
            continue
        names = list(inspect.signature(getattr(code, name).forward).parameters)[1:]
        if names[: len(wanted)] != wanted:
            found.append(f"{name}.forward takes {names}, not {wanted} first")
    for name, wanted in OUTPUTS.items():
        fields = list(getattr(getattr(code, name, None), "__dataclass_fields__", ()))
        if fields[: len(wanted)] != wanted:
            found.append(f"{name} has the fields {fields}, not {wanted}")
    modules = [(m, seam) for m in model.modules() for seam in huggingface.SEAMS if seam.original_class(m)]
    seen = sorted(seam.class_name for _, seam in modules)
    if seen != sorted(seam.class_name for seam in huggingface.SEAMS):
        found.append(f"the model has {seen} to fuse")
    for module, seam in modules:
        try:
            seam.check(module)
        except TypeError as error:
            found.append(str(error))
        for table in seam.tables:
            value = getattr(module, table, None)
            if table not in module.__dict__ or getattr(value, "shape", (0, 0))[:2] != (1, TOKENS):
                found.append(f"{seam.class_name}.{table} is not a plain tensor (1, {TOKENS}, D) any more")
    projection = [n for n, m in model.named_modules() if isinstance(m, nn.Conv3d)]
    if projection != ["videomae.embeddings.patch_embeddings.projection"]:
        found.append(f"convolutions are at {projection}")
    elif model.get_input_embeddings() is not model.videomae.embeddings.patch_embeddings:
        found.append("the input embeddings, whose hooks gradient checkpointing needs, are another module")
    return found


def test_transformers_is_as_fuse_needs_it() -> None:
    found = changes(hugging_face())
    assert not found, f"transformers {transformers.__version__}, tested: {huggingface.TESTED}: " + "; ".join(found)


def test_decoder_returns_its_last_rows() -> None:
    """The decoder is called, not replaced: (B, n, d) and R give logits (B, R, P)."""
    model = hugging_face().eval()
    x = torch.randn(2, 20, SIZES["decoder_hidden_size"])
    assert model.decoder(x, 5).logits.shape == (2, 5, 384)
    assert torch.equal(model.decoder(x, 5).logits, model.decoder(x, 9).logits[:, 4:])


def test_patch_embeddings_are_in_token_order() -> None:
    patches = hugging_face().videomae.embeddings.patch_embeddings
    pixels = clip()
    tokens = patches.projection(pixels.transpose(1, 2)).flatten(2).mT
    torch.testing.assert_close(patches(pixels), tokens)


def renamed_class(monkeypatch: pytest.MonkeyPatch, code: Any, model: Any) -> None:
    monkeypatch.delattr(code, "VideoMAEDecoder")


def reordered_parameters(monkeypatch: pytest.MonkeyPatch, code: Any, model: Any) -> None:
    monkeypatch.setattr(code.VideoMAEEmbeddings, "forward", lambda self, pixels, mask, grid: None)


def renamed_attribute(monkeypatch: pytest.MonkeyPatch, code: Any, model: Any) -> None:
    del model.mask_token


def table_as_parameter(monkeypatch: pytest.MonkeyPatch, code: Any, model: Any) -> None:
    model.position_embeddings = nn.Parameter(model.__dict__.pop("position_embeddings"))


def linear_projection(monkeypatch: pytest.MonkeyPatch, code: Any, model: Any) -> None:
    model.videomae.embeddings.patch_embeddings.projection = nn.Linear(384, 24)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (renamed_class, "class VideoMAEDecoder is gone"),
        (reordered_parameters, "VideoMAEEmbeddings.forward takes ['pixels', 'mask', 'grid'], not ['pixel_values'"),
        (renamed_attribute, "there is no mask_token"),
        (table_as_parameter, "VideoMAEForPreTraining.position_embeddings is not a plain tensor (1, 64, D) any more"),
        (linear_projection, "projection is a Linear"),
    ],
)
def test_the_canary_sings(monkeypatch: pytest.MonkeyPatch, change: Any, sentence: str) -> None:
    model = hugging_face()
    change(monkeypatch, inspect.getmodule(transformers.VideoMAEForPreTraining), model)
    assert sentence in "; ".join(changes(model))


def test_every_seam_is_fully_described() -> None:
    for seam in SEAMS:
        assert seam.needs and seam.tested and callable(seam.example)
