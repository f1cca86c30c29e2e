"""The helpers of videomae_kernels.testing must be able to fail."""

import pytest
import torch

from videomae_kernels.testing import (
    assert_strided_gradients,
    assert_within_error_budget,
    make_clip,
    make_index,
    poison_outputs,
    strided_gradients,
)


@pytest.mark.parametrize("layout", ["BCTHW", "BTHWC"])
def test_clips_have_the_size_their_layout_says(layout):
    size = dict(zip("BCTHW", (2, 3, 4, 12, 20), strict=True))
    for memory in ("contiguous", "channels_last", "sliced", "expanded"):
        clip = make_clip((2, 3, 5), (2, 4, 4), layout=layout, memory=memory)
        assert clip.shape == tuple(size[d] for d in layout)
        assert clip.dtype == torch.uint8
        if memory != "channels_last":
            assert clip.is_contiguous() == (memory == "contiguous")
    assert make_clip((2, 3, 5), (2, 4, 4), layout=layout, memory="channels_last").stride(layout.index("C")) == 1
    assert make_clip((2, 3, 5), (2, 4, 4), layout=layout, memory="expanded").stride(0) == 0


def test_clip_arguments_are_checked():
    with pytest.raises(ValueError, match="memory must be one of"):
        make_clip((1, 1, 1), (1, 2, 2), memory="blocked")
    with pytest.raises(ValueError, match="layout must be a permutation"):
        make_clip((1, 1, 1), (1, 2, 2), layout="BCHW")


def test_indices_are_unique_and_ascending():
    index = make_index(5, 9, 12, dtype=torch.int32)
    assert index.dtype == torch.int32
    assert (index[:, 1:] > index[:, :-1]).all()
    assert len({tuple(row) for row in index.tolist()}) > 1
    with pytest.raises(ValueError, match=r"count must be in \[1, 12\]"):
        make_index(1, 13, 12)


def test_the_error_budget_refuses_what_is_worse_than_plain():
    truth = torch.linspace(0.5, 1, 9, dtype=torch.float64)
    plain = truth.float()
    assert_within_error_budget(plain.clone(), plain, truth)
    assert_within_error_budget(plain * (1 + 1e-7), plain, truth)
    with pytest.raises(AssertionError, match="exceeds plain"):
        assert_within_error_budget(plain * (1 + 1e-6), plain, truth)
    with pytest.raises(AssertionError, match="exceeds plain"):
        assert_within_error_budget(torch.full_like(plain, float("nan")), plain, truth)
    with pytest.raises(AssertionError, match="shapes"):
        assert_within_error_budget(plain[:3], plain, truth)
    with pytest.raises(AssertionError, match=r"torch\.float16"):
        assert_within_error_budget(plain.half(), plain, truth)
    with pytest.raises(TypeError, match="truth must be float64"):
        assert_within_error_budget(plain, plain, truth.float())


def test_no_strided_gradient_is_contiguous():
    gradients = dict(strided_gradients(torch.empty(3, 4, 5)))
    assert set(gradients) == {"scalar", "expanded", "sliced", "permuted"}
    assert all(g.shape == (3, 4, 5) and not g.is_contiguous() for g in gradients.values())
    assert dict(strided_gradients(torch.empty(()))).keys() == {"scalar"}


class IgnoresStrides(torch.autograd.Function):
    """Its backward reads the gradient's memory as if it were contiguous: the bug that the helper looks for."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        storage = gradient.untyped_storage().nbytes() // gradient.element_size()
        wrong = torch.as_strided(gradient, (storage,), (1,), 0)
        return wrong[torch.arange(gradient.numel()) % storage].view(gradient.shape)


def test_a_backward_that_ignores_strides_is_caught():
    x = torch.randn(3, 4, requires_grad=True)
    assert_strided_gradients(lambda x: x * 2, [x])
    with pytest.raises(AssertionError, match="gradient, input 0"):
        assert_strided_gradients(IgnoresStrides.apply, [x])


def test_poison_fills_what_is_allocated_and_is_lifted_afterwards():
    with poison_outputs():
        assert torch.empty(4).isnan().all()
        assert torch.ones(4, dtype=torch.bfloat16).new_empty(3).isnan().all()
        assert torch.empty_like(torch.ones(2, 2).t()).isnan().all()
        assert (torch.empty(4, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()
        assert torch.equal(torch.ones(3) + 1, torch.full((3,), 2.0))
    assert not torch.are_deterministic_algorithms_enabled()
