"""The checks that the interpreter runs under must themselves be able to fail (see interpreter.py)."""

import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("the interpreter runs where there is no GPU", allow_module_level=True)
pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from tests.kernels import interpreter  # noqa: E402

interpreted = interpreter.interpreter.InterpretedFunction  # what triton.jit makes of a function while interpreting


@interpreted
def copy_rows(x, out, n, rows: tl.constexpr, CLIP: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    offset = tl.program_id(0).to(tl.int64) * STEP + column
    keep = column < n if CLIP else column < BLOCK
    tl.store(out + offset, tl.load(x + offset, mask=keep, other=0.0), mask=keep)


@interpreted
def one_address(x, out, BLOCK: tl.constexpr):
    tl.store(out + tl.arange(0, BLOCK) // 2, tl.load(x + tl.arange(0, BLOCK)))


@interpreted
def read_neighbour(x, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    value = tl.load(x + (row + 1) % tl.num_programs(0))
    tl.store(x + row, value)


@interpreted
def add_atomically(x, out, BLOCK: tl.constexpr):
    tl.atomic_add(out, tl.sum(tl.load(x + tl.arange(0, BLOCK)), 0))


@interpreted
def arithmetic(x, y, out, total, largest, bools, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, a * b + a - b)
    tl.store(total, tl.sum(a, 0))
    tl.store(largest, tl.max(a, 0))
    tl.store(bools + i, (-a < b).to(tl.int8))


@interpreted
def round_to(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i).to(out.dtype.element_ty))


@interpreted
def matmul(x, y, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    at = i[:, None] * BLOCK + i[None, :]
    tl.store(out + at, tl.dot(tl.load(x + at), tl.load(y + at)))


def test_a_correct_kernel_passes():
    x, out = torch.randn(3, 5), torch.zeros(3, 5)
    copy_rows[(3,)](x, out, 5, 3, True, 5, 8)
    assert torch.equal(out, x)


def test_a_forgotten_mask_is_caught():
    x, out = torch.randn(1, 5), torch.zeros(1, 5)
    with pytest.raises(Exception, match="3 of 8 active addresses are not elements"):
        copy_rows[(1,)](x, out, 5, 1, False, 5, 8)


def test_the_gaps_of_a_sliced_tensor_are_out_of_bounds():
    x, out = torch.randn(2, 8)[:, :5], torch.zeros(2, 8)
    with pytest.raises(Exception, match="load: 1 of 6 active addresses are not elements"):
        copy_rows[(2,)](x, out, 6, 2, True, 8, 8)


def test_programs_that_store_to_one_address_are_caught():
    x, out = torch.randn(3, 5), torch.zeros(3, 5)
    with pytest.raises(Exception, match="stores where another program wrote"):
        copy_rows[(3,)](x, out, 5, 3, True, 4, 8)


def test_lanes_that_store_to_one_address_are_caught():
    with pytest.raises(Exception, match="two lanes of one store"):
        one_address[(1,)](torch.randn(8), torch.zeros(8), 8)


def test_reading_what_another_program_writes_is_caught():
    with pytest.raises(Exception, match="stores where another program read"):
        read_neighbour[(4,)](torch.randn(4), 1)


def test_atomics_are_refused():
    with pytest.raises(Exception, match="atomics"):
        add_atomically[(1,)](torch.randn(8), torch.zeros(1), 8)


def test_bfloat16_arithmetic_equals_torch():
    torch.manual_seed(0)
    x, y = torch.randn(2, 64).bfloat16().unbind()
    out, total, largest = torch.empty_like(x), torch.empty(1).bfloat16(), torch.empty(1).bfloat16()
    smaller = torch.empty(64, dtype=torch.int8)
    arithmetic[(1,)](x, y, out, total, largest, smaller, 64)
    assert torch.equal(out, x * y + x - y)
    assert torch.equal(total[0], x.float().sum().bfloat16())
    assert torch.equal(largest[0], x.max())
    assert torch.equal(smaller.bool(), -x < y)


@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("target", [torch.float32, torch.float16, torch.bfloat16])
def test_conversions_round_as_torch_does(source, target):
    torch.manual_seed(0)
    x = (torch.randn(256) * 100).abs().to(source)
    out = torch.empty(256, dtype=target)
    round_to[(1,)](x, out, 256)
    assert torch.equal(out, x.to(target))


def test_rounding_keeps_nan_and_infinity():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 3.4e38])
    out = torch.empty(4, dtype=torch.bfloat16)
    round_to[(1,)](x, out, 4)
    torch.testing.assert_close(out, x.bfloat16(), equal_nan=True, rtol=0, atol=0)


def test_bfloat16_dot_accumulates_in_float32():
    torch.manual_seed(0)
    x, y = torch.randn(2, 16, 16).bfloat16().unbind()
    out = torch.empty(16, 16)
    matmul[(1,)](x, y, out, 16)
    torch.testing.assert_close(out, x.float() @ y.float())


def test_installing_twice_changes_nothing():
    load = interpreter.interpreter.InterpreterBuilder.create_masked_load
    interpreter.install()
    assert interpreter.interpreter.InterpreterBuilder.create_masked_load is load
