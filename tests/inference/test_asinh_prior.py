"""A prior with another stretch than the logarithmic one deblends as well."""

import jax.numpy as jnp
import numpy as np
import pytest
from astropy.table import Table
from conftest import gaussian_prior, small_observation

from scorepriors import AsinhStretch, GaussianEnergy, ScorePrior
from scorepriors.inference import deblend
from scorepriors.models import read_positions

CENTERS = np.array([[9.0, 8.0], [14.0, 15.0]])
FLUX = 3000.0


def asinh_prior():
    """As `gaussian_prior`, about the same mean image, but with pixels that may be negative."""
    stretch, other = AsinhStretch(0.05, 0.44), gaussian_prior()
    mean = stretch.inv(other.stretch(other.energy.mean))
    energy = GaussianEnergy(mean, jnp.asarray(0.2))
    return ScorePrior(energy, stretch, 0.3, sigma_max=5.0, name="asinh")


@pytest.fixture(scope="module")
def deblended():
    """The same bright blend under both priors."""
    obs = small_observation(CENTERS, shape=(24, 24), flux=FLUX)
    where = read_positions(Table({"x": CENTERS[:, 1], "y": CENTERS[:, 0]}), obs)
    priors = {"asinh": asinh_prior(), "log": gaussian_prior()}
    return {name: deblend(obs, where, prior=prior) for name, prior in priors.items()}


def test_an_asinh_prior_deblends(deblended):
    found, usual = deblended["asinh"], deblended["log"]
    assert found.converged
    # Of two galaxies at a signal-to-noise ratio above a hundred: the data decide.
    np.testing.assert_allclose(found.free_form.flux, FLUX, rtol=0.03)
    np.testing.assert_allclose(found.free_form.flux, usual.free_form.flux, rtol=0.01)
    assert 0.9 < found.free_form.chi2 < 1.2


def test_its_start_has_the_right_widths(deblended):
    """With those of a logarithmic stretch it took 151 iterations in place of 35."""
    iterations = {n: int(one.free_form.fit.num_iterations) for n, one in deblended.items()}
    assert iterations["asinh"] < 2 * iterations["log"]
