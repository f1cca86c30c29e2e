import pytest
import torch

from videomae_kernels import gather_tokens
from videomae_kernels.testing import assert_strided_gradients, make_index

SHAPES = [  # B, N, D, K
    pytest.param(2, 24, 16, 5, id="plain"),
    pytest.param(1, 24, 16, 5, id="one_sample"),
    pytest.param(3, 13, 7, 1, id="one_token_odd_width"),
    pytest.param(2, 11, 1, 11, id="all_tokens_width_1"),
    pytest.param(2, 5, 1030, 3, id="two_column_blocks"),
]


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize(("batch", "tokens", "width", "kept"), SHAPES)
def test_rows_are_exactly_those_listed(batch, tokens, width, kept, dtype, index_dtype, backend):
    x = (torch.randn(batch, tokens, width, device=backend.device) * 50).abs().to(dtype)
    index = make_index(batch, kept, tokens, dtype=index_dtype, device=backend.device)
    rows = gather_tokens(x, index)
    assert rows.is_contiguous()
    assert rows.dtype == dtype
    for b in range(batch):
        for k in range(kept):
            assert torch.equal(rows[b, k], x[b, int(index[b, k])])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_lands_on_the_listed_rows_and_nowhere_else(dtype, backend):
    x = torch.randn(2, 9, 5, device=backend.device).to(dtype).requires_grad_()
    index = make_index(2, 4, 9, device=backend.device)
    gradient = torch.randn(2, 4, 5, device=backend.device).to(dtype)
    gather_tokens(x, index).backward(gradient)
    expected = torch.zeros_like(x)
    for b in range(2):
        for k in range(4):
            expected[b, int(index[b, k])] = gradient[b, k]
    assert torch.equal(x.grad, expected)


def test_any_order_of_rows(backend):
    x = torch.randn(1, 6, 4, device=backend.device)
    index = torch.tensor([[5, 0, 3]], device=backend.device)
    assert torch.equal(gather_tokens(x, index)[0], x[0, [5, 0, 3]])


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), id="channels_first"),
        pytest.param(lambda x: torch.cat([x, x], 2)[..., : x.shape[2]], id="sliced"),
        pytest.param(lambda x: x[:1].expand(2, -1, -1), id="expanded_batch"),
        pytest.param(lambda x: x[..., :1].expand(-1, -1, 8), id="expanded_width"),
        pytest.param(lambda x: x.flip(1)[:, ::2], id="every_other"),
    ],
)
def test_any_strides(view, backend):
    x = view(torch.randn(2, 12, 8, device=backend.device))
    index = make_index(2, 3, x.shape[1], device=backend.device)
    assert torch.equal(gather_tokens(x, index), gather_tokens(x.contiguous(), index))


def test_index_of_any_strides(backend):
    x = torch.randn(2, 12, 8, device=backend.device)
    index = make_index(2, 6, 12, device=backend.device)
    assert torch.equal(gather_tokens(x, index[:, ::2]), gather_tokens(x, index[:, ::2].contiguous()))
    one = index[:1].expand(2, -1)
    assert torch.equal(gather_tokens(x, one), gather_tokens(x, one.contiguous()))


def test_the_gradient_of_an_expanded_table_sums_over_the_batch(backend):
    table = torch.randn(9, 5, device=backend.device, requires_grad=True)
    index = make_index(3, 4, 9, device=backend.device)
    gradient = torch.randn(3, 4, 5, device=backend.device)
    gather_tokens(table.expand(3, -1, -1), index).backward(gradient)
    expected = torch.zeros(9, 5, dtype=torch.float64, device=backend.device)
    expected.index_put_((index.flatten(),), gradient.double().flatten(0, 1), accumulate=True)
    torch.testing.assert_close(table.grad.double(), expected, rtol=1e-6, atol=1e-6)


def test_gradients_through_cat(backend):
    """What torch.cat sends back is a slice of its own gradient."""
    x = torch.randn(2, 9, 6, device=backend.device, requires_grad=True)
    index = make_index(2, 4, 9, device=backend.device)
    assert_strided_gradients(lambda x: torch.cat([gather_tokens(x, index), x[:, :2]], 1), [x])


def test_an_index_of_other_strides_reaches_the_op(backend):
    """As a compiler may lay it out: the kernel reads the index as contiguous."""
    x, index = (
        torch.randn(2, 6, 3, device=backend.device),
        torch.tensor([[0, 2], [5, 1], [3, 4]], device=backend.device),
    )
    rows = torch.ops.videomae_kernels.gather_tokens(x, index.T)
    assert torch.equal(rows, x.gather(1, index.T[..., None].expand(-1, -1, 3)))
