"""Fluxes whose errors are what they say, from blank sky to bright and blended sources."""

import dataclasses

import jax
import numpy as np
import pytest
from astropy.table import Table
from numpyro import handlers
from scipy.stats import norm

from scorepriors._moments import shapes
from scorepriors._surveys import ErrorModel
from scorepriors.inference import catalog, deblend, deblend_many
from scorepriors.inference.deblending.photometry._equations import (
    equations_of,
    inverse,
    solve,
    system_of,
)
from scorepriors.inference.deblending.photometry._photometry import (
    _model_errors_of_shapes,
    photometry,
)
from scorepriors.inference.deblending.photometry._posterior import posterior_fluxes
from scorepriors.models import Observation, PointSource, Scene, place_sources, read_positions
from scorepriors.models.rendering._psf import gaussian_psf
from scorepriors.models.scene._blend import blend
from scorepriors.models.sources._point import point_image
from scorepriors.models.spectra._priors import AbstractSpectra, GalaxySpectra
from scorepriors.models.spectra._spectra import SpectrumPrior

SEEING, MODEL = 1.6, 0.7


def galaxy_image(place, size, shape):
    """A round Gaussian galaxy of unit flux, as seen."""
    wide = np.float32(np.hypot(SEEING, size))
    box = max(shape)
    return np.asarray(point_image(np.asarray([place], np.float32), box=box, psf_sigma=wide, xp=np))[
        0, : shape[0], : shape[1]
    ]


def observed(sources, *, seed, shape=(33, 33), noise=1.0, bands="gr", weights=None):
    """An observation of sources (place, size, flux per band), and their positions."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, noise, (len(bands), *shape))
    for place, size, flux in sources:
        images += np.asarray(flux)[:, None, None] * galaxy_image(place, size, shape)
    weights = np.full(images.shape, noise**-2) if weights is None else weights
    obs = Observation.from_arrays(
        images,
        weights=weights,
        psfs=np.stack([gaussian_psf(SEEING, 25)] * len(bands)),
        bands=list(bands),
        unit="nJy",
    )
    places = np.array([place for place, *_ in sources])
    return obs, read_positions(Table({"x": places[:, 1], "y": places[:, 0]}), obs)


def stars(obs, positions, noise=1.0):
    at = place_sources(positions.row_column, box=15)
    return Scene.build(obs, stars=PointSource(at, psf_sigma=MODEL, center_error=0.3))


def fitted(scene, values):
    """Something with the values of a fit of `blend`."""
    with handlers.trace() as trace, handlers.seed(rng_seed=0), handlers.substitute(data=values):
        blend(scene)
    every = {n: np.asarray(s["value"]) for n, s in trace.items() if s["type"] != "plate"}
    return dataclasses.make_dataclass("Fit", ["values"])(every | values)


def test_the_covariance_is_that_of_an_independent_fisher_matrix():
    flux = np.array([[300.0, 500.0], [200.0, 150.0]])
    places = [(14.2, 15.1), (17.3, 16.4)]
    obs, at = observed([(p, 0.0, f) for p, f in zip(places, flux, strict=True)], seed=0)
    scene = stars(obs, at)
    values = {
        "stars/offset": np.zeros((2, 2), np.float32),
        "brightness": np.log(flux.sum(1)).astype(np.float32),
    }
    equations = equations_of(scene, fitted(scene, values))
    found = solve(system_of(equations))
    # By differences of images in float64, with nothing of the package's rendering.
    edges = np.arange(34) - 0.5

    def image(numbers):
        fluxes, offsets = numbers[:4].reshape(2, 2), numbers[4:].reshape(2, 2)
        out = np.zeros((2, 33, 33))
        for place, one, off in zip(places, fluxes, offsets, strict=True):
            rows, columns = (np.diff(norm.cdf(edges, p, SEEING)) for p in np.add(place, off))
            out += one[:, None, None] * np.outer(rows, columns)
        return out.ravel()

    start = np.concatenate([equations.flux.ravel(), np.zeros(4)])
    steps = np.append(np.full(4, 1.0), np.full(4, 1e-3))
    slopes = np.stack(
        [(image(start + s * e) - image(start - s * e)) / 2 / s for s, e in zip(steps, np.eye(8))]
    )
    fisher = slopes @ slopes.T + np.diag([0.0] * 4 + [1 / 0.3**2] * 4)
    np.testing.assert_allclose(
        np.sqrt(np.diag(found.covariance)), np.sqrt(np.diag(np.linalg.inv(fisher))), rtol=0.01
    )
    wanted, own = np.linalg.inv(fisher), found.covariance
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    np.testing.assert_allclose(own / scale, wanted / scale, atol=0.01)


def test_a_band_without_data_has_no_part_in_the_covariance():
    obs, at = observed([((16, 16), 0.0, (300.0, 300.0))], seed=0)
    weights = np.array(obs.weights)
    weights[0] = 0
    obs = dataclasses.replace(obs, weights=weights)
    scene = stars(obs, at)
    values = {"stars/offset": np.zeros((1, 2)), "brightness": np.log([600.0])}
    equations = equations_of(scene, fitted(scene, values))
    assert equations.seen.tolist() == [[False, True]]
    covariance = solve(system_of(equations)).covariance
    assert (covariance[0] == 0).all()
    assert covariance[1, 1] > 0
    result = deblend(obs, at, free_form=False, key=jax.random.key(0))
    found = result.photometry
    assert np.isnan(found.flux[0, 0])
    assert np.isnan(found.measured_error[0, 0])
    np.testing.assert_allclose(found.total[0], found.flux[:, 1])
    table = catalog(result)
    for name in ("flux_g", "flux_err_g", "measured_flux_g", "fixed_shape_flux_err_g"):
        assert np.isnan(table[name].value).all()
    assert np.isfinite(table["flux_total"].value).all()


def test_a_source_whose_fit_ended_nowhere_has_no_flux_and_takes_none_from_others():
    places = [(10, 10), (22, 22)]
    obs, at = observed([(p, 0.0, (300.0, 300.0)) for p in places], seed=0)
    whole = deblend(obs, at, free_form=False, key=jax.random.key(0))
    lost = np.where([[True], [False]], np.nan, whole.parametric.least_squares)
    scene = dataclasses.replace(whole.parametric, least_squares=lost)
    found = photometry(whole.scene, scene, scene, np.ones((2, 2), bool))
    assert found.seen.tolist() == [[False, False], [True, True]]
    assert np.isnan(found.flux[0]).all()
    np.testing.assert_allclose(found.flux[1], whole.photometry.flux[1], rtol=1e-3)


def elliptical(angle, widths):
    rows, columns = np.indices((41, 41)) - 20
    along = np.cos(angle) * columns + np.sin(angle) * rows
    across = np.cos(angle) * rows - np.sin(angle) * columns
    image = np.exp(-0.5 * ((along / widths[0]) ** 2 + (across / widths[1]) ** 2))
    return image / image.sum()


def test_errors_of_shapes_know_by_how_much_both_fits_disagree():
    errors = ErrorModel(size=1.5, ellipticity=2.0)
    angles = (0.0, 0.4, np.pi / 4, 2.0)
    images = np.stack([elliptical(angle, (3.0, 2.0)) for angle in angles])
    others = np.stack([elliptical(angle, (2.5, 2.0)) for angle in angles])
    found = _model_errors_of_shapes(errors, images, others)
    one, other = (np.array(shapes(a)) for a in (images, others))
    np.testing.assert_allclose(found[:, 0], 1.5 * np.abs(one - other)[0])
    modulus = np.hypot(*(one - other)[1:])
    np.testing.assert_allclose(found[:, 1], 2.0 * modulus / np.sqrt(2))
    np.testing.assert_array_equal(found[:, 1], found[:, 2])
    # Whichever way the galaxy is turned.
    np.testing.assert_allclose(found[:, 1], found[0, 1], rtol=0.02)
    assert (_model_errors_of_shapes(errors, images, images) == 0).all()
    dark = np.zeros_like(images)
    assert np.isfinite(_model_errors_of_shapes(errors, images, dark)).all()


def test_sizes_that_no_other_fit_confirms_have_larger_errors():
    obs, at = observed([((16, 16), 2.0, (900.0, 900.0))], seed=0)
    whole = deblend(obs, at, free_form=False, key=jax.random.key(0)).parametric
    given = (whole.scene, whole, whole, np.ones((1, 2), bool), ErrorModel(single_size=1.5))
    confirmed, alone = (photometry(*given, np.array([one])) for one in (False, True))
    ratio = alone.shape_error / confirmed.shape_error
    np.testing.assert_allclose(ratio, [[1.5, 1.0, 1.0]], rtol=1e-6)


def test_the_inverse_survives_two_sources_in_one_place():
    matrix = np.array([[1e8, 1e8 * (1 - 1e-12)], [1e8 * (1 - 1e-12), 1e8]])
    found = inverse(matrix)
    assert np.isfinite(found).all()
    # The sum is known, the difference is not.
    assert found.sum() < 1e-7 < found[0, 0]
    np.testing.assert_allclose(inverse(np.diag([4.0, 0.0, 1e-12])), np.diag([0.25, 0, 1e12]), 1e-3)


def prior(bands=2, noise=1.0):
    return GalaxySpectra(
        np.full(bands, 1 / bands), 0.03 * np.eye(bands) + 0.02, noise, brightness_width=2.0
    )


def noise_of(covariance, bands=2):
    """Errors of the sums over the bands."""
    num = len(covariance) // bands
    return np.sqrt(np.einsum("kbkc->k", covariance.reshape(num, bands, num, bands)))


def moments_of(spectra, covariance):
    return lambda flux, own: spectra.moments(flux, own, {}, noise_of(covariance))


def by_importance(flux, covariance, spectra, *, draws=400_000, seed=0):
    """Moments of fluxes under the prior, by weighted draws of the prior's brightness."""
    rng = np.random.default_rng(seed)
    num, bands = flux.shape
    usual = np.log(float(spectra.noise_flux)) + float(spectra.brightness)
    brightness = rng.normal(usual, float(spectra.brightness_width), (draws, num))
    mean, relative = np.asarray(spectra.mean, float), np.asarray(spectra.covariance, float)
    root = np.linalg.cholesky(relative)
    colors = mean * (1 + rng.normal(size=(draws, num, bands)) @ root.T)
    drawn = np.exp(brightness)[..., None] * colors
    away = (drawn - flux).reshape(draws, -1)
    log_weight = -0.5 * np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away)
    # Flat in the flux below ten times the noise.
    log_weight -= np.log1p(10 * noise_of(covariance) / np.exp(brightness)).sum(1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    found = np.einsum("n,nkb->kb", weight, drawn)
    centered = (drawn - found).reshape(draws, -1)
    return found, np.einsum("n,ni,nj->ij", weight, centered, centered)


@pytest.mark.parametrize("level", [-2.0, 0.0, 2.0, 30.0])
def test_a_source_alone_has_the_moments_of_importance_sampling(level):
    spectra = prior()
    flux = np.full((1, 2), level * 10.0)
    covariance = np.array([[100.0, 20.0], [20.0, 150.0]])
    mean, joint, _ = posterior_fluxes(flux, covariance, moments_of(spectra, covariance))
    wanted, spread = by_importance(flux, covariance, spectra)
    width = np.sqrt(np.diag(spread))
    np.testing.assert_allclose(mean.ravel() / width, wanted.ravel() / width, atol=0.05)
    np.testing.assert_allclose(np.sqrt(np.diag(joint)), width, rtol=0.05)


def test_expectation_propagation_of_two_faint_neighbors():
    spectra = prior()
    flux = np.array([[40.0, 30.0], [-5.0, 10.0]])
    covariance = 100.0 * (np.eye(4) - 0.45 * np.kron(np.array([[0, 1], [1, 0]]), np.eye(2)))
    mean, joint, _ = posterior_fluxes(flux, covariance, moments_of(spectra, covariance))
    wanted, spread = by_importance(flux, covariance, spectra)
    width = np.sqrt(np.diag(spread))
    np.testing.assert_allclose(mean.ravel() / width, wanted.ravel() / width, atol=0.15)
    np.testing.assert_allclose(np.sqrt(np.diag(joint)), width, rtol=0.15)


class Fixed(AbstractSpectra):
    """Gaussian fluxes about one value."""

    def sample(self, num_sources):
        covariance = np.tile(np.eye(2), (num_sources, 1, 1))
        return SpectrumPrior(np.full((num_sources, 2), 5.0), covariance)

    def start(self, flux, error, mask, begin=None):
        raise NotImplementedError


def test_a_prior_of_ones_own_is_a_product_of_gaussians():
    mean, covariance = Fixed().moments(np.full((1, 2), 9.0), np.eye(2)[None] / 3, {}, np.ones(1))
    np.testing.assert_allclose(mean, 8.0)
    np.testing.assert_allclose(covariance, np.eye(2)[None] / 4)


#: Signal to noise of the test's sources in each band.
LEVELS = (0, 0, 1, 3, 10)


@pytest.fixture(scope="module")
def faint():
    """Many isolated galaxies of known signal to noise: true fluxes, results."""
    blends, truths = [], []
    for seed in range(24):
        rng = np.random.default_rng(1000 + seed)
        sources = []
        for level, (row, column) in zip(
            rng.permutation(LEVELS), [(20, 20), (20, 60), (40, 40), (60, 20), (60, 60)]
        ):
            size = rng.uniform(0.8, 1.8)
            unit = galaxy_image((15.0, 15.0), size, (31, 31))
            flux = level / np.sqrt((unit**2).sum()) * np.array([1.0, 1.2])
            place = np.array([row, column]) + rng.uniform(-0.5, 0.5, 2)
            sources.append((place, size, flux))
        big = np.zeros((2, 81, 81))
        for place, size, flux in sources:
            corner = np.round(place).astype(int) - 15
            stamp = galaxy_image(place - corner, size, (31, 31))
            rows, columns = (slice(c, c + 31) for c in corner)
            big[:, rows, columns] += flux[:, None, None] * stamp
        images = big + rng.normal(size=big.shape)
        obs = Observation.from_arrays(
            images,
            weights=np.ones(images.shape),
            psfs=np.stack([gaussian_psf(SEEING, 25)] * 2),
            bands=["g", "r"],
            unit="nJy",
        )
        places = np.array([p for p, *_ in sources]) + rng.normal(0, 0.1, (5, 2))
        at = read_positions(Table({"x": places[:, 1], "y": places[:, 0]}), obs)
        blends.append((obs, at))
        truths.append([f for *_, f in sources])
    results = deblend_many(
        [o for o, _ in blends], [p for _, p in blends], free_form=False, key=jax.random.key(0)
    )
    return np.array(truths), results


def of_all(results, name):
    return np.array([getattr(r.photometry, name) for r in results])


def test_measured_fluxes_have_pulls_of_width_one_from_blank_sky_up(faint):
    truth, results = faint
    flux, error = of_all(results, "measured"), of_all(results, "measured_error")
    pulls = ((flux - truth) / error).reshape(-1, 2)
    blank = (truth == 0).all(-1).ravel()
    for which in (blank, ~blank):
        # Errors of the mean of 48 and 72 pulls are 0.14 and 0.12.
        assert np.abs(pulls[which].mean(0)).max() < 0.45
        assert (np.abs(pulls[which].std(0) - 1) < 0.3).all()
    both = of_all(results, "measured_total")
    total = ((both[:, 0] - truth.sum(-1)) / both[:, 1]).ravel()
    assert abs(total[blank].mean()) < 0.45
    assert 0.7 < total[blank].std() < 1.3
    assert 0.7 < total[~blank].std() < 1.3
    # Free to be negative.
    assert 0.2 < (flux[(truth == 0)] < 0).mean() < 0.8


def test_blank_sky_is_no_detection(faint):
    truth, results = faint
    blank = (truth == 0).all(-1)
    total, error = np.moveaxis(of_all(results, "total"), 1, 0)
    assert (total[blank] / error[blank] > 3).mean() <= 0.03
    words = np.array([list(catalog(r)["flags"]) for r in results])
    assert all("faint" in w for w in words[blank])
    snr = of_all(results, "snr")
    assert (snr[blank] > 3).mean() <= 0.05


def test_posterior_intervals_hold_the_truth(faint):
    truth, results = faint
    seen = truth.sum(-1) > 0
    total, error = np.moveaxis(of_all(results, "total"), 1, 0)
    inside = np.abs(total - truth.sum(-1)) < error
    # Of 72; a binomial scatter of .055.
    assert 0.52 < inside[seen].mean() < 0.85


def test_a_source_whose_flux_runs_away_leaves_the_others_alone():
    """Rounding leaves no variance, or a negative one, of fluxes without end at a wrong place."""

    def moments(center, covariance):
        spread = 0.5 * covariance
        spread[0] = -np.eye(2)
        return 0.5 * center, spread

    flux = np.array([[1e12, 1e12], [4.0, 6.0]])
    mean, joint, precision = posterior_fluxes(flux, np.eye(4), moments)
    np.testing.assert_allclose(mean[0], flux[0], rtol=1e-5)
    np.testing.assert_allclose(mean[1], [2, 3], rtol=1e-3)
    np.testing.assert_allclose(np.diag(joint), [1, 1, 0.5, 0.5], rtol=1e-3)
    assert (precision[0] == 0).all()
