"""The model `blend`: its sites, its groups, and its three treatments of spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import gaussian_prior, small_observation
from numpyro import handlers

from scorepriors import InputError
from scorepriors.inference._posterior import posterior
from scorepriors.models import BulgeDisk, FreeForm, PointSource, Scene, blend, place_sources

CENTERS = np.array([(8.0, 8.0), (15.0, 14.0)])


@pytest.fixture(scope="module")
def obs():
    return small_observation(CENTERS)


def trace(model, *args, **kwargs):
    return handlers.trace(handlers.seed(model, 0)).get_trace(*args, **kwargs)


def sites(model, *args, **kwargs):
    """Values of the sites as JAX sees them before it computes any."""
    kinds = ("sample", "deterministic")
    return jax.eval_shape(
        lambda: {
            name: site["value"]
            for name, site in trace(model, *args, **kwargs).items()
            if site["type"] in kinds
        }
    )


def free_form(centers=CENTERS, size=None):
    return FreeForm(gaussian_prior(box=8), place_sources(centers, box=8, size=size))


def test_sites_and_shapes_of_one_group_and_of_three(obs):
    one = sites(blend, Scene.build(obs, galaxies=free_form(size=4)))
    assert one["galaxies/morphology"].shape == (4, 8, 8)
    assert one["flux"].shape == (4, 3)
    three = sites(
        blend,
        Scene.build(
            obs,
            galaxies=free_form(),
            stars=PointSource(place_sources(CENTERS[:1], box=15)),
            profiles=BulgeDisk(place_sources(CENTERS[1:], box=16)),
        ),
    )
    assert {"galaxies/morphology", "stars/offset", "profiles/log_radius"} <= set(three)
    assert three["flux"].shape == (4, 3)


def test_padding_never_touches_the_data(obs):
    name = "galaxies/morphology"
    galaxies = free_form(size=3)
    bound = posterior(blend, Scene.build(obs, galaxies=galaxies))
    u = bound.start({}, key=jax.random.key(0))
    other = {**u, name: u[name].at[2].add(0.1)}
    # Moving a padded source changes its own prior and nothing else.
    density = jax.jit(lambda u: bound.log_density(u))
    change = density(other) - density(u)
    x = lambda u: jnp.exp(u[name][2]) - 0.05  # noqa: E731
    jacobian = (other[name] - u[name]).sum()
    prior = galaxies.prior
    alone = prior.log_prob(x(other)) - prior.log_prob(x(u)) + jacobian
    np.testing.assert_allclose(change, alone, atol=0.02)


def test_marginal_spectra_integrate_the_sampled_ones(obs):
    """p(D | m) = p(D, A | m) / p(A | D, m) at any A: here at the mode."""
    profiles = BulgeDisk(place_sources(CENTERS, box=16))
    marginal, sampled = (
        posterior(blend, Scene.build(obs, treatment=treatment, profiles=profiles))
        for treatment in ("marginal", "sampled")
    )
    joint = lambda s, u: sampled.log_density({**u, "spectrum": s})  # noqa: E731
    slope, curvature = (jax.jit(derivative(joint)) for derivative in (jax.grad, jax.hessian))
    alone = jax.jit(lambda u: marginal.log_density(u))
    values = []
    for brightness in ([5.5, 5.6], [5.9, 5.4]):
        init = {
            "profiles/offset": jnp.zeros((2, 2)),
            "profiles/log_radius": jnp.zeros(2),
            "profiles/ellipticity": jnp.zeros((2, 2)),
            "profiles/bulge_logit": jnp.full(2, -2.0),
            "profiles/bulge_log_ratio": jnp.zeros(2),
            "profiles/bulge_ellipticity": jnp.zeros((2, 2)),
            "brightness": jnp.asarray(brightness),
        }
        u = marginal.unconstrain(init)
        mode = marginal.constrain(u)["spectrum"]
        precision = -curvature(mode, u).reshape(6, 6)
        half_log_det = 0.5 * np.linalg.slogdet(np.asarray(precision, float))[1]
        values.append((float(alone(u)), float(joint(mode, u)) - half_log_det))
        # The mode of the joint density is where its gradient vanishes.
        step = np.linalg.solve(np.asarray(precision, float), slope(mode, u).ravel())
        assert np.abs(step).max() < 1e-2 * np.abs(mode).max()
    (a, b), (c, d) = values
    np.testing.assert_allclose(a - c, b - d, atol=0.02)


def test_mistakes(obs):
    with pytest.raises(InputError, match="at least one group"):
        Scene.build(obs)
    stars = PointSource(place_sources(CENTERS, box=15))
    scene = Scene.build(obs, stars=stars)
    with pytest.raises(InputError, match="different names, got stars, stars"):
        Scene(scene.exposures, (stars, stars), scene.spectra)
    with pytest.raises(InputError, match="marginal, profiled, sampled, got 'guessed'"):
        trace(blend, Scene.build(obs, galaxies=free_form(), treatment="guessed"))
    with pytest.raises(InputError, match="the boxes have 9 pixels, the prior 8"):
        FreeForm(gaussian_prior(box=8), place_sources(CENTERS, box=9))
    with pytest.raises(InputError, match="do not fit a scene"):
        place_sources(CENTERS, box=8, size=1)
