"""The table of host time: every token op, with and without a gradient. Times themselves are not asserted."""

import pytest

from benchmarks import host


def test_the_table_has_both_registrations_of_every_token_op(capsys: pytest.CaptureFixture[str]) -> None:
    host.main(["--rounds", "1"])
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    ops = ("gather_tokens", "masked_token_scatter", "assemble_decoder_tokens")
    assert [line[:2] for line in lines] == [[op, grad] for op in ops for grad in ("no", "yes")]
    assert all(float(time) > 0 for line in lines for time in line[2:])
