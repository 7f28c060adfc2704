import shutil

import jax
import numpy as np
import pytest
from conftest import small_energy

from scorepriors import InputError, list_priors, load_prior, save_prior
from scorepriors.recipe import DataRecipe, NetworkRecipe, Recipe
from scorepriors.zoo import prior_path


@pytest.fixture
def saved(tmp_path):
    recipe = Recipe(
        name="small",
        data=DataRecipe(path="images", box=8),
        network=NetworkRecipe(modes=6, width=16, inner=16, depth=2),
    )
    energy = small_energy()
    return energy, save_prior(tmp_path / "small.safetensors", energy, recipe)


def test_round_trip(saved):
    energy, path = saved
    prior = load_prior(path)
    z = jax.random.normal(jax.random.key(0), (8, 8))
    # The network is stored in half precision.
    np.testing.assert_allclose(prior.energy(z, 0.3), energy(z, 0.3), rtol=2e-3)


def test_shipped_priors_are_small_listed_and_have_cards():
    infos = list_priors()
    assert [info.name for info in infos] == ["lsst-32", "ztf-32"]
    for info in infos:
        assert info.path.stat().st_size < 10e6
        assert info.path.with_suffix(".md").exists()
        assert load_prior(info.name).event_shape == (32, 32)


def test_damage_is_noticed(saved, tmp_path):
    _, path = saved
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1, whole[-1]]))
    with pytest.raises(InputError, match="damaged"):
        load_prior(path)
    path.write_bytes(whole[:200])
    with pytest.raises(InputError, match="damaged"):
        load_prior(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        load_prior(path)


def test_shipped_weights_are_compared_with_their_checksum(tmp_path, monkeypatch):
    import scorepriors.zoo as zoo

    source = prior_path("lsst-32")
    shutil.copy(source, tmp_path)
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  lsst-32.safetensors\n")
    monkeypatch.setattr(zoo, "_weights_folder", lambda: tmp_path)
    with pytest.raises(InputError, match="SHA-256"):
        load_prior("lsst-32")


def test_unknown_priors_name_the_known_ones():
    with pytest.raises(InputError, match="lsst-32, ztf-32"):
        load_prior("hubble-128")
    with pytest.raises(InputError, match="no weights file"):
        load_prior("nowhere.safetensors")
