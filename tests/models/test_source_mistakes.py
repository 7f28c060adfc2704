"""Mistakes in a kind of source of one's own are one sentence that names the kind."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import gaussian_prior, small_observation

from scorepriors import InputError
from scorepriors.inference import catalog, deblend, load_scene, save_scene
from scorepriors.models import (
    AbstractParametric,
    BulgeDisk,
    Column,
    Look,
    Placement,
    PointSource,
    Positions,
    Sersic,
    Site,
    place_sources,
)

CENTERS = np.array([[8.0, 9.0], [13.0, 12.0]])


class Blob(AbstractParametric):
    """Round Gaussians with a setting of their own, and what may be wrong with them."""

    at: Placement
    name: str = eqx.field(static=True)
    psf_sigma: float
    sites: dict
    power: float = eqx.field(static=True)
    wrong: str = eqx.field(static=True)

    def __init__(
        self, at, name="profiles", *, psf_sigma=0.7, center_error=0.3, power=2.0, wrong=""
    ):
        self.at, self.name, self.power, self.wrong = at, name, power, wrong
        self.psf_sigma = np.float32(psf_sigma)
        axis = "" if wrong == "axis" else "axis"
        offset = {} if wrong == "offset" else {"offset": Site(0.0, center_error, axis, 0.7)}
        self.sites = offset | {"log_radius": Site(0.5, 0.7)}

    def image(self, values, xp=jnp):
        place, pixel = self.place(values, xp), xp.arange(self.at.box)
        row, column = (pixel - place[:, i, None] for i in range(2))
        squared = row[:, :, None] ** 2 + column[:, None, :] ** 2
        image = xp.exp(-squared / xp.exp(self.power * values["log_radius"])[:, None, None])
        return image[:, 1:] if self.wrong == "image" else image

    def columns(self, values):
        radius = np.exp(np.asarray(values["log_radius"]))
        if self.wrong == "length":
            radius = radius[:1]
        name = "flux_band0" if self.wrong == "name" else "blob_radius"
        return [Column(name, radius, None, "radius of the blob")]

    def settings(self):
        return {**super().settings(), "power": self.power}


def deblended(**options):
    obs = small_observation(CENTERS, shape=(20, 20))
    at = Positions(("a", "b"), CENTERS, np.zeros(2, bool))

    def profile(*args, **keywords):
        return Blob(*args, **keywords, **options)

    return deblend(
        obs,
        at,
        prior=gaussian_prior(),
        profile=profile,
        free_form=False,
        center_error=0.05,
        key=jax.random.key(0),
        padding=1,
    )


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ("image", r"`image` of Blob returned the shape \(2, 7, 8\).*must be \(2, 8, 8\)"),
        ("axis", "the site 'offset' of Blob is a pair"),
        ("offset", "Blob has no site 'offset', which `place` needs; its sites are log_radius"),
        ("length", r"the column 'blob_radius' of Blob has the shape \(1,\)"),
        ("name", "adds the column 'flux_band0', which the catalog has already"),
    ],
)
def test_mistakes(wrong, match):
    with pytest.raises(InputError, match=match):
        catalog(deblended(wrong=wrong))


def test_files_keep_settings_and_priors_of_an_own_kind(tmp_path):
    result = deblended(power=1.5)
    save_scene(result, tmp_path / "scene.npz")
    again = load_scene(tmp_path / "scene.npz", prior=gaussian_prior())
    blob = again.scene["profiles"]
    assert isinstance(blob, Blob)
    assert blob.power == 1.5
    assert float(blob.sites["offset"].width) == pytest.approx(0.05)
    np.testing.assert_allclose(again.free_form.flux, result.free_form.flux)
    assert catalog(again)["blob_radius"].tolist() == catalog(result)["blob_radius"].tolist()


def test_other_numbers_of_a_prior_are_the_same_program():
    at = place_sources(CENTERS, box=8)
    first, second = (Blob(at, center_error=error) for error in (0.1, 0.2))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert all(eqx.is_array_like(leaf) for leaf in jax.tree.leaves(first))
    assert not any(isinstance(leaf, float) for leaf in jax.tree.leaves(first))


@pytest.mark.parametrize("kind", [PointSource, Sersic, BulgeDisk, Blob])
def test_images_at_pixels_are_those_of_whole_images(kind, key):
    """Of kinds that draw pixels alone, and of one whose `image` does not know how to."""
    group = kind(place_sources(CENTERS, box=15))
    values, _ = group.start(Look(None, None, np.array([20.0, 50.0]), ()))
    shift = np.float32(0.2)
    values = {n: jnp.asarray(v, jnp.float32) + shift for n, v in values.items()}
    pixels = np.asarray(jax.random.randint(key, (2, 7, 2), 0, 15))
    row = np.arange(2)[:, None]
    whole = np.asarray(group.image(values))[row, pixels[..., 0], pixels[..., 1]]
    np.testing.assert_allclose(group.image_at(values, pixels), whole, rtol=1e-5, atol=1e-7)
