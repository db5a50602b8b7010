"""`adderkit theorem1`: its errors fall, its explicit features are the series, its picture is drawn."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from PIL import Image

from adderkit import cli, report


def test_errors_fall_to_rounding_and_features_are_the_series():
    rows = report.truncation(sigma=2.0, dimensions=4, degrees=20)
    assert [row.degree for row in rows] == list(range(21))
    assert [row.monomials for row in rows[:4]] == [1, 4, 10, 20]
    medians = [row.median for row in rows]
    assert medians[0] > 0.1 and medians[20] < 1e-14
    assert all(later <= earlier for earlier, later in pairwise(medians[:12]))
    assert all(row.explicit is not None and row.explicit < 1e-12 for row in rows[1:])


def test_many_monomials_are_not_computed():
    rows = report.truncation(sigma=4.0, dimensions=144, degrees=3)
    assert rows[1].monomials == 144 and rows[1].explicit is not None
    assert rows[2].monomials == math.comb(145, 2)
    assert rows[2].monomials > 10_000 and rows[2].explicit is None


def test_command(tmp_path, capsys):
    path = tmp_path / "theorem1.png"
    assert cli.main(["theorem1", "--sigmas", "1", "3", "--degrees", "6", "--figure", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("monomials") == 2 and "3,003" in shown  # of degree 6 in 9 variables
    with Image.open(path) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--sigmas", "0"], "sigmas"),
        (["--sigmas", "1e200"], "`sigma` (=1e+200)"),
        (["--sigmas", "0.02"], "`sigma` (=0.02): the kernel of some pairs is beyond float64; it must be wider"),
        (["--degrees", "-1"], "degrees"),
        (["--figure", "no/where.png"], "`figure`"),
    ],
)
def test_what_can_not_be_is_refused(arguments, named, capsys):
    assert cli.main(["theorem1", *arguments]) == 2
    assert named in capsys.readouterr().err
