"""Inside scarlet2 and beside galaxygrad, as PyPI has them; `.ci/peers` installs both.

Skipped where they are not installed.
"""

import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import biject_to, constraints

from scorepriors import Padded, VarianceExploding, load_prior
from scorepriors._galaxygrad import read_network

PAGE = Path(__file__).parents[1] / "docs" / "coming-from-scarlet.md"
CENTERS = ((24.0, 20.0), (26.0, 33.0))
FLUXES = np.array([[400.0, 700.0, 900.0], [500.0, 450.0, 300.0]])

pytestmark = [
    # scarlet2 imports what others deprecate, in modules of its own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def scarlet2():
    module = pytest.importorskip("scarlet2")
    module.set_validation(False)
    return module


@pytest.fixture
def unvalidated():
    """Where NumPyro checks arguments, as it does by default, scarlet2 0.5.1 gives its likelihood the
    shape of bands and rows, and its sampler adds it up so often."""
    numpyro.enable_validation(False)
    yield
    numpyro.enable_validation(True)


@pytest.fixture
def mixed_numbers():
    """scarlet2 mixes kinds of numbers as NumPy does, which our own tests forbid."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def gaussian(shape, center, sigma):
    row, column = np.indices(shape)
    square = (row - center[0]) ** 2 + (column - center[1]) ** 2
    return np.exp(-square / (2 * sigma**2)) / (2 * np.pi * sigma**2)


@pytest.fixture
def obs(scarlet2):
    """Two round galaxies in three bands, with noise of 0.5 a pixel."""
    shape = (50, 50)
    true = [
        flux[:, None, None] * gaussian(shape, center, np.hypot(sigma, 1.5))
        for center, flux, sigma in zip(CENTERS, FLUXES, (1.6, 2.2))
    ]
    noise = np.random.default_rng(0).normal(0, 0.5, (3, *shape))
    psf = np.broadcast_to(gaussian((25, 25), (12, 12), 1.5), (3, 25, 25))
    return scarlet2.Observation(
        jnp.asarray(sum(true) + noise, jnp.float32),
        weights=jnp.full((3, *shape), 4.0),
        psf=jnp.asarray(psf / psf.sum((1, 2), keepdims=True), jnp.float32),
        channels=["g", "r", "i"],
    )


def example():
    (code,) = (
        block
        for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
        if "import scarlet2" in block
    )
    return code


def test_the_example_of_the_page_fits(scarlet2, obs, mixed_numbers):
    code = example()
    assert "max_iter=200)" in code
    space = {"obs": obs, "centers": jnp.asarray(CENTERS)}
    exec(code.replace("max_iter=200)", "max_iter=200, progress_bar=False)"), space)
    fitted, prior = space["fitted"], space["prior"]
    assert obs.goodness_of_fit(fitted()) < 1.1 < obs.goodness_of_fit(space["scene"]())
    for source, flux in zip(fitted.sources, FLUXES, strict=True):
        shape = np.asarray(source.morphology)
        assert np.isfinite(shape).all()
        assert (shape > -prior.stretch.softening).all()
        found = np.asarray(scarlet2.measure.flux(source))
        # The noise alone leaves 2 per cent.
        np.testing.assert_allclose(found, flux, rtol=0.1)


def test_scarlet2_maximizes_our_density(scarlet2, obs, mixed_numbers):
    """One step of its fit, of size zero in all but the shape, follows likelihood and prior."""
    prior = load_prior("lsst-32")
    frame = scarlet2.Frame.from_observations(obs)
    obs.match(frame)
    with scarlet2.Scene(frame) as scene:
        spectrum, shape = scarlet2.init.from_gaussian_moments(obs, jnp.asarray(CENTERS[0]))
        scarlet2.Source(jnp.asarray(CENTERS[0]), spectrum, shape)
    own = Padded(prior, shape.shape)
    with scarlet2.Parameters(scene):
        scarlet2.Parameter(
            scene.sources[0].morphology,
            name="shape",
            prior=own,
            constraint=own.support,
            stepsize=1e-6,
        )
    seen = []
    scene.fit(obs, max_iter=1, progress_bar=False, callback=lambda *found: seen.append(found[2]))
    # Its loss before the step: that of scarlet2's likelihood and of our density.
    value = biject_to(own.support)(biject_to(own.support).inv(shape))
    wanted = -(obs.log_likelihood(scene.set({"shape": value})()) + own.log_prob(value))
    np.testing.assert_allclose(seen[0], wanted, rtol=1e-5)


def test_scarlet2_samples_our_density(scarlet2, obs, mixed_numbers, unvalidated):
    prior = load_prior("lsst-32")
    frame = scarlet2.Frame.from_observations(obs)
    obs.match(frame)
    with scarlet2.Scene(frame) as scene:
        spectrum, shape = scarlet2.init.from_gaussian_moments(obs, jnp.asarray(CENTERS[0]))
        scarlet2.Source(jnp.asarray(CENTERS[0]), spectrum, shape)
    own = Padded(prior, shape.shape)
    spectra = dist.LogNormal(jnp.log(spectrum), 1.0).to_event(1)
    with scarlet2.Parameters(scene):
        scarlet2.Parameter(scene.sources[0].spectrum, name="spectrum", prior=spectra)
        scarlet2.Parameter(scene.sources[0].morphology, name="shape", prior=own)
    chain = scene.sample(
        obs, num_warmup=5, num_samples=3, progress_bar=False, max_tree_depth=3, step_size=1e-3
    )
    draws = chain.get_samples()
    assert draws["shape"].shape == (3, *shape.shape)
    # The energy that NUTS compares is that of both densities: ScorePrior of scarlet2 would add zero.
    energy = chain.last_state.potential_energy
    last = {name: draw[-1] for name, draw in draws.items()}
    log_density = spectra.log_prob(last["spectrum"]) + own.log_prob(last["shape"])
    log_density += obs.log_likelihood(scene.set(last)())
    for name, support in (("spectrum", constraints.independent(constraints.positive, 1)),
                          ("shape", own.support)):  # fmt: skip
        change = biject_to(support)
        free = change.inv(last[name])
        log_density += change.log_abs_det_jacobian(free, last[name])
    np.testing.assert_allclose(-energy, log_density, rtol=1e-4)


@pytest.mark.parametrize(("name", "box"), [("hsc", 32), ("ztf", 64), ("quasar", 72)])
def test_networks_are_those_of_galaxygrad(name, box, tmp_path, mixed_numbers):
    """Files as `eqx.tree_deserialise_leaves` of galaxygrad reads them, with random weights."""
    models = pytest.importorskip("galaxygrad.models_eqx")
    sizes = (4, 64, 512, 512, 4, 10.0)  # as in galaxygrad/scorenet.py
    network = models.ScoreNet((1, box, box), *sizes, key=jax.random.key(1))
    # Normalizations begin as one and zero, which would hide a mistake in them.
    network = jax.tree.map(
        lambda leaf: (
            leaf + 0.1 * jax.random.normal(jax.random.key(2), leaf.shape)
            if eqx.is_array(leaf)
            else leaf
        ),
        network,
    )
    path = tmp_path / f"eqx_{name}_ScoreNet{box}.eqx"
    eqx.tree_serialise_leaves(path, network)
    z = 3 * jax.random.normal(jax.random.key(3), (box, box))
    for time in (0.01, 0.02, 4.0):
        wanted = network(z[None], time)[0]
        atol = 1e-5 * float(jnp.abs(wanted).max())
        np.testing.assert_allclose(read_network(path)(z, time), wanted, atol=atol)
    # The wrapper that galaxygrad puts around it, up to the shrinking of the process.
    prior = load_prior(path)
    image = jnp.abs(z) / 10
    raw = network((jnp.log(image + 1) / 0.1)[None], 0.02)[0]
    own = VarianceExploding(read_network(path))
    shrink = jnp.exp(-0.01)
    found = own(prior.stretch.inv(image) / shrink, prior.sigma) / shrink
    np.testing.assert_allclose(found, raw, atol=1e-4 * float(jnp.abs(raw).max()))
