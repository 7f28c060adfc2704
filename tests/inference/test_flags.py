"""The registry of flags, there and back, in tables and in the documentation."""

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from scorepriors import InputError
from scorepriors.inference.deblending._flags import (
    DIAGNOSED,
    FITTED,
    FLAGS,
    SERIOUS,
    SEVERITY,
    bands_of,
    bits_of,
    bits_where,
    flags_said,
    words_of,
    write_flags,
)


def test_bits_and_words_are_each_one_flags():
    flags = FITTED + DIAGNOSED
    assert len({f.bit for f in flags}) == len({f.word for f in flags}) == len(flags) == len(FLAGS)
    # What files hold must not change its meaning.
    assert [f.bit for f in flags] == [*range(20)]
    for flag in flags:
        assert bits_of(flag.word) == flag.value == 1 << flag.bit
        assert words_of(flag.value) == flag.word
        assert not set(",; ") & set(flag.word)
    everything = ",".join(FLAGS)
    assert words_of(bits_of(everything)) == everything
    assert bits_of(["edge", "edge"]) == 1
    assert words_of(1 << 40) == "ok"
    assert bits_of("edge,no_data:g,no_data:r") == bits_of("edge,no_data")
    # A comma in the name of a band must not look like another word.
    assert bands_of(words_of(bits_of("no_data,faint"), ["a,b", "r"])) == ("a;b", "r")
    with pytest.raises(InputError, match="'egde' is no flag; there are edge, masked"):
        bits_of("egde")


def test_columns_survive_a_file(tmp_path):
    table = Table({"id": ["a", "b", "c"]})
    write_flags(table, [0, 2049, 0], [(), ("g",), ()])
    assert table["flags"].tolist() == ["ok", "edge,no_data:g", "ok"]
    write_flags(table, bits_where({"faint": [True, False, True], "edge": [True, False, False]}))
    assert table["flags"].tolist() == ["edge,faint", "ok", "faint"]
    table.write(tmp_path / "c.ecsv")
    back = Table.read(tmp_path / "c.ecsv")
    assert back["flag_bits"].dtype == np.int64
    assert back["flag_bits"].tolist() == [5, 0, 4]
    assert back["flags"].tolist() == table["flags"].tolist()
    for flag in FLAGS.values():
        assert f"{flag.word}: {flag.sentence}" in back["flags"].info.description
        assert f"{flag.bit} {flag.word}" in back["flag_bits"].info.description


def test_the_documentation_lists_the_registry():
    text = (Path(__file__).parents[2] / "docs" / "output-files.md").read_text()
    rows = [f"| {f.bit} | `{f.word}` | {f.sentence} |\n" for f in FITTED]
    assert "".join(rows) in text
    rows = [f"| {f.bit} | `{f.word}` | {f.sentence} |\n" for f in DIAGNOSED]
    assert "".join(rows) in text


def test_every_flag_has_a_place_in_the_order_of_severity():
    assert sorted(SEVERITY) == sorted(FLAGS)
    assert SEVERITY[: len(SERIOUS)] == SERIOUS
    assert list(flags_said(["edge,misfit", "ok", "no_data:g"])) == ["misfit", "no_data", "edge"]
