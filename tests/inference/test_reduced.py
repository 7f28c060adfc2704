"""Draws of scenes of profiles by a density without pixels, made exact."""

import warnings
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from conftest import small_observation
from jax.flatten_util import ravel_pytree
from numpyro import handlers

from scorepriors._errors import InputError
from scorepriors.inference import SamplingWarning, fit_map, posterior, sample
from scorepriors.inference._posterior import without_data
from scorepriors.inference.deblending import _sampling as scenes
from scorepriors.inference.deblending.reduced import Reduced, _basis, _model, _pixels
from scorepriors.inference.deblending.reduced._model import reduced_blend, refusal
from scorepriors.inference.sampling._calibration import coverage, ranks, thin, uniformity
from scorepriors.inference.sampling._tree import group
from scorepriors.models import (
    MovingStar,
    PointSource,
    Scene,
    Sersic,
    TwoColor,
    blend,
    epoch_spectra,
    place_sources,
)
from scorepriors.models.spectra._priors import GalaxySpectra

CENTERS = np.array([[8.0, 9.0], [13.0, 12.0]])


def scene_of(images=None, brightness=(5.0, 0.7)) -> Scene:
    """A galaxy and a star that overlap, in three bands, of known pixels."""
    obs = small_observation(CENTERS, shape=(20, 20))
    galaxy = place_sources(CENTERS[:1], box=15, index=[0])
    star = place_sources(CENTERS[1:], box=15, index=[1])
    scene = Scene.build(obs, profiles=Sersic(galaxy), stars=PointSource(star))
    spectra = GalaxySpectra(
        scene.spectra.mean,
        scene.spectra.covariance,
        scene.spectra.noise_flux,
        brightness=brightness[0],
        brightness_width=brightness[1],
    )
    exposures = scene.exposures
    if images is not None:
        exposures = (eqx.tree_at(lambda e: e.images, exposures[0], images),)
    return Scene(exposures, scene.sources, spectra)


@pytest.fixture(scope="module")
def simulate():
    """Truths and pixels from the model's own prior, the spectra drawn."""
    empty = scene_of()
    drawn = Scene(empty.exposures, empty.sources, empty.spectra, "sampled")

    @jax.jit
    def one(key):
        blank = without_data(partial(blend, drawn), ("pixels",))
        trace = handlers.trace(handlers.seed(blank, key)).get_trace()
        return {n: s["value"] for n, s in trace.items() if s["type"] in ("sample", "deterministic")}

    return lambda number: {n: np.asarray(v) for n, v in one(jax.random.key(number)).items()}


def run(scene, algorithm, number=0, **options):
    fit = fit_map(blend, scene, key=jax.random.key(number), max_iterations=400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return sample(
            posterior(blend, scene),
            key=jax.random.key(number),
            algorithm=algorithm,
            init=fit,
            **{"num_warmup": 80, "num_samples": 60, **options},
        )


def off(scene):
    """Return scatter of the log-density, and of its difference from that of components, nats."""
    fit = fit_map(blend, scene, key=jax.random.key(0), max_iterations=400)
    values = {n: np.asarray(v) for n, v in fit.values.items()}
    found, widths = _basis.reduced_scene(scene, values, values["spectrum"], 1)
    exact, approximate = posterior(blend, scene), posterior(reduced_blend, found)
    assert approximate.sites() == exact.sites()
    flat, unravel = ravel_pytree(fit.params)
    width, _ = ravel_pytree({n: jnp.asarray(widths.get(n, np.full(2, 0.2))) for n in fit.params})
    rows = flat + width * jax.random.normal(jax.random.key(2), (40, len(flat)))
    ours, theirs = (
        np.asarray(jax.jit(jax.vmap(lambda q, b=b: b.log_density(unravel(q))))(rows), float)
        for b in (approximate, exact)
    )
    return theirs.std(), (ours - theirs).std()


def test_components_have_the_density_of_the_scene(simulate):
    scatter, difference = off(scene_of(simulate(3)["pixels"]))
    assert scatter > 1
    assert difference < 0.05


def test_draws_are_exact_with_bad_components(simulate, monkeypatch):
    """The second test pays for what components lack."""
    scene = scene_of(simulate(5)["pixels"])
    exact = run(scene, Reduced(), num_samples=240)
    monkeypatch.setattr(_basis, "NUM_COMPONENTS", 2)
    tree = run(scene, Reduced(), 1, num_samples=480)
    assert off(scene)[1] > 0.3
    refused = [np.mean(group(t, "sample_stats")["acceptance_rate"]) for t in (tree, exact)]
    assert refused[0] < 0.9 * refused[1]
    for name in ("flux", "profiles_log_radius", "profiles_offset", "stars_offset"):
        ours, theirs = (np.asarray(group(t, "posterior")[name], float) for t in (tree, exact))
        ours, theirs = (a.reshape(-1, *a.shape[2:]) for a in (ours, theirs))
        assert np.all(abs(ours.mean(0) - theirs.mean(0)) < 0.2 * theirs.std(0))
        np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.2)


def test_calibration_in_reduced_form(simulate):
    found = []
    for number in range(24):
        truth = simulate(100 + number)
        tree = run(scene_of(truth["pixels"]), Reduced(), number)
        row = []
        for name in ("flux", "profiles/log_radius", "profiles/offset", "stars/offset"):
            draws = np.asarray(group(tree, "posterior")[name.replace("/", "_")])
            row.append(ranks(thin(draws, 99), truth[name]).ravel())
        found.append(np.concatenate(row))
    rank = np.array(found)
    for level in (0.5, 0.9):
        # Quantities of one blend are not independent, so the limits are those of one of them.
        share = np.mean([coverage(column, 99, level)[0] for column in rank.T])
        _, low, high = coverage(rank[:, 0], 99, level)
        assert low <= share <= high
    assert min(uniformity(column, 99, bins=3) for column in rank.T) > 1e-3 / rank.shape[1]


def test_other_models_are_refused():
    def model(x):
        numpyro.sample("x", dist.Normal(x, 1.0))

    with pytest.raises(InputError, match="'reduced' samples scenes of `blend`"):
        sample(model, jnp.asarray(0.0), key=jax.random.key(0), algorithm=Reduced())
    scene = scene_of()
    profiled = Scene(scene.exposures, scene.sources, scene.spectra, "profiled")
    with pytest.raises(InputError, match="integrates spectra out"):
        sample(blend, profiled, key=jax.random.key(0), algorithm=Reduced())


def test_scenes_too_large_for_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(_model, "MOST_PIXELS", 2000)
    said = refusal(posterior(blend, scene_of()))
    assert "2 sources on 1200 pixels are too many; deblend a part of the image" in said


def test_sources_of_several_images_are_refused():
    scene = scene_of()
    galaxy, star = scene.sources
    moving = MovingStar(star.at, "stars", phase=[0.0], days=1.0)
    for sources, name in (((TwoColor(galaxy.at), star), "profiles"), ((galaxy, moving), "stars")):
        other = Scene(scene.exposures, sources, scene.spectra)
        said = refusal(posterior(blend, other))
        assert f"two colors or that move ({name})" in said
    assert refusal(posterior(blend, scene)) is None
    obs = small_observation(CENTERS, shape=(20, 20))
    tied = epoch_spectra(obs, scene.exposures, [False, True])
    said = refusal(posterior(blend, Scene(scene.exposures, scene.sources, tied)))
    assert "knows the prior `GalaxySpectra` alone, got EpochSpectra" in said


def test_a_resumed_run_goes_on(simulate, tmp_path):
    scene = scene_of(simulate(7)["pixels"])
    path = tmp_path / "run.npz"
    whole = run(scene, Reduced(), num_samples=60)
    calls = []

    def stop(done, total, text):
        calls.append(done)
        if done >= 120 and path.exists():
            raise KeyboardInterrupt

    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr("scorepriors.inference.sampling._sample.CHECKPOINT_INTERVAL", 0.0)
        with pytest.raises(KeyboardInterrupt):
            run(scene, Reduced(), num_samples=60, checkpoint=path, progress=stop)
    again = run(scene, Reduced(), num_samples=60, checkpoint=path)
    ours, theirs = (np.asarray(group(t, "posterior")["flux"]) for t in (again, whole))
    np.testing.assert_array_equal(ours, theirs)


def test_scenes_of_profiles_are_reduced_by_default():
    assert scenes.SCENE_ALGORITHMS["reduced"] is Reduced


def test_pixels_tell_the_coefficients_of_an_image(key):
    """Of images in the span of two components any well chosen pixels know the coefficients."""
    first, second = np.asarray(jax.random.normal(key, (2, 2, 2, 9, 9)), np.float32)
    wanted = np.asarray(jax.random.normal(jax.random.key(1), (2, 30, 2)), np.float32)
    changes = np.einsum("ktj,kjyx->ktyx", wanted, first)
    found, seen, project = _pixels.at_pixels(
        second[:, 0], changes, _pixels.Components(first, wanted)
    )
    assert found.shape == (2, _pixels.num_pixels(9), 2)
    assert all(len(np.unique(one, axis=0)) == len(one) for one in found)
    row = np.arange(2)[:, None]
    np.testing.assert_array_equal(seen, second[:, 0][row, found[..., 0], found[..., 1]])
    new = np.asarray([[2.0, -1.0], [0.5, 3.0]], np.float32)
    image = np.einsum("kj,kjyx->kyx", new, first)
    at = image[row, found[..., 0], found[..., 1]]
    np.testing.assert_allclose(np.einsum("kjp,kp->kj", project, at), new, atol=1e-4)
