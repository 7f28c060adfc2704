"""Correlated noise: against dense algebra in double precision, and what is measured of it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from scorepriors._errors import InputError
from scorepriors.models import (
    Correlated,
    Diagonal,
    FileWarning,
    Observation,
    detect,
    draw_correlated,
    drizzle_correlation,
    error_factor,
    exposures,
    join_observations,
    lanczos_correlation,
    measure_correlation,
    noise_of,
    realization_correlation,
    with_correlation,
)
from scorepriors.models.data._correlations import correlation_sentence
from scorepriors.models.data._field import Field
from scorepriors.models.noise._correlation import of_filtered, regularized
from scorepriors.models.rendering._information import (
    _seen_by_rendering,
    likelihood_diagonal,
    likelihood_diagonal_on_host,
)
from scorepriors.models.rendering._psf import gaussian_psf

KERNELS = {
    "lanczos": lanczos_correlation(3),
    "drizzle 1": drizzle_correlation(1.0),
    "drizzle 1.33": drizzle_correlation(0.8, 0.6),
    "diagonal": np.array([[0.3, 0.2, 0], [0.2, 1, 0.2], [0, 0.2, 0.3]]),
}


def dense(weights, correlation):
    """Return the covariance of the unmasked pixels of one band, and where they are."""
    rows, columns = np.nonzero(weights > 0)
    half = len(correlation) // 2
    down, right = rows[:, None] - rows, columns[:, None] - columns
    inside = (abs(down) <= half) & (abs(right) <= half)
    found = correlation[np.clip(down, -half, half) + half, np.clip(right, -half, half) + half]
    sigma = weights[rows, columns] ** -0.5
    return np.where(inside, found, 0.0) * sigma[:, None] * sigma, (rows, columns)


def uneven(shape, seed=0, holes=0.06):
    """Return weights that vary fivefold, with holes."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 2.5, shape)
    weights[rng.random(shape) < holes] = 0
    return weights


@pytest.mark.parametrize("name", KERNELS)
def test_density_of_a_small_image(name):
    with jax.enable_x64(True):
        weights = uneven((2, 8, 8))
        weights[0, 3:5, 2:7] = 0
        noise = Correlated(weights, KERNELS[name])
        for scale in (0.5, 1.0, 1.5):
            residual = scale * np.asarray(noise.sample(jax.random.key(0)))
            true = 0.0
            for band, values in zip(weights, residual, strict=True):
                covariance, at = dense(band, KERNELS[name])
                true += multivariate_normal(cov=covariance).logpdf(values[at])
            # Of some 100 pixels, by a draw; .1 in the mean.
            assert noise.log_likelihood(residual) == pytest.approx(true, abs=0.7)
        model = jnp.asarray(residual)
        distribution = noise.distribution(model)
        assert distribution.batch_shape == (2,)
        assert distribution.event_shape == (8, 8)
        np.testing.assert_allclose(
            distribution.log_prob(model + residual).sum(), noise.log_likelihood(residual)
        )


@pytest.mark.parametrize(("name", "most"), [("lanczos", 0.01), ("drizzle 1.33", 0.012)])
def test_errors_of_fluxes_beside_masks(name, most):
    """Errors that are claimed are those that estimates have, with holes, borders and weights."""
    weights = uneven((1, 20, 20), seed=3)
    weights[0, 8:10, 11:] = 0
    noise = Correlated(weights, KERNELS[name])
    covariance, at = dense(weights[0], KERNELS[name])
    row, column = np.indices((20, 20))
    for place, size in (((9, 10), 1.0), ((9, 10), 2.5), ((1, 1), 1.5), ((12, 15), 1.5)):
        light = np.exp(-((row - place[0]) ** 2 + (column - place[1]) ** 2) / 2 / size**2)
        pulled = noise.precision(light[None])[0][at]
        information = float((pulled * light[at]).sum())
        real = pulled @ covariance @ pulled / information**2
        assert information**-0.5 == pytest.approx(real**0.5, rel=most)
        best = 1 / (light[at] @ np.linalg.solve(covariance, light[at]))
        assert real**0.5 < 1.005 * best**0.5


def test_draws_are_those_of_the_density():
    weights = uneven((1, 7, 6), seed=2)
    noise = Correlated(weights.astype(np.float32), KERNELS["drizzle 1.33"])
    draws = jax.jit(jax.vmap(noise.sample))(jax.random.split(jax.random.key(0), 20_000))
    assert (np.asarray(draws)[:, weights == 0] == 0).all()
    covariance, (rows, columns) = dense(weights[0], KERNELS["drizzle 1.33"])
    found = np.cov(np.asarray(draws)[:, 0, rows, columns].T)
    sigma = np.sqrt(np.diag(covariance))
    # Seven standard deviations of 20,000 draws.
    np.testing.assert_allclose(
        found / sigma / sigma[:, None], np.array(covariance / sigma / sigma[:, None]), atol=0.05
    )
    chi2 = jax.vmap(lambda d: noise.inner(d, d)[0])(draws)
    assert chi2.mean() == pytest.approx(len(rows), rel=0.01)
    several = noise.distribution(jnp.zeros((1, 7, 6))).sample(jax.random.key(1), (2, 3))
    assert several.shape == (2, 3, 1, 7, 6)


def test_products_agree_with_each_other():
    weights = uneven((2, 12, 11), seed=4)
    noise = Correlated(weights, KERNELS["lanczos"])
    images = np.random.default_rng(5).normal(size=(3, 2, 12, 11))
    weighed = noise.precision(images)
    assert (weighed[:, weights == 0] == 0).all()
    np.testing.assert_allclose((weighed * images).sum((-2, -1)), noise.inner(images, images))
    units = np.eye(132).reshape(132, 1, 12, 11) * np.ones((1, 2, 1, 1))
    matrix = np.moveaxis(noise.precision(units), 1, 0).reshape(2, 132, 132)
    np.testing.assert_allclose(matrix, matrix.swapaxes(1, 2), atol=1e-12)
    np.testing.assert_allclose(noise.diagonal().reshape(2, -1), np.einsum("bii->bi", matrix))
    distances, between = noise.stencil()
    whole = np.zeros_like(matrix)
    place = np.indices((12, 11)).reshape(2, -1).T
    for (down, right), values in zip(distances, between, strict=True):
        for one, (row, column) in enumerate(place):
            if 0 <= row + down < 12 and 0 <= column + right < 11:
                other = (row + down) * 11 + column + right
                whole[:, one, other] = whole[:, other, one] = values[:, row, column]
    np.testing.assert_allclose(whole, matrix, atol=1e-12)
    jitted = jax.jit(lambda n, x: n.precision(x))
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), noise)
    found = jitted(single, jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(found, weighed, atol=1e-5)
    two = jax.tree.map(lambda a: jnp.stack([a, a]), single)
    both = eqx.filter_vmap(lambda n: n.precision(jnp.asarray(images[0], jnp.float32)))(two)
    np.testing.assert_allclose(both[1], weighed[0], atol=1e-5)


def test_white_noise_is_white():
    weights = uneven((1, 9, 9))
    residual = np.random.default_rng(0).normal(size=weights.shape)
    noise = Correlated(weights, np.ones((1, 1)))
    np.testing.assert_allclose(noise.precision(residual), weights * residual)
    with jax.enable_x64(True):
        white = Diagonal(jnp.asarray(weights)).log_likelihood(residual)
        np.testing.assert_allclose(noise.log_likelihood(residual), white)


def test_gradients_by_parameters_of_the_noise():
    with jax.enable_x64(True):
        weights, target = uneven((1, 9, 9)), KERNELS["drizzle 1"]
        residual = np.random.default_rng(0).normal(size=weights.shape)
        white = np.zeros((3, 3))
        white[1, 1] = 1

        def log_likelihood(scale, share):
            kernel = (1 - share) * white + share * target
            return Correlated(scale * weights, kernel).log_likelihood(residual)

        found = jax.jit(jax.grad(log_likelihood, (0, 1)))(1.1, 0.6)
        step = 1e-5
        by_scale = log_likelihood(1.1 + step, 0.6) - log_likelihood(1.1 - step, 0.6)
        by_share = log_likelihood(1.1, 0.6 + step) - log_likelihood(1.1, 0.6 - step)
        np.testing.assert_allclose(found, np.array([by_scale, by_share]) / 2 / step, rtol=1e-6)


def test_a_window_knows_nothing_beyond_it():
    weights = uneven((2, 20, 20))
    noise = Correlated(weights, KERNELS["drizzle 1"])
    window = noise.cut((-3, 12), (10, 12))
    expected = np.zeros((2, 10, 12))
    expected[:, 3:, :8] = weights[:, :7, 12:]
    np.testing.assert_array_equal(window.weights, expected)
    fresh = Correlated(expected, KERNELS["drizzle 1"])
    np.testing.assert_array_equal(window.taps, fresh.taps)
    np.testing.assert_array_equal(Diagonal(weights).cut((-3, 12), (10, 12)).weights, expected)


def test_information_on_other_pixels_and_on_the_host():
    rng = np.random.default_rng(0)
    obs = Observation.from_arrays(
        rng.normal(size=(1, 40, 40)), weights=np.ones((1, 40, 40)), psfs=gaussian_psf(1.5, 13)[None]
    )
    (one,) = exposures(with_correlation(obs, "drizzle:1.2"), boxes=(9,))
    one = jax.tree.map(jnp.asarray, one)
    corner = jnp.array([[12, 14]])
    exact = likelihood_diagonal([one], jnp.ones((1, 1)), corner, 9)
    host = likelihood_diagonal_on_host([one], np.ones((1, 1)), np.asarray(corner), 9)
    np.testing.assert_allclose(host, exact, rtol=0.025)
    other = eqx.tree_at(
        lambda e: e.grid, one, jnp.array([-0.4, 0.3, 0.8]), is_leaf=lambda x: x is None
    )
    found = likelihood_diagonal([other], jnp.ones((1, 1)), corner, 9)
    rendered = _seen_by_rendering(other, corner, 9)[:, 0]
    np.testing.assert_allclose(found, rendered, rtol=0.01)


def test_closed_forms():
    for ratio, factor in ((1.0, 1.5), (1.6, 1.6 / (1 - 1 / 4.8)), (0.6, 1 / (1 - 0.2))):
        assert error_factor(drizzle_correlation(ratio)) == pytest.approx(factor)
    np.testing.assert_allclose(drizzle_correlation(0.8, 0.5), drizzle_correlation(1.6))
    # As measured on HSC coadds.
    assert error_factor(lanczos_correlation(3)) == pytest.approx(1.12, abs=0.005)
    # A drizzle, done: points fall on random places of a grid, by the overlap of squares.
    rng = np.random.default_rng(0)
    shift = rng.uniform(0, 1, 4000)
    lags = np.arange(-2, 3)
    shares = np.clip((1 + 1.33) / 2 - abs(shift[:, None] + np.arange(-4, 5)), 0, 1)
    line = [np.mean((shares[:, 2:-2] * np.roll(shares, k, 1)[:, 2:-2]).sum(1)) for k in lags]
    np.testing.assert_allclose(drizzle_correlation(1.33)[2], np.array(line) / line[2], atol=0.02)


def test_filtered_noise():
    rng = np.random.default_rng(0)
    kernel, correlation = rng.normal(size=(5, 5)), KERNELS["drizzle 1.33"]
    noise = draw_correlated(rng, (400, 60, 60), correlation)
    assert noise.std() == pytest.approx(1, abs=0.02)
    filtered = np.einsum("nij,ij->n", noise[:, 20:25, 20:25], kernel)
    others = np.einsum("nij,ij->n", noise[:, 40:45, 40:45], kernel)
    measured = np.mean(np.append(filtered, others) ** 2)
    assert of_filtered(kernel, correlation).sum() == pytest.approx(measured, rel=0.2)
    np.testing.assert_array_equal(of_filtered(kernel, None), kernel**2)


@pytest.fixture(scope="module")
def drizzled():
    """An image of noise with a few sources, weights that vary and holes."""
    rng = np.random.default_rng(7)
    weights = np.repeat(uneven((1, 128, 128), holes=0.02), 2, axis=0)
    noise = draw_correlated(rng, weights.shape, drizzle_correlation(1.2))
    row, column = np.indices((128, 128))
    light = sum(
        30 * np.exp(-((row - y) ** 2 + (column - x) ** 2) / 2 / 2.0**2)
        for y, x in rng.uniform(10, 118, (6, 2))
    )
    images = noise / np.sqrt(np.where(weights > 0, weights, 1)) + light
    return Observation.from_arrays(images, weights=weights, psfs=gaussian_psf(2.0, 15)[None])


def test_measured_in_empty_pixels(drizzled):
    found = measure_correlation(drizzled)
    assert found.shape == (2, 7, 7)
    true = error_factor(drizzle_correlation(1.2))
    np.testing.assert_allclose(error_factor(found), true, rtol=0.05)
    same = Correlated(drizzled.weights, found)
    assert np.isfinite(same.taps).all()
    sentence = correlation_sentence(drizzled)
    assert "too small by a factor of up to 1." in sentence
    assert "--correlation measure" in sentence
    assert correlation_sentence(with_correlation(drizzled, "white")) == ""
    assert correlation_sentence(with_correlation(drizzled, found)) == ""
    # Fewer false sources: the noise of filtered pixels is larger.
    before, after = detect(drizzled), detect(with_correlation(drizzled, found))
    assert 6 <= len(after.ids) < len(before.ids)


def test_white_pixels_are_measured_as_white():
    rng = np.random.default_rng(0)
    shape = (3, 100, 100)
    obs = Observation.from_arrays(
        rng.normal(size=shape), weights=np.ones(shape), psfs=gaussian_psf(1.5, 13)[None]
    )
    np.testing.assert_allclose(error_factor(measure_correlation(obs)), 1, atol=0.02)
    assert correlation_sentence(obs) == ""


def test_realizations():
    rng = np.random.default_rng(0)
    weights = uneven((300, 280))
    noise = draw_correlated(rng, (3, 300, 280), lanczos_correlation(3))
    noise /= np.sqrt(np.where(weights > 0, weights, 1))
    noise[:, 5:9] = np.nan
    found = realization_correlation(noise, weights)
    assert error_factor(found) == pytest.approx(1.12, abs=0.03)


def test_words_for_correlations(drizzled):
    assert noise_of(with_correlation(drizzled, "white")).weights is not None
    assert isinstance(noise_of(with_correlation(drizzled, "white")), Diagonal)
    assert isinstance(noise_of(drizzled), Diagonal)
    for word in ("lanczos3", "Lanczos-3", "drizzle:1.1", "drizzle:0.8/0.6", "measure"):
        assert isinstance(noise_of(with_correlation(drizzled, word)), Correlated)
    given = with_correlation(drizzled, drizzle_correlation(1.0))
    assert given.correlation.shape == (2, 3, 3)
    assert not given.correlation.flags.writeable
    assert with_correlation(drizzled, None) is drizzled


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("lanczos", "unknown correlation 'lanczos'"),
        ("lanczos9", "orders from 1 to 6"),
        ("drizzle:big", "unknown correlation"),
        ("drizzle:0", "ratio of 0"),
        ("drizzle:1/0", "ratio of"),
        (np.eye(3), "must be one|not that of any noise"),
        (np.ones((4, 4)), "k odd"),
        (np.ones((3, 3)), "not that of any noise"),
        (np.ones((5, 3, 3)), "give \\[k, k\\] or \\[2, k, k\\]"),
        ([[0, 0.1, 0], [0.3, 1, 0.2], [0, 0.1, 0]], "opposite directions"),
        ([[np.nan] * 3] * 3, "must be one"),
        (["measure", "white"], "2 correlations for one observation"),
        (3.0, "array"),
    ],
)
def test_wrong_correlations(drizzled, bad, said):
    with pytest.raises(InputError, match=said):
        with_correlation(drizzled, bad)


def test_too_few_empty_pixels(drizzled):
    small = dataclasses.replace(
        drizzled, images=drizzled.images[:, :20, :20], weights=drizzled.weights[:, :20, :20]
    )
    with pytest.raises(InputError, match="too few to measure"):
        measure_correlation(small)


def test_a_measurement_is_made_positive():
    bad = np.array([[0.0, 0.6, 0], [0.6, 1, 0.6], [0, 0.6, 0]])
    mended = regularized(bad)
    Correlated(np.ones((1, 9, 9)), mended)
    assert mended[1, 1] == 1
    assert 0 < mended[0, 1] < 0.3


def test_correlations_go_with_an_observation(drizzled, tmp_path):
    known = with_correlation(drizzled, "drizzle:1.2")
    known.to_fits(tmp_path / "known.fits")
    again = Observation.read(tmp_path / "known.fits")
    np.testing.assert_array_equal(again.correlation, known.correlation)
    arrays = {n: getattr(known, n) for n in ("images", "weights", "psfs", "bands", "correlation")}
    np.savez(tmp_path / "known.npz", **arrays)
    packed = Observation.read(tmp_path / "known.npz")
    np.testing.assert_array_equal(packed.correlation, known.correlation)
    field = Field.open(tmp_path / "known.fits")
    np.testing.assert_array_equal(field.window(0, 0, 32, 32).correlation, known.correlation)
    assert Observation.from_arrays(
        known.images, weights=known.weights, psfs=known.psfs, correlation=known.correlation
    ).correlation.shape == (2, 5, 5)


def test_joined_observations_have_their_own(tmp_path):
    from scorepriors.models.simulation._simulation import field_wcs

    shape = (1, 40, 40)
    parts = [
        Observation.from_arrays(
            np.ones(shape),
            weights=np.ones(shape),
            psfs=gaussian_psf(1.5, 13)[None],
            wcs=field_wcs(shape[1:], 0.2),
            zero_point=27.0,
        )
        for _ in range(2)
    ]
    both = join_observations(*parts)
    found = with_correlation(both, ("lanczos3", None))
    kinds = [type(noise_of(view.observation)) for view in found.views]
    assert kinds == [Correlated, Diagonal]
    alike = with_correlation(both, "drizzle:1.0")
    assert all(isinstance(noise_of(view.observation), Correlated) for view in alike.views)
    with pytest.raises(InputError, match="3 correlations for 2 observations"):
        with_correlation(both, ("white",) * 3)


def test_realizations_in_a_file(tmp_path):
    """As files of Rubin hold them, from DP2 on."""
    from astropy.io import fits

    rng = np.random.default_rng(0)
    shape = (90, 90)
    hdus = fits.HDUList([fits.PrimaryHDU()])
    hdus.append(fits.ImageHDU(rng.normal(size=shape), name="IMAGE"))
    hdus.append(fits.ImageHDU(np.ones(shape), name="VARIANCE"))
    hdus.append(fits.ImageHDU(gaussian_psf(1.5, 13), name="PSF"))
    for number in range(2):
        noise = draw_correlated(rng, shape, drizzle_correlation(1.0))
        hdus.append(fits.ImageHDU(noise, name=f"NOISE_REALIZATIONS/{number}"))
    hdus.writeto(tmp_path / "coadd.fits")
    with pytest.warns(FileWarning, match=r"2 noise realization\(s\).*1\.[45]\d times"):
        obs = Observation.read(tmp_path / "coadd.fits")
    assert error_factor(obs.correlation)[0] == pytest.approx(1.5, abs=0.06)
