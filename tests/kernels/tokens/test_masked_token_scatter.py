import pytest
import torch

from videomae_kernels import gather_tokens, masked_token_scatter
from videomae_kernels.testing import assert_within_error_budget, make_index

SHAPES = [  # B, N, D, K
    pytest.param(2, 24, 16, 5, id="plain"),
    pytest.param(1, 24, 16, 5, id="one_sample"),
    pytest.param(3, 13, 7, 1, id="one_token_odd_width"),
    pytest.param(2, 11, 1, 11, id="all_tokens_width_1"),
    pytest.param(2, 5, 1030, 3, id="two_column_blocks"),
]


@pytest.mark.parametrize("filled", [False, True], ids=["zeros", "mask_token"])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("batch", "tokens", "width", "kept"), SHAPES)
def test_every_row_is_a_token_or_the_mask_token(batch, tokens, width, kept, dtype, index_dtype, filled, backend):
    x = torch.randn(batch, kept, width, device=backend.device).to(dtype)
    mask_token = torch.randn(width, device=backend.device).to(dtype) if filled else None
    index = make_index(batch, kept, tokens, dtype=index_dtype, device=backend.device)
    out = masked_token_scatter(x, index, tokens, mask_token)
    assert out.shape == (batch, tokens, width)
    assert out.dtype == dtype
    for b in range(batch):
        places = index[b].tolist()
        for n in range(tokens):
            other = mask_token if filled else torch.zeros_like(out[b, n])
            assert torch.equal(out[b, n], x[b, places.index(n)] if n in places else other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients(dtype, backend):
    batch, kept, tokens, width = 3, 4, 40, 7
    x = torch.randn(batch, kept, width, device=backend.device).to(dtype).requires_grad_()
    mask_token = torch.randn(width, device=backend.device).to(dtype).requires_grad_()
    index = make_index(batch, kept, tokens, device=backend.device)
    gradient = torch.randn(batch, tokens, width, device=backend.device).to(dtype)
    masked_token_scatter(x, index, tokens, mask_token).backward(gradient)

    others = torch.ones(batch, tokens, dtype=torch.bool, device=backend.device).scatter_(1, index, False)
    assert torch.equal(x.grad, gather_tokens(gradient, index))
    plain = gradient[others].sum(0)
    # Both add 108 rows, in different orders.
    assert_within_error_budget(mask_token.grad, plain, gradient.double()[others].sum(0), ulps=4)


def test_gathering_what_was_scattered_gives_it_back(backend):
    x = torch.randn(2, 4, 6, device=backend.device)
    index = make_index(2, 4, 9, device=backend.device)
    assert torch.equal(gather_tokens(masked_token_scatter(x, index, 9), index), x)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x.mT.contiguous().mT, id="channels_first"),
        pytest.param(lambda x: torch.cat([x, x], 1)[:, ::2], id="every_other"),
        pytest.param(lambda x: x[:1].expand(2, -1, -1), id="expanded_batch"),
        pytest.param(lambda x: x[:, :, :1].expand(-1, -1, 6), id="expanded_width"),
    ],
)
def test_any_strides(view, backend):
    x = view(torch.randn(2, 4, 6, device=backend.device))
    mask_token = torch.randn(12, device=backend.device)[::2]
    index = make_index(2, 4, 9, device=backend.device)
    expected = masked_token_scatter(x.contiguous(), index, 9, mask_token.contiguous())
    assert torch.equal(masked_token_scatter(x, index, 9, mask_token), expected)


def test_a_mask_token_of_stride_zero(backend):
    x, index = torch.randn(2, 4, 6, device=backend.device), make_index(2, 4, 9, device=backend.device)
    constant = torch.full((1,), 0.5, device=backend.device).expand(6)
    assert torch.equal(masked_token_scatter(x, index, 9, constant), masked_token_scatter(x, index, 9, constant.clone()))
