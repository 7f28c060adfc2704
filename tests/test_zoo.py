"""Weights files: written, read back, and rejected if damaged."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil

import jax
import numpy as np
import pytest
from conftest import gaussian_prior, small_energy
from mixer_files import made_network, write_network
from safetensors import safe_open
from safetensors.numpy import save_file

import scorepriors._zoo as zoo
from scorepriors import InputError, list_priors, load_prior, save_prior
from scorepriors._zoo import lasting_name, prior_info, prior_path, prior_recipe, training_facts
from scorepriors.training._recipe import DataRecipe, NetworkRecipe, Recipe

SHIPPED = [info.name for info in list_priors()]

RECIPE = Recipe(
    name="small",
    sigma0=0.2,
    description="for tests",
    data=DataRecipe(path="images", box=8),
    network=NetworkRecipe(modes=6, width=16, inner=16, depth=2),
)


@pytest.fixture
def saved(tmp_path):
    energy = small_energy()
    facts = {"seconds": 1.5, "steps": 10}
    return energy, save_prior(tmp_path / "small.safetensors", energy, RECIPE, training=facts)


def rewrite_header(path, change):
    """Change the JSON description inside a weights file and leave its arrays."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    described = json.loads(header["__metadata__"]["scorepriors"])
    change(described)
    header["__metadata__"]["scorepriors"] = json.dumps(described)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])


def test_round_trip(saved):
    energy, path = saved
    prior = load_prior(path)
    z = jax.random.normal(jax.random.key(0), (8, 8))
    # The network is stored in half precision.
    np.testing.assert_allclose(prior.energy(z, 0.3), energy(z, 0.3), rtol=2e-3)
    for name in ("mean", "basis", "eigenvalues", "tail"):
        np.testing.assert_array_equal(getattr(prior.energy, name), getattr(energy, name))
    frequencies = prior.energy.network.frequencies
    np.testing.assert_allclose(frequencies, energy.network.frequencies, rtol=1e-6)
    assert (prior.name, prior.event_shape) == ("small", (8, 8))
    np.testing.assert_allclose(prior.sigma, 0.2)
    np.testing.assert_allclose(load_prior(path, sigma=0.4).sigma, 0.4)


def test_what_is_known_without_loading(saved):
    _, path = saved
    info = prior_info(path)
    assert (info.name, info.box, info.sigma0, info.description) == ("small", 8, 0.2, "for tests")
    assert info.pixel_scale is None
    assert prior_recipe(path) == RECIPE
    assert training_facts(path) == {"seconds": 1.5, "steps": 10}


def test_a_second_save_of_a_loaded_prior_changes_nothing(saved, tmp_path):
    _, path = saved
    again = save_prior(tmp_path / "again.safetensors", load_prior(path).energy, RECIPE)
    z = jax.random.normal(jax.random.key(0), (8, 8))
    np.testing.assert_array_equal(load_prior(again).energy(z, 0.3), load_prior(path).energy(z, 0.3))


def test_a_prior_is_kept_as_well_as_its_energy(saved, tmp_path):
    _, path = saved
    again = save_prior(tmp_path / "again.safetensors", load_prior(path), RECIPE)
    for a, b in zip(jax.tree.leaves(load_prior(again)), jax.tree.leaves(load_prior(path))):
        np.testing.assert_array_equal(a, b)


def test_energies_that_no_recipe_describes_are_not_written(tmp_path):
    with pytest.raises(InputError, match="kind GaussianEnergy, which no recipe describes"):
        save_prior(tmp_path / "no.safetensors", gaussian_prior(), RECIPE)
    assert not list(tmp_path.iterdir())


def test_the_wall_keeps_its_names_in_the_file(tmp_path):
    """Format 1 has it as a part of the energy: ``confinement.*`` beside ``network.*``."""
    prior, recipe = load_prior("lsst-32"), prior_recipe("lsst-32")
    path = save_prior(tmp_path / "again.safetensors", prior, recipe)
    with safe_open(prior_path("lsst-32"), "np") as old, safe_open(path, "np") as new:
        assert set(old.keys()) == set(new.keys())
        assert "confinement.log_threshold" in new.keys()
        for name in old.keys():
            np.testing.assert_array_equal(old.get_tensor(name), new.get_tensor(name))


def test_a_failed_save_leaves_the_old_file(saved, tmp_path, monkeypatch):
    energy, path = saved
    before = path.read_bytes()

    def half(arrays, target, metadata):
        target.write_bytes(b"half of it")
        raise OSError("the disk is full")

    monkeypatch.setattr(zoo, "save_file", half)
    with pytest.raises(OSError, match="full"):
        save_prior(path, energy, RECIPE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_priors_are_small_described_and_checksummed(name):
    info = prior_info(name)
    assert info.path.stem == name
    assert info.path.stat().st_size < 10e6
    assert info.path.with_suffix(".md").exists()
    sums = dict(
        reversed(line.split())
        for line in (info.path.parent / "SHA256SUMS").read_text().splitlines()
    )
    assert sums[info.path.name] == hashlib.sha256(info.path.read_bytes()).hexdigest()
    prior = load_prior(name)
    assert prior.event_shape == (info.box, info.box)
    assert prior.pixel_scale == info.pixel_scale


def test_checksums_are_of_shipped_files_only():
    sums = (prior_path(SHIPPED[0]).parent / "SHA256SUMS").read_text().splitlines()
    assert {line.split()[1] for line in sums} == {f"{name}.safetensors" for name in SHIPPED}
    assert "lsst-32" in SHIPPED


@pytest.mark.parametrize("damage", ["empty", "short", "no arrays", "last byte", "text"])
def test_damage_is_noticed(saved, damage):
    _, path = saved
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "short": whole[:200],
            "no arrays": whole[:-500],
            "last byte": whole[:-2] + bytes([whole[-2] ^ 1, whole[-1]]),
            "text": b"not weights but a text that is longer than a header's length",
        }[damage]
    )
    with pytest.raises(InputError, match=r"small.safetensors is damaged"):
        load_prior(path)


def test_a_changed_description_is_noticed(saved):
    _, path = saved
    rewrite_header(path, lambda header: None)  # control: rewriting alone is no damage
    assert load_prior(path).name == "small"
    rewrite_header(path, lambda header: header["recipe"].update(sigma0=0.9))
    with pytest.raises(InputError, match="damaged: its checksum does not match"):
        load_prior(path)


def test_other_formats_are_refused(saved):
    _, path = saved
    rewrite_header(path, lambda header: header.update(format=99))
    with pytest.raises(InputError, match="has weights format 99, this version reads 1"):
        load_prior(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "its description is not JSON"),
        ("[" * 100_000, "its description is not JSON"),
        ("[]", "its description is no table"),
        ('{"format": 1}', "its description lacks `recipe`"),
        ('{"format": 1, "recipe": 1}', "its description lacks `recipe`"),
        ('{"format": 1, "recipe": {}}', "its description lacks `training`"),
        ('{"format": 1, "recipe": {}, "training": {}}', "its description lacks `digest`"),
    ],
    ids=range(7),
)
def test_descriptions_that_are_none_are_refused(text, words, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": np.ones(3)}, path, metadata={"scorepriors": text})
    for use in (load_prior, prior_info, prior_recipe, training_facts):
        with pytest.raises(InputError, match=rf"other\.safetensors is damaged: {words}"):
            use(path)


def test_weights_of_something_else_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": np.ones(3)}, path)
    with pytest.raises(InputError, match="holds no scorepriors weights"):
        load_prior(path)


def test_weights_that_do_not_fit_their_recipe_are_refused(tmp_path):
    deeper = dataclasses.replace(RECIPE.network, depth=3)
    recipe = dataclasses.replace(RECIPE, network=deeper)
    path = save_prior(tmp_path / "deep.safetensors", small_energy(), recipe)
    with pytest.raises(InputError, match="does not hold the network it describes"):
        load_prior(path)


def test_shipped_weights_are_compared_with_their_checksum(tmp_path, monkeypatch):
    source = prior_path("lsst-32")
    shutil.copy(source, tmp_path)
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  lsst-32.safetensors\n")
    monkeypatch.setattr(zoo, "_weights_folder", lambda: tmp_path)
    with pytest.raises(InputError, match="SHA-256"):
        load_prior("lsst-32")


@pytest.mark.parametrize("name", ["hubble-128", "weights.npz", "../weights/lsst-32", ""])
def test_unknown_priors_name_the_known_ones(name):
    with pytest.raises(InputError, match=f"unknown prior .*shipped are {', '.join(SHIPPED)}"):
        load_prior(name)


def test_paths_that_are_no_weights_files(tmp_path):
    with pytest.raises(InputError, match=r"no weights file at 'nowhere.safetensors'"):
        load_prior("nowhere.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(InputError, match="no weights file at"):
        load_prior(tmp_path / "folder.safetensors")
    with pytest.raises(InputError, match=r"must end in \.safetensors, got .*small\.npz"):
        save_prior(tmp_path / "small.npz", small_energy(), RECIPE)


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_hold_arrays_and_text_only(name, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a weights file was unpickled")

    for loader in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, loader, refuse)
    path = prior_path(name)
    zoo._loaded.cache_clear()
    load_prior(name)
    # Safetensors: length, JSON, raw numbers; nothing that could be run.
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
    assert set(header.pop("__metadata__")) == {"scorepriors"}
    assert {entry["dtype"] for entry in header.values()} == {"F16", "F32"}
    size = max(entry["data_offsets"][1] for entry in header.values())
    assert path.stat().st_size == 8 + length + size


def test_a_pickle_under_the_name_of_weights_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise AssertionError('the file was run')",))

    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="damaged"):
        load_prior(path)


@pytest.mark.parametrize("ending", [".safetensors", ".eqx"])
def test_links_are_followed_and_keep_their_ending(saved, ending, tmp_path, monkeypatch):
    """In the cache of Hugging Face names are links to files that are called by a checksum."""
    blob, link = tmp_path / "blobs" / "0123abcd", tmp_path / "snapshots" / f"mine{ending}"
    blob.parent.mkdir()
    link.parent.mkdir()
    if ending == ".eqx":
        write_network(tmp_path / "a.eqx", made_network()).rename(blob)
    else:
        saved[1].rename(blob)
    link.symlink_to("../blobs/0123abcd")
    assert load_prior(link).event_shape == (8, 8)
    monkeypatch.chdir(link.parent)
    lasting = lasting_name(link.name)
    assert lasting == str(link)
    monkeypatch.chdir("/")
    assert load_prior(lasting) is load_prior(link)
    # A change of what the link leads to is noticed.
    blob.write_bytes(b"")
    with pytest.raises(InputError, match=r"mine\.(safetensors is damaged|eqx .*holds 0 arrays)"):
        load_prior(link)


def test_a_file_is_read_once_until_it_changes(saved):
    energy, path = saved
    first = load_prior(path)
    assert load_prior(path) is first
    other = jax.tree.map(lambda leaf: 2 * leaf, energy)
    save_prior(path, other, RECIPE)
    second = load_prior(path)
    np.testing.assert_allclose(second.energy.mean, 2 * np.asarray(first.energy.mean))
    os.utime(path, ns=(1, 1))
    assert float(jax.jit(lambda x: x * load_prior(path).sigma)(1.0)) == pytest.approx(0.2)
    # Nothing of the trace is left in what was kept.
    kept = jax.tree.leaves(load_prior(path))
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in kept)
    with jax.enable_x64(True):
        assert load_prior(path).sigma.dtype == np.float64
    assert load_prior(path).sigma.dtype == np.float32
