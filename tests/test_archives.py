"""Files of arrays and facts: round trips, and messages for unreadable files."""

import json

import numpy as np
import pytest

from scorepriors import InputError
from scorepriors._archives import read_archive, read_arrays, write_archive, write_arrays

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b/c": np.array(["x", "yz"]), "none": np.zeros(0)}
FACTS = {"seconds": 1.5, "bands": ["g", "r"], "nested": {"nan": float("inf")}, "nothing": None}
READ = {"kind": "scene", "version": 2, "mend": "deblend again"}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "scene.npz"
    return write_archive(path, ARRAYS, FACTS, kind="scene", version=2, identity="me")


@pytest.mark.parametrize("compressed", [False, True])
def test_round_trip(tmp_path, compressed):
    facts = {"kind": "scene", "version": 2, "compressed": compressed}
    write_archive(tmp_path / "a", ARRAYS, FACTS, **facts)
    arrays, back = read_archive(tmp_path / "a", **READ)
    assert back == FACTS
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_identity_and_versions(path):
    assert read_archive(path, **READ, identity="me")[1] == FACTS
    assert read_archive(path, **{**READ, "version": (1, 2)})[1] == FACTS
    with pytest.raises(InputError, match=r"scene.npz belongs to another model; deblend again\.$"):
        read_archive(path, **READ, identity="you", other="another model")
    with pytest.raises(InputError, match=r"belongs to another recipe; use a new directory\.$"):
        read_archive(path, **READ, identity="you", other="another recipe; use a new directory")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "checkpoint of a run"}, r"is a scene and no checkpoint of a run; deblend again"),
        ({"version": 3}, r"another version .* layout 2 where this one reads 3; deblend again"),
        (
            {"version": (0, 1)},
            r"layout 2 where this one reads 0, 1; update scorepriors, or deblend",
        ),
    ],
)
def test_files_of_another_kind_or_version(path, change, message):
    with pytest.raises(InputError, match=message):
        read_archive(path, **{**READ, **change})


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*gone.npz: deblend again\.$"):
        read_archive(tmp_path / "gone.npz", **READ)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04 cut short", b"\x80\x04K\x01.", 400, "plain", "no JSON"]
)
def test_a_damaged_file_or_another_is_one_sentence(path, content):
    """Among them files of versions before: npz without a description, or JSON."""
    if content == 400:
        content = path.read_bytes()[:400]
    if content == "plain":
        np.savez(path, mark=np.array("digest"))
    elif content == "no JSON":
        np.savez(path, facts=np.array("[1]"))
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"scene.npz cannot be read .*no scene .*deblend again\.$"):
        read_archive(path, **READ)


def test_damage_inside_an_archive(path):
    content = bytearray(path.read_bytes())
    content[150] ^= 0xFF  # among the numbers of the first array: its checksum tells
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged or no scene .*deblend again"):
        read_archive(path, **READ)


def test_what_is_not_written(tmp_path):
    path = write_arrays(tmp_path / "a.npz", {"a": np.ones(2)})
    content = path.read_bytes()
    with pytest.raises(TypeError, match="Python objects are not stored: bad"):
        write_arrays(path, {"bad": np.array([object()])})
    for arrays, facts in (({"facts": 1}, {}), ({}, {"kind": "x"})):
        with pytest.raises(ValueError, match="an archive uses itself"):
            write_archive(path, arrays, facts, kind="scene", version=2)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_archive(path, {}, {"x": object()}, kind="scene", version=2)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_users_bring(tmp_path, path):
    assert json.loads(str(read_arrays(path)["facts"]))["kind"] == "scene"
    np.savez(tmp_path / "p.npz", np.array([object()]))
    with pytest.raises(InputError, match=r"p\.npz holds pickled objects, which are never loaded"):
        read_arrays(tmp_path / "p.npz")
    (tmp_path / "t.npz").write_bytes(b"text")
    with pytest.raises(InputError, match=r"t\.npz is not a readable npz archive: whatever its"):
        read_arrays(tmp_path / "t.npz")
