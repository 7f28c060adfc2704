"""Sources of two parts with spectra of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import gaussian_prior
from numpyro import handlers
from scipy.stats import norm

from scorepriors.inference._posterior import posterior
from scorepriors.models import (
    BulgeDisk,
    GalaxySpectra,
    Gradient,
    Observation,
    Scene,
    TwoColor,
    TwoPart,
    blend,
    gaussian_psf,
    place_sources,
)
from scorepriors.models.sources._abstract import AbstractSource
from scorepriors.models.sources._kinds import group_facts, group_from

SEEING = (1.3, 1.5, 1.7)
PLACE = np.array([(14.3, 15.2), (18.1, 19.0)])
#: Standard deviations of the parts, pixels, and their fluxes by band.
WIDE, NARROW = 2.5, 1.0
OUTER = np.array([[900.0, 600.0, 300.0], [500.0, 500.0, 500.0]])
INNER = np.array([[100.0, 400.0, 900.0], [300.0, 200.0, 100.0]])


def gaussian(place, sigma, side=33):
    """A round Gaussian of flux one, integrated over pixels."""
    edges = np.arange(side + 1) - 0.5
    rows, columns = (np.diff(norm.cdf(edges, p, sigma)) for p in place)
    return np.outer(rows, columns)


class Known(AbstractSource):
    """Two concentric Gaussians of known widths and fractions: all that is free are their spectra."""

    at: object
    name: str = "known"
    psf_sigma: float = 0.7

    def sample(self):
        return {}

    def image(self, values, xp=jnp):
        return xp.asarray(0.5 * (self.part(WIDE) + self.part(NARROW)), dtype=jnp.float32)

    def gradient(self, values, xp=jnp):
        moved = xp.asarray(self.part(NARROW) - self.part(WIDE), dtype=jnp.float32)
        return Gradient(moved, xp.full(len(self.at), 0.5, dtype=jnp.float32))

    def start(self, look):
        return {}, {}

    def part(self, width):
        at = place_sources(PLACE, box=33)
        sigma = np.hypot(width, self.psf_sigma)
        return np.stack([gaussian(p, sigma) for p in at.center - at.corner])


@pytest.fixture(scope="module")
def obs():
    images = np.zeros((3, 33, 33))
    for band, seeing in enumerate(SEEING):
        for place, outer, inner in zip(PLACE, OUTER, INNER, strict=True):
            for flux, width in ((outer, WIDE), (inner, NARROW)):
                images[band] += flux[band] * gaussian(place, np.hypot(width, seeing))
    psfs = np.stack([gaussian_psf(seeing, 21) for seeing in SEEING])
    return Observation.from_arrays(images, variance=np.full_like(images, 0.01), psfs=psfs)


def solved(scene, brightness):
    """Return the sites of `blend` at given brightnesses."""
    data = {"brightness": jnp.log(jnp.asarray(brightness))}
    with handlers.trace() as trace, handlers.seed(rng_seed=0), handlers.substitute(data=data):
        blend(scene)
    return {name: np.asarray(site["value"]) for name, site in trace.items()}


@pytest.fixture(scope="module")
def scene(obs):
    found = Scene.build(obs, known=Known(place_sources(PLACE, box=33)))
    # Without bounds on colors the spectra are least squares.
    wide = GalaxySpectra(np.ones(3) / 3, 1e4 * np.eye(3), found.spectra.noise_flux)
    return Scene.build(obs, spectra=wide, known=found["known"])


def test_spectra_of_both_parts_are_found_exactly(scene):
    found = solved(scene, (OUTER + INNER).sum(1))
    np.testing.assert_allclose(found["flux"], OUTER + INNER, rtol=1e-3)
    inner = 0.5 * found["flux"] + found["gradient"]
    np.testing.assert_allclose(inner, INNER, atol=1e-3 * (OUTER + INNER).max())


def test_errors_are_those_of_least_squares_for_all_parts(scene):
    found = solved(scene, (OUTER + INNER).sum(1))
    for band, seeing in enumerate(SEEING):
        parts = [gaussian(p, np.hypot(w, seeing)).ravel() for p in PLACE for w in (WIDE, NARROW)]
        inverse = np.linalg.inv(np.array(parts) @ np.array(parts).T / 0.01)
        # The flux of a source is that of both its parts.
        total = inverse.reshape(2, 2, 2, 2).sum((1, 3)).diagonal()
        np.testing.assert_allclose(found["flux_error"][:, band], np.sqrt(total), rtol=5e-3)


def test_the_treatments_of_spectra_agree(scene):
    bound = {
        t: posterior(blend, Scene(scene.exposures, scene.sources, scene.spectra, t))
        for t in ("marginal", "sampled")
    }
    assert set(bound["sampled"].sites()) == {"brightness", "spectrum", "difference"}
    values = []
    for bright in ([7.0, 7.2], [7.4, 6.9]):
        u = {"brightness": jnp.asarray(bright)}
        found = solved(scene, np.exp(bright))
        mode = {"spectrum": jnp.asarray(found["spectrum"]), "difference": found["gradient"]}
        at = jnp.concatenate([mode["spectrum"], jnp.asarray(mode["difference"])])

        def joint(numbers, u=u):
            sites = {"spectrum": numbers[:2], "difference": numbers[2:]}
            return bound["sampled"].log_density(u | sites)

        curvature = -np.asarray(jax.hessian(joint)(at), float).reshape(12, 12)
        half = 0.5 * np.linalg.slogdet(curvature)[1]
        values.append((float(bound["marginal"].log_density(u)), float(joint(at)) - half))
    (a, b), (c, d) = values
    np.testing.assert_allclose(a - c, b - d, atol=0.05)


SHAPES = {
    "offset": np.array([[0.1, -0.2]]),
    "log_radius": np.array([0.9]),
    "ellipticity": np.array([[0.2, 0.1]]),
    "bulge_logit": np.array([-0.8]),
    "bulge_log_ratio": np.array([-0.6]),
    "bulge_ellipticity": np.array([[0.0, 0.1]]),
}


def test_bulge_and_disk_make_up_the_galaxy():
    at = place_sources(PLACE[:1], box=32)
    two, one = TwoColor(at), BulgeDisk(at)
    image, parts = two.image(SHAPES, np), two.gradient(SHAPES, np)
    np.testing.assert_allclose(image, one.image(SHAPES, np), atol=1e-7)
    assert abs(parts.image.sum()) < 1e-5
    # All light in the bulge is the galaxy with a bulge alone, and none the one with a disk.
    for flux, logit in ((1 - parts.fraction, 40.0), (-parts.fraction, -40.0)):
        alone = one.image(SHAPES | {"bulge_logit": np.array([logit])}, np)
        drawn = image / image.sum() + flux[:, None, None] * parts.image
        np.testing.assert_allclose(drawn, alone / alone.sum(), atol=2e-6)


def test_images_are_the_same_in_jax_and_on_the_host():
    at = place_sources(PLACE[:1], box=32)
    group = TwoColor(at)
    values = {name: jnp.asarray(value, jnp.float32) for name, value in SHAPES.items()}
    traced, host = group.gradient(values), group.gradient(SHAPES, np)
    np.testing.assert_allclose(traced.image, host.image, atol=1e-6)
    np.testing.assert_allclose(traced.share, host.share, rtol=1e-4)


def test_groups_of_two_parts_are_in_files():
    at = place_sources(PLACE[:1], box=8)
    prior = gaussian_prior(8)
    for group in (
        TwoColor(at),
        TwoPart(prior, at, shapes=SHAPES, flux=np.ones((1, 3)), psf_sigma=0.6),
    ):
        again = group_from(group_facts(group), at, prior)
        assert type(again) is type(group)
        assert again.settings() == group.settings()


def test_light_moves_in_a_free_form_as_in_its_profile():
    at = place_sources(PLACE[:1], box=32)
    whole = TwoColor(at)
    found = TwoPart(None, at, shapes=SHAPES, flux=np.ones((1, 3))).gradient(
        {"morphology": np.ones((1, 32, 32))}, np
    )
    wanted = whole.gradient(SHAPES, np)
    np.testing.assert_allclose(found.image, wanted.image, atol=1e-6)
    np.testing.assert_allclose(found.fraction, wanted.fraction, rtol=1e-5)
