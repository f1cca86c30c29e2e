"""A fused Hugging Face model returns what it returned, and its gradients, in every configuration."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.baselines.published.loss import published_loss
from benchmarks.baselines.published.model import PublishedVideoMAE, sinusoid_table
from tests.interop.models import PATCH, as_bool, assert_close, clip, gradients, hugging_face, plan
from videomae_fast.interop import from_huggingface, fuse, load_weights, unfuse
from videomae_fast.interop.fusion import OPS

pytest.importorskip("transformers")
HIDDEN = as_bool(plan().visible)
CONFIGS = {
    "default": {},
    "final LayerNorm": {"use_mean_pooling": False},
    "raw pixels": {"norm_pix_loss": False},
    "one channel": {"num_channels": 1},
    "dropout": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1},
    "eager attention": {"attn_implementation": "eager"},
}


def run(model: Any, pixels: Tensor, mask: Any = HIDDEN, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    """What a call returns, and the gradients of its loss to parameters and pixels, from one state of random numbers."""
    torch.manual_seed(7)
    pixels = pixels.clone().requires_grad_()
    output = model(pixels, bool_masked_pos=mask, **options)
    (output[0] if isinstance(output, tuple) else output.loss).backward()
    return output, {**gradients(model), "pixels": pixels.grad}


def assert_same_outputs(output: Any, expected: Any, tolerance: float) -> None:
    """Tuples, or the fields of ModelOutputs."""
    assert type(output) is type(expected)
    assert_close(*((o if isinstance(o, tuple) else dict(o)) for o in (output, expected)), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_outputs_and_gradients(changes: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    if "norm_pix_loss" in changes:
        tolerance = max(tolerance, 1e-7)  # the original un-normalises with constants rounded to float32
    model = hugging_face(**changes).to(dtype)
    pixels = clip(changes.get("num_channels", 3)).to(dtype)
    expected, expected_gradients = run(model, pixels)
    output, grads = run(fuse(model), pixels)
    assert_same_outputs(output, expected, tolerance)
    assert_close(grads, expected_gradients, tolerance)


@pytest.mark.parametrize("ops", [["embed_tokens"], ["decode"]], ids=str)
def test_each_op_alone(ops: list[str]) -> None:
    model = hugging_face().double()
    expected, expected_gradients = run(model, clip().double())
    output, grads = run(fuse(model, ops=ops), clip().double())
    assert_close(dict(output), dict(expected), 1e-10)
    assert_close(grads, expected_gradients, 1e-10)
    if "decode" in ops:
        run(model, clip().double(), plan())


@pytest.mark.parametrize(
    ("autocast", "pixel_dtype"), [(False, torch.bfloat16), (True, torch.bfloat16), (True, torch.float32)], ids=str
)
def test_bf16(autocast: bool, pixel_dtype: torch.dtype) -> None:
    """No further from the float32 result than the original is, within what rounding scatters."""
    truth, _ = run(hugging_face(), clip().to(pixel_dtype).float())
    model = hugging_face() if autocast else hugging_face().bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected, expected_gradients = run(model, clip().to(pixel_dtype))
        output, grads = run(fuse(model), clip().to(pixel_dtype))
    assert output.loss.dtype == expected.loss.dtype and output.logits.dtype == expected.logits.dtype
    ours, theirs = ((o.logits.float() - truth.logits).norm() for o in (output, expected))
    assert ours <= 1.1 * theirs
    assert abs(output.loss - truth.loss) <= abs(expected.loss - truth.loss) + 1e-2 * truth.loss
    assert_close(grads, expected_gradients, 0.1)


@pytest.mark.parametrize(
    "options", [{"output_hidden_states": True}, {"output_attentions": True}, {"return_dict": False}]
)
def test_more_outputs(options: dict[str, bool]) -> None:
    model = hugging_face(attn_implementation="eager").double()
    expected, _ = run(model, clip().double(), **options)
    output, _ = run(fuse(model), clip().double(), **options)
    assert_same_outputs(output, expected, 1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_random_numbers(training: bool) -> None:
    """Dropout draws what it drew, and as much of it."""
    model = hugging_face(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5).train(training)
    run(model, clip())
    state = torch.get_rng_state()
    run(fuse(model), clip())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mask", ["bool", "plan", "index", None])
def test_encoder_alone(mask: str | None) -> None:
    """VideoMAEModel, with masks of every kind and without one, as fine-tuning has it."""
    model = hugging_face(use_mean_pooling=False).double().videomae
    chosen = {"bool": HIDDEN, "plan": plan(), "index": plan().visible, None: None}[mask]
    expected = model(clip().double(), bool_masked_pos=None if mask is None else HIDDEN).last_hidden_state
    output = fuse(model)(clip().double(), bool_masked_pos=chosen).last_hidden_state
    assert_close(output, expected, 1e-12)


def test_plan_is_the_boolean_mask() -> None:
    model = fuse(hugging_face())
    expected, expected_gradients = run(model, clip(), HIDDEN)
    output, grads = run(model, clip(), plan(decoder_mask="none"))
    assert_close(dict(output), dict(expected), 0)
    assert_close(grads, expected_gradients, 0)


def published(model: Any) -> PublishedVideoMAE:
    """The plain V2 model with a Hugging Face model's weights."""
    sizes = dict(image_size=(32, 32), num_frames=8, patch_size=8, mlp_ratio=2)
    encoder = dict(encoder_dim=24, encoder_depth=2, encoder_heads=3)
    decoder = dict(decoder_dim=16, decoder_depth=2, decoder_heads=2)
    plain = PublishedVideoMAE(**sizes, **encoder, **decoder).double()
    load_weights(plain, from_huggingface(model.state_dict()))
    return plain


@pytest.mark.parametrize("kind", ["plan", "bool", "ragged"])
def test_dual_masking_is_the_published(kind: str) -> None:
    """The decoder mask that Hugging Face lacks: loss and gradients are the published implementation's."""
    model = hugging_face(use_mean_pooling=False, layer_norm_eps=1e-6).double()
    model.decoder.norm.eps = 1e-6
    for embeddings, width in ((model.videomae.embeddings, 24), (model, 16)):
        embeddings.position_embeddings = sinusoid_table(64, width, torch.float64)
    reference = published(model)
    masks = plan() if kind != "ragged" else plan(decoder_mask="random", decoder_mask_ratio=0.5)
    hidden, not_decoded = as_bool(masks.visible), as_bool(masks.decoded)
    pixels = clip().double()
    theirs = pixels.transpose(1, 2).clone().requires_grad_()
    loss = published_loss(reference(theirs, hidden, not_decoded), theirs, hidden, not_decoded, PATCH)
    loss.backward()
    given = {"mask": masks} if kind == "plan" else {"mask": hidden, "decode_mask": not_decoded}
    output, grads = run(fuse(model), pixels, **given)
    rows = masks.predicted.shape[1]
    assert output.logits.shape == (2, rows, 384)
    assert (rows < masks.decoded.shape[1]) == (kind != "ragged")
    assert_close(output.loss, loss, 1e-12)
    assert_close(grads["pixels"], theirs.grad.transpose(1, 2), 1e-10)
    assert_close(grads["mask_token"], reference.mask_token.grad, 1e-10)


def test_wrong_masks_are_named() -> None:
    model, pixels = fuse(hugging_face()), clip()
    with pytest.raises(ValueError, match="bool_masked_pos is missing"):
        model(pixels)
    with pytest.raises(TypeError, match=r"the mask must be a boolean tensor .* got torch.int64"):
        model(pixels, bool_masked_pos=HIDDEN.long())
    with pytest.raises(ValueError, match=r"the mask must have shape \(B, 64\), got \(2, 60\)"):
        model(pixels, bool_masked_pos=HIDDEN[:, :60])
    with pytest.raises(TypeError, match="the decoder mask must be a boolean tensor"):
        model(pixels, bool_masked_pos=HIDDEN, decode_mask=HIDDEN.float())
    with pytest.raises(ValueError, match="part of the MaskPlan"):
        model(pixels, bool_masked_pos=plan(), decode_mask=HIDDEN)
    with pytest.raises(ValueError, match=r"keep 16 tokens in every sample, got counts \[16, 64\]"):
        model(pixels, bool_masked_pos=torch.stack([HIDDEN[0], torch.zeros(64, dtype=torch.bool)]))
    with pytest.raises(ValueError, match="no row is left for the loss"):
        model(pixels, bool_masked_pos=HIDDEN, decode_mask=HIDDEN)
    with pytest.raises(ValueError, match=r"pixel_values must be \(B, T, C, 32, 32\), got \(2, 8, 3, 64, 16\)"):
        model(pixels.reshape(2, 8, 3, 64, 16), bool_masked_pos=HIDDEN)


def test_not_rgb_without_normalisation() -> None:
    model = fuse(hugging_face(num_channels=1, norm_pix_loss=False))
    with pytest.raises(ValueError, match="num_channels is 1"):
        model(clip(1), bool_masked_pos=HIDDEN)
    with pytest.raises(ValueError):
        unfuse(model)(clip(1), bool_masked_pos=HIDDEN)


def test_ops_are_all_tested() -> None:
    assert OPS == ("embed_tokens", "decode", "gather_tokens")
