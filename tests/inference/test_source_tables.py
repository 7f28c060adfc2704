"""Tables of sources for the terminal."""

import re

import numpy as np
import pytest
from made_scenes import made

from scorepriors.inference.cli._deblending import _print_table
from scorepriors.inference.cli._source_tables import WIDTH, flux_title, source_tables
from scorepriors.inference.deblending._flags import FLAGS

BANDS = tuple("ugrizy")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_tables_have_at_most_eighty_columns(scale, capsys):
    result = made(3, BANDS, ids=("a", "b" * 40, "c"), zero_point=31.4 - 2.5 * np.log10(scale))
    every = ",".join(FLAGS)
    _print_table(result, ["ok", every, "edge,no_data:u,no_data:y"])
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= WIDTH == 80
    assert lines[0] == "3 sources, flux in nJy"
    heads = " ".join(line for line in lines if line.startswith("id ")).split()
    fluxes = heads[heads.index("flags") :]  # the first table has a column y as well
    assert [name for name in fluxes if name in BANDS] == list(BANDS)
    assert {"x", "y", "S/N", "chi2", "flags", "total"} <= set(heads)
    # Each flag is explained once.
    for word, flag in FLAGS.items():
        assert out.count(f"\n{word}: ") == 1
        assert flag.sentence in " ".join(out.split())
    assert "converged in 40 iterations" in out


def test_digits_follow_the_errors(capsys):
    _print_table(made(1, ("r",), unit="nJy"), ["ok"])
    out = capsys.readouterr().out
    # Positions have errors of .2 and .1, the flux of 500 one of a twentieth.
    assert "500 ± 25" in out
    row = next(line for line in out.splitlines() if line.startswith("0 ")).split()
    assert [len(cell.partition(".")[2]) for cell in row[1:3]] == [2, 2]


def test_the_worst_flag_comes_first():
    text = source_tables("t", ["a"], {}, {"r": ["1"]}, ["edge,faint,misfit,no_data:g"])
    assert "misfit, no_data:g, edge, faint" in text
    order = [line.partition(":")[0] for line in text.splitlines() if re.match(r"\w+: ", line)]
    assert order == ["misfit", "no_data", "edge", "faint"]


def test_a_title_never_lacks_its_unit():
    assert flux_title(1, "") == "1 source, flux in the unit of the image"
    assert flux_title(2, "nJy") == "2 sources, flux in nJy"


def test_bands_are_wrapped_only_where_they_must():
    cells = {band: ["123456 ± 1000"] for band in "gri"}
    assert source_tables("t", ["a"], {}, cells, ["ok"]).count("\nid") == 2
    wide = {band: ["123456789 ± 1000000"] for band in "griz"}
    assert source_tables("t", ["a"], {}, wide, ["ok"]).count("\nid") == 3
