"""Untrained energies, which must be Gaussian."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_energy
from scipy.stats import norm

from scorepriors import AbstractEnergy, Confined, GaussianEnergy, LineEnergy
from scorepriors.energies._abstract import score, tweedie
from scorepriors.energies._confined import Wall
from scorepriors.energies._wiener import dihedral, principal_modes

SIGMAS = [0.05, 0.3, 5.0]


def covariance(energy):
    """Covariance ``[pixels, pixels]`` of an untrained energy at sigma = 0, in float64."""
    basis = np.asarray(energy.basis, float)
    outside = np.eye(len(basis)) - basis @ basis.T
    return (basis * np.asarray(energy.eigenvalues, float)) @ basis.T + float(energy.tail) * outside


@pytest.fixture
def images():
    """Stretched images ``[3, 8, 8]`` at a few standard deviations."""
    return jax.random.normal(jax.random.key(3), (3, 8, 8))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_untrained_energy_is_the_gaussian_with_the_covariance_of_the_modes(images, sigma):
    energy = small_energy(trained=False)
    total = covariance(energy) + sigma**2 * np.eye(64)
    for z in images:
        residual = np.asarray(z, float).ravel() - np.asarray(energy.mean, float)
        exact = 0.5 * residual @ np.linalg.solve(total, residual)
        np.testing.assert_allclose(energy(z, jnp.asarray(sigma)), exact, rtol=2e-5)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_untrained_denoising_is_the_wiener_filter(images, sigma):
    energy = small_energy(trained=False)
    clean = covariance(energy)
    gain = np.linalg.solve(clean + sigma**2 * np.eye(64), clean)
    mean = np.asarray(energy.mean, float)
    for z in images:
        exact = mean + gain @ (np.asarray(z, float).ravel() - mean)
        # Tweedie subtracts sigma^2 times a score: rounding grows with |z|, not with the result.
        found = energy.denoise(z, jnp.asarray(sigma))
        np.testing.assert_allclose(np.ravel(found), exact, atol=2e-5)


def test_a_trained_network_is_not_the_gaussian(images):
    sigma = jnp.asarray(0.3)
    trained, untrained = small_energy(), small_energy(trained=False)
    assert abs(trained(images[0], sigma) - untrained(images[0], sigma)) > 0.1


def test_far_along_the_modes_the_rest_keeps_its_digits():
    # |z|^2 - |a|^2 would leave an error of 1e6 * 1e-7 / tail, hundreds of nats.
    energy = small_energy(trained=False)
    a = 300.0 * jnp.ones(6)
    z = (energy.mean + energy.basis @ a).reshape(8, 8)
    sigma = jnp.asarray(0.01)
    rest = energy(z, sigma) - energy.mode_energy((z.ravel() - energy.mean) @ energy.basis, sigma)
    assert 0 <= rest < 1.0


@pytest.mark.parametrize("trained", [False, True])
def test_an_energy_caught_as_a_constant_equals_one_handed_in(images, trained):
    # Constant folding of a zero network under vmap once gave NaN.
    energy, sigma = small_energy(trained=trained), jnp.asarray(0.3)

    def batched(energy, z):
        return jax.vmap(energy, (0, None))(z, sigma)

    def scores(energy, z):
        return jax.vmap(lambda one: score(energy, one, sigma))(z)

    for function in (batched, scores):
        caught = jax.jit(lambda z, f=function: f(energy, z))(images)
        handed_in = jax.jit(function)(energy, images)
        np.testing.assert_allclose(caught, handed_in, rtol=1e-4, atol=1e-4)


def test_scores_are_finite_where_every_activation_is_zero():
    energy = small_energy(trained=False)
    at_mean = energy.mean.reshape(8, 8)
    for sigma in (1e-3, 1.0, 1e3):
        assert np.isfinite(score(energy, at_mean, jnp.asarray(sigma))).all()
    zeros = jax.tree.map(jnp.zeros_like, energy.network)
    field = jax.jacobian(lambda a: zeros(a, a, jnp.asarray(0.0)))(jnp.zeros(6))
    np.testing.assert_array_equal(field, 0)


def test_gaussian_energy_has_the_closed_form_of_its_score_and_denoiser(images):
    variance = jnp.linspace(0.1, 2.0, 64).reshape(8, 8)
    energy, sigma = GaussianEnergy(jnp.ones((8, 8)), variance), jnp.asarray(0.4)
    z = images[0]
    np.testing.assert_allclose(
        score(energy, z, sigma), (1 - z) / (variance + 0.16), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        energy.denoise(z, sigma), (0.16 + variance * z) / (variance + 0.16), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("sigma", [0.1, 5.0])
def test_white_noise_becomes_the_gaussian_part(sigma):
    energy, num = small_energy(trained=False), 4000
    noise = jax.random.normal(jax.random.key(0), (num, 8, 8))
    made = jax.vmap(energy.from_white, (0, None))(noise, jnp.asarray(sigma))
    again = jax.vmap(energy.to_white, (0, None))(made, jnp.asarray(sigma))
    np.testing.assert_allclose(again, noise, atol=1e-4)
    z = np.asarray(made, float)
    total = covariance(energy) + sigma**2 * np.eye(64)
    white = np.linalg.solve(
        np.linalg.cholesky(total), (z.reshape(num, 64) - np.asarray(energy.mean)).T
    )
    # 64 means and 64 variances of independent unit normals, errors n^-1/2 and (2/n)^1/2.
    limit = norm.isf(1e-6 / (2 * 128))
    assert np.abs(white.mean(1)).max() < limit / num**0.5
    assert np.abs(white.var(1) - 1).max() < limit * (2 / num) ** 0.5
    # Negative control: the same draws against a covariance five parts in a hundred larger.
    assert np.abs(white.var() / 1.05 - 1) > limit * (2 / white.size) ** 0.5


ENERGIES = {
    "gaussian": lambda: GaussianEnergy(jnp.ones((8, 8)), jnp.linspace(0.1, 2, 64).reshape(8, 8)),
    "line": lambda: LineEnergy(lambda z, sigma: -z / (1 + sigma**2), jnp.ones((8, 8)), 3),
    "wiener": small_energy,
    "confined": lambda: confined_energy(),
}


def confined_energy():
    """A small energy inside a wall that begins before any image."""
    wall = Wall(16, 6, 3, 8, 5.0, np.geomspace(0.02, 20, 5), key=jax.random.key(1))
    wall = eqx.tree_at(lambda w: w.log_threshold, wall, jnp.zeros(5))
    return Confined(small_energy(), wall)


@pytest.mark.parametrize("name", ENERGIES)
def test_every_energy_keeps_the_contract(name, images):
    energy, sigma = ENERGIES[name](), jnp.asarray(0.3)
    assert isinstance(energy, AbstractEnergy)
    assert energy.box == 8
    assert energy(images[0], sigma).shape == ()
    white = energy.to_white(images[0], sigma)
    np.testing.assert_allclose(energy.from_white(white, sigma), images[0], atol=1e-4)
    assert energy.denoise(images[0], sigma).shape == (8, 8)
    # Abstract or final: what the base says is abstract, and nothing is said twice.
    mine = {n for n in vars(type(energy)) if not n.startswith("_")} | {"__call__"}
    assert AbstractEnergy.__abstractmethods__ <= mine
    assert type(energy).__bases__ == (AbstractEnergy,)


def test_the_wall_is_felt_by_the_value_alone(images):
    energy, sigma = confined_energy(), jnp.asarray(0.3)
    z, inner = images[0], energy.energy
    assert energy(z, sigma) > inner(z, sigma) + 1
    assert abs(score(energy, z, sigma) - score(inner, z, sigma)).max() > 0.1
    for name in ("denoise", "from_white", "to_white"):
        np.testing.assert_array_equal(
            getattr(energy, name)(z, sigma), getattr(inner, name)(z, sigma)
        )
    expected = tweedie(inner, z, sigma)
    np.testing.assert_array_equal(energy.denoise(z, sigma), expected)
    assert abs(tweedie(energy, z, sigma) - expected).max() > 0.01


@pytest.mark.parametrize("name", ["wiener", "confined"])
def test_the_gaussian_part_is_that_of_an_untrained_network(name, images):
    sigma = jnp.asarray(0.3)
    found = ENERGIES[name]().gaussian()(images[0], sigma)
    np.testing.assert_allclose(found, small_energy(trained=False)(images[0], sigma), rtol=1e-5)


@pytest.fixture(scope="module")
def galaxies():
    """Elongated blobs off the center ``[200, 6, 6]``: nothing about them is symmetric."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((6, 6))[:, None] - rng.uniform(2, 3.5, (2, 200, 1, 1))
    return np.exp(-(rows**2) / 2 - columns**2 / 6) + 0.01 * rng.normal(size=(200, 6, 6))


def test_dihedral_yields_eight_different_orientations(galaxies):
    turned = list(dihedral(galaxies))
    assert len({one.tobytes() for one in turned}) == 8
    np.testing.assert_array_equal(turned[0], galaxies)


def test_principal_modes_are_orthonormal_and_ordered(galaxies):
    mean, basis, values, tail = principal_modes(galaxies, 20)
    np.testing.assert_allclose(basis.T @ basis, np.eye(20), atol=1e-12)
    assert (np.diff(values) <= 0).all()
    assert 0 < tail <= values[-1]
    # The trace is the variance of all orientations about their common mean.
    turned = np.concatenate(list(dihedral(galaxies))).reshape(-1, 36)
    np.testing.assert_allclose(mean, turned.mean(0), rtol=1e-6)
    np.testing.assert_allclose(values.sum() + 16 * tail, turned.var(0).sum(), rtol=1e-5)


def test_principal_modes_have_the_symmetry_of_the_square(galaxies):
    mean, basis, values, _ = principal_modes(galaxies, 36)
    second = (basis * values) @ basis.T
    assert np.abs(mean.reshape(6, 6) - np.rot90(mean.reshape(6, 6))).max() < 1e-7
    index = np.arange(36).reshape(1, 6, 6)
    for order in (turned.ravel() for turned in dihedral(index)):
        np.testing.assert_allclose(second[np.ix_(order, order)], second, atol=1e-6)
    # Negative control: without averaging over the orientations they have none.
    raw = np.cov(galaxies.reshape(200, 36), rowvar=False)
    order = np.rot90(index[0]).ravel()
    assert np.abs(raw[np.ix_(order, order)] - raw).max() > 1e-2


def test_principal_modes_floor_what_was_not_measured():
    images = np.ones((10, 4, 4)) * np.linspace(1, 2, 10)[:, None, None]
    _, _, values, tail = principal_modes(images, 3)
    assert (values > 0).all()
    assert tail > 0
