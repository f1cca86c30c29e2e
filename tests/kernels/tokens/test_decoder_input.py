import itertools

import pytest
import torch

from videomae_kernels import assemble_decoder_tokens
from videomae_kernels.testing import assert_within_error_budget, make_index

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def concatenated(tokens, mask_token, position, visible, decoded):
    """The published forward: every position of the table gathered, added and concatenated."""
    return torch.cat([tokens + position[visible.long()], mask_token + position[decoded.long()]], dim=1)


def make_inputs(
    device, batch=2, tokens=24, width=7, visible=5, decoded=9, dtypes=(torch.float32,) * 3, index=torch.int64
):
    return (
        torch.randn(batch, visible, width, device=device).to(dtypes[0]),
        torch.randn(width, device=device).to(dtypes[1]),
        torch.randn(tokens, width, device=device).to(dtypes[2]),
        make_index(batch, visible, tokens, dtype=index, device=device),
        make_index(batch, decoded, tokens, dtype=index, device=device),
    )


def exact(inputs):
    return tuple(x.detach().double() if x.is_floating_point() else x for x in inputs)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtypes", list(itertools.product(FLOATS, (torch.float32, torch.bfloat16), FLOATS)))
def test_sums_and_promotion(dtypes, index, backend):
    inputs = make_inputs(backend.device, dtypes=dtypes, index=index)
    assert_within_error_budget(assemble_decoder_tokens(*inputs), concatenated(*inputs), concatenated(*exact(inputs)))


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"batch": 1}, id="one_sample"),
        pytest.param({"visible": 1, "decoded": 1}, id="one_token_each"),
        pytest.param({"visible": 24, "decoded": 24}, id="all_tokens"),
        pytest.param({"width": 1}, id="width_1"),
        pytest.param({"width": 1030, "visible": 2, "decoded": 2}, id="two_column_blocks"),
        pytest.param({"width": 64, "batch": 5, "visible": 9, "decoded": 17}, id="several_row_blocks"),
    ],
)
def test_shapes(shape, backend):
    inputs = make_inputs(backend.device, **shape)
    assert torch.equal(assemble_decoder_tokens(*inputs), concatenated(*inputs))


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients(dtype, backend):
    inputs = make_inputs(backend.device, batch=4, decoded=20, dtypes=(dtype,) * 3)
    gradient = torch.randn(4, 25, 7, device=backend.device).to(dtype)

    def gradients(function, arguments, gradient):
        leaves = [x.clone().requires_grad_() for x in arguments[:3]]
        return torch.autograd.grad(function(*leaves, *arguments[3:]), leaves, gradient)

    actual = gradients(assemble_decoder_tokens, inputs, gradient)
    plain = gradients(concatenated, inputs, gradient)
    truth = gradients(concatenated, exact(inputs), gradient.double())
    for ours, theirs, wanted in zip(actual, plain, truth, strict=True):
        assert_within_error_budget(ours, theirs, wanted)


def test_gradients_keep_the_dtype_of_their_input(backend):
    tokens, mask_token, position, *index = make_inputs(
        backend.device, dtypes=(torch.bfloat16, torch.float32, torch.float16)
    )
    leaves = [x.requires_grad_() for x in (tokens, mask_token, position)]
    assemble_decoder_tokens(*leaves, *index).sum().backward()
    assert [x.grad.dtype for x in leaves] == [torch.bfloat16, torch.float32, torch.float16]


def test_any_strides(backend):
    tokens, mask_token, position, visible, decoded = make_inputs(backend.device, width=8)
    strided = (
        tokens.mT.contiguous().mT,
        torch.stack([mask_token, mask_token], 1)[:, 0],
        torch.cat([position, position], 1)[:, :8],
        torch.stack([visible, visible], 2)[..., 0],
        decoded.T.contiguous().T,
    )
    expected = assemble_decoder_tokens(tokens, mask_token, position, visible, decoded)
    assert torch.equal(assemble_decoder_tokens(*strided), expected)


def test_expanded_inputs(backend):
    tokens, mask_token, position, visible, decoded = make_inputs(backend.device)
    expanded = (
        tokens[:1].expand(2, -1, -1),
        mask_token[:1].expand(7),
        position[:1].expand(24, -1),
        visible[:1].expand(2, -1),
        decoded[:1].expand(2, -1),
    )
    expected = assemble_decoder_tokens(*(x.contiguous() for x in expanded))
    assert torch.equal(assemble_decoder_tokens(*expanded), expected)
