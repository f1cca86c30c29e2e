"""The comparison with kernels.md must itself be able to fail."""

import pytest

from tests.aot.table import REGISTER_MARGIN, SHARED_LIMITS, Row, difference, parse, render

ROW = Row("ViT-B op", "op._kernel", 1, "sm_90", 40, 0, 512, "128b x4, 32b x2", "128b x4")
OTHER = ROW._replace(target="sm_80")
TEXT = render("3.7.1", [ROW, OTHER])


def test_the_table_reads_back() -> None:
    assert parse(TEXT) == ("3.7.1", {ROW.key: ROW, OTHER.key: OTHER})


@pytest.mark.parametrize("version", ["3.7.1", "3.9.0"])
def test_equal_rows_pass(version: str) -> None:
    assert difference(TEXT, version, [ROW]) == ""
    assert difference(TEXT, version, [OTHER, ROW]) == ""


@pytest.mark.parametrize("version", ["3.7.1", "3.9.0"])
def test_of_one_model_the_cases_of_others_are_not_expected(version: str) -> None:
    other, long = ROW._replace(case="ViT-g op"), ROW._replace(case="N = 4096 op")
    text = render("3.7.1", [ROW, other, long])
    assert difference(text, version, [ROW, long], "ViT-B") == difference(text, version, [other, long], "ViT-g") == ""
    assert str(long) in difference(text, version, [ROW], "ViT-B")
    assert str(other) in difference(text, version, [ROW, long])


def test_the_same_version_shows_every_change_in_a_diff() -> None:
    found = difference(TEXT, "3.7.1", [ROW._replace(registers=41)])
    assert f"-{ROW}" in found
    assert f"+{ROW._replace(registers=41)}" in found
    assert f"-{ROW}" in difference(TEXT, "3.7.1", [ROW._replace(launch=2)])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"spills": 8}, "spills"),
        ({"registers": 41 + REGISTER_MARGIN}, "registers"),
        ({"shared": SHARED_LIMITS["sm_90"] + 1}, "shared memory"),
        ({"loads": "64b x8"}, "loads narrower than 128b"),
        ({"stores": "32b x16"}, "stores narrower than 128b"),
        ({"launch": 2}, "not in kernels.md"),
        ({"launch": 2}, "not compiled"),
    ],
)
def test_another_version_fails_beyond_the_bounds(change: dict, problem: str) -> None:
    assert problem in difference(TEXT, "3.9.0", [ROW._replace(**change)])


def test_another_version_may_differ_within_the_bounds() -> None:
    changed = ROW._replace(registers=48, shared=1024, loads="128b x8", stores="128b x8")
    assert difference(TEXT, "3.9.0", [changed]) == ""
