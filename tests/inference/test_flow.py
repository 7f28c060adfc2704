"""Moves of the noise that a flow maps to galaxies: correct posteriors, and complete runs."""

import dataclasses
import json
import signal
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.table import Table
from conftest import gaussian_prior, small_observation

from scorepriors import InputError
from scorepriors.inference import (
    Flow,
    SamplingWarning,
    deblend,
    fit_map,
    posterior,
    sample,
    sample_deblended,
    write_samples,
)
from scorepriors.inference.deblending._draws import flux_catalog
from scorepriors.inference.deblending.flow._reference import WIDER, Reference, reference
from scorepriors.inference.deblending.flow._scene import scene_of
from scorepriors.inference.deblending.flow._start import about, curvature, of_all
from scorepriors.inference.sampling._calibration import coverage
from scorepriors.inference.sampling._tree import group, load_tree
from scorepriors.models import FreeForm, Scene, blend, place_sources, read_positions
from scorepriors.models.spectra._products import inner_products

CENTERS = np.array([[8.0, 9.0], [13.0, 12.0]])

#: Steps of the flow in which that of a Gaussian is exact; in eight its widths are off by percents.
MANY = 20


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        yield


@pytest.fixture(scope="module")
def bound():
    return posterior(blend, scene_at(CENTERS))


def scene_at(centers, treatment="marginal", **options):
    obs = small_observation(centers, shape=(20, 20), **options)
    galaxies = FreeForm(gaussian_prior(), place_sources(centers, box=8))
    return Scene.build(obs, galaxies=galaxies, treatment=treatment)


@pytest.fixture(scope="module")
def mode(bound):
    return fit_map(bound, key=jax.random.key(0))


def quantities(tree):
    """Numbers ``[C, n, 10]`` that say where a scene is: fluxes, light, width, a corner."""
    held = group(tree, "posterior")
    image, flux = np.asarray(held["galaxies_morphology"], float), np.asarray(held["flux"], float)
    light = image.sum((-2, -1))
    rows = (image * np.arange(8)[:, None]).sum((-2, -1)) / light
    parts = [flux.sum(-1), np.log(light), rows, image[..., 0, 0], held["brightness"]]
    return np.concatenate(parts, -1)


def deviations(ours, theirs):
    """Differences of means and spreads, in their Monte Carlo standard errors."""
    import arviz as az

    out = []
    for index in range(ours.shape[-1]):
        pair = []
        for draws in (ours[..., index], theirs[..., index]):
            center = draws.mean()
            pair.append((center, float(az.mcse(draws))))
            far = np.abs(draws - center)
            pair.append((far.mean(), float(az.mcse(far))))
        for a, b in ((0, 2), (1, 3)):
            out.append((pair[a][0] - pair[b][0]) / np.hypot(pair[a][1], pair[b][1]))
    return np.abs(out)


@pytest.fixture(scope="module")
def hamiltonian(bound, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        tree = sample(
            bound,
            key=jax.random.key(3),
            algorithm="hmc",
            init=mode,
            num_warmup=300,
            num_samples=600,
        )
    return quantities(tree)


def draw(bound, mode, **options):
    options = {"num_warmup": 300, "num_samples": 1000, **options}
    sampler = Flow(thinning=options.pop("thinning", 2))
    return sample(bound, init=mode, algorithm=sampler, key=jax.random.key(1), **options)


def test_same_posterior_as_hamiltonian_chains(bound, mode, hamiltonian):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scorepriors.inference.deblending.flow._scene.NUM_STEPS", MANY)
        tree = draw(bound, mode)
    assert deviations(quantities(tree), hamiltonian).max() < 4
    assert tree.attrs["algorithm"] == "flow"
    assert "lp" in group(tree, "sample_stats")
    jax.clear_caches()


@pytest.mark.parametrize("together", [False, True])
def test_curvature_against_dense_algebra(bound, mode, together):
    scene = scene_of(bound)
    images = {"galaxies": jnp.asarray(mode.values["galaxies/morphology"])}
    brightness = jnp.asarray(mode.values["brightness"])
    chains = about(scene, images, jnp.zeros((0, 2)), brightness, 1)
    chain = jax.tree.map(lambda a: a[0], chains)
    noise = chain.noise["galaxies"]
    solved = scene.spectra(chain.brightness, chain.drawn, chain.area)

    def model(flat):
        z = scene.galaxies({"galaxies": flat.reshape(noise.shape)})
        (drawn,), _ = scene.render(z, chain.offset)
        return jnp.einsum("kb,kbyx->byx", solved.mean, drawn).ravel()

    slope = np.asarray(jax.jacobian(model)(noise.ravel()), float)
    weights = np.asarray(scene.noises[0].weights, float).ravel()
    drawn, covariance = np.asarray(chain.drawn[0], float), np.asarray(solved.covariance(), float)
    by_spectrum = np.einsum("kbyx,bc->byxkc", drawn, np.eye(drawn.shape[1]))
    by_spectrum = by_spectrum.reshape(len(weights), -1)
    weighed = weights[:, None] * by_spectrum
    size = weighed.shape[1]
    inner = np.diag(weights) - weighed @ covariance.reshape(size, size) @ weighed.T
    expected = slope.T @ inner @ slope
    v = jax.random.normal(jax.random.key(0), (noise.size,))
    if together:
        found = curvature(scene, chain, None)(v[None])[0]
    else:
        # Each galaxy by itself: the blocks on the diagonal.
        found = curvature(scene, chain, "galaxies")(v.reshape(len(noise), -1)).ravel()
        half = noise[0].size
        expected[:half, half:] = expected[half:, :half] = 0
    expected = expected @ np.asarray(v, float)
    assert np.linalg.norm(np.asarray(found, float) - expected) < 1e-3 * np.linalg.norm(expected)


def test_reference_of_all_galaxies_is_that_of_the_dense_curvature(bound, mode):
    scene = scene_of(bound)
    chains = about(scene, *scene.place_of(mode.values), 1)
    chain = jax.tree.map(lambda a: a[0], chains)
    noise = chain.noise["galaxies"]
    each = {
        "galaxies": reference(
            eqx.Partial(curvature, scene, chain, "galaxies"), noise, 6, jax.random.key(0)
        )
    }
    near = of_all(scene, chain, each)
    assert near.basis.shape == (1, 12, 128)
    product = curvature(scene, chain, None)
    rows = np.asarray(near.basis[0])
    dense = np.stack([np.asarray(product(v[None])[0]) for v in near.basis[0]]) @ rows.T
    expected = np.diag(dense) / WIDER**2
    kept = np.where(expected > 1, expected, 0)
    np.testing.assert_allclose(near.precision[0], kept, rtol=2e-2, atol=1e-3)
    assert np.abs(dense - np.diag(np.diag(dense))).max() < 1e-3 * dense.max()


def test_expected_brightness_is_that_of_the_pixels_and_depends_on_shapes_alone(bound, mode):
    scene = scene_of(bound)
    place = scene.place_of(mode.values)
    chain = jax.tree.map(lambda a: a[0], about(scene, *place, 1))
    images = [one.images for one in scene.scene.exposures]
    found = []
    mean = scene.spectra(chain.brightness, chain.drawn, chain.area).mean
    for start in (jnp.zeros_like(mean), mean):
        left = [
            image - jnp.einsum("kb,kbyx->byx", start, drawn)
            for image, drawn in zip(images, chain.drawn, strict=True)
        ]
        products = inner_products(chain.drawn, left, scene.noises)
        found.append(scene.expected_brightness(place.brightness, products, chain.area, start))
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    # Bright sources: the prior has no share.
    weights = np.asarray(scene.noises[0].weights, float)
    drawn, data = np.asarray(chain.drawn[0], float), np.asarray(images[0], float)
    flux = np.zeros(2)
    for b in range(len(data)):
        matrix = np.einsum("kyx,lyx,yx->kl", drawn[:, b], drawn[:, b], weights[b])
        right = np.einsum("kyx,yx,yx->k", drawn[:, b], data[b], weights[b])
        flux += np.linalg.solve(matrix, right) * np.asarray(chain.area)
    np.testing.assert_allclose(found[1], np.log(flux), atol=0.05)


def test_two_groups_of_galaxies_under_one_prior_are_one_group(bound, mode, hamiltonian):
    (whole,), _ = bound.arguments
    first, second = (place_sources(center[None], box=8) for center in CENTERS)
    prior = whole["galaxies"].prior
    groups = FreeForm(prior, first), FreeForm(prior, second, "large", ("large_y", "large_x"))
    split = posterior(blend, Scene(whole.exposures, groups, whole.spectra))

    def apart(values):
        image = values["galaxies/morphology"]
        rest = {n: v for n, v in values.items() if n != "galaxies/morphology"}
        return {"galaxies/morphology": image[:1], "large/morphology": image[1:], **rest}

    assert split.potential_fn(apart(mode.params)) == pytest.approx(float(mode.potential), rel=1e-5)
    there = dataclasses.replace(mode, values=apart(mode.values), params=apart(mode.params))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scorepriors.inference.deblending.flow._scene.NUM_STEPS", MANY)
        tree = draw(split, there)
    held = group(tree, "posterior")
    images = np.concatenate([held["galaxies_morphology"], held["large_morphology"]], 2)
    rest = {n: held[n] for n in ("flux", "brightness")}
    found = quantities({"posterior": rest | {"galaxies_morphology": images}})
    assert deviations(found, hamiltonian).max() < 4
    jax.clear_caches()


def test_moves_that_change_the_noise_are_seen(bound, mode, hamiltonian):
    """Half the shrinking leaves the noise with twice its variance."""

    def grown(self, noise, fresh, step):
        step = step.reshape(-1, *[1] * (noise.ndim - 1))
        return jnp.sqrt(1 - step**2 / 2) * noise + step * fresh

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scorepriors.inference.deblending.flow._scene.NUM_STEPS", MANY)
        patch.setattr(Reference, "move", grown)
        jax.clear_caches()
        tree = draw(bound, mode, num_samples=1600)
    assert deviations(quantities(tree), hamiltonian).max() > 8
    jax.clear_caches()


def test_moves_about_the_mode_are_paid_for(bound, mode, hamiltonian):
    """Taking them by the likelihood alone counts the data twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scorepriors.inference.deblending.flow._scene.NUM_STEPS", MANY)
        patch.setattr(Reference, "excess", lambda self, noise: jnp.zeros(len(noise)))
        jax.clear_caches()
        tree = draw(bound, mode, num_samples=400)
    assert deviations(quantities(tree), hamiltonian).max() > 8
    jax.clear_caches()


def test_calibration_in_reduced_form(calibrate):
    empty = calibrate.scene()
    few = {"num_warmup": 100, "num_samples": 600, "num_chains": 4, "algorithm": "flow"}
    found = np.array([calibrate.rank_one(i, empty, **few) for i in range(12)])
    report = calibrate.summary(found)
    assert report["smallest_p"] > report["smallest_p_allowed"]
    for level in (0.5, 0.68, 0.9):
        share, low, high = coverage(found.ravel(), calibrate.DRAWS, level)
        assert low < share < high


def test_interrupted_run_goes_on_to_the_same_draws(bound, mode, tmp_path):
    options = {"num_warmup": 20, "num_samples": 30, "thinning": 1, "num_chains": 4}
    whole = draw(bound, mode, **options)
    path = tmp_path / "run.npz"

    def stop(done, total, text):
        # Bites after the checkpoint of this block, at the next one.
        if done == 30 and text.startswith("draws"):
            signal.raise_signal(signal.SIGINT)

    part = draw(bound, mode, **options, progress=stop, checkpoint=path)
    assert part.attrs["interrupted"] == 1
    again = draw(bound, mode, **options, checkpoint=path)
    assert again.attrs["start"] == whole.attrs["start"]
    for name in ("galaxies_morphology", "flux", "brightness"):
        np.testing.assert_array_equal(
            group(again, "posterior")[name], group(whole, "posterior")[name]
        )
    with pytest.raises(InputError, match="another model"):
        draw(bound, mode, **{**options, "num_samples": 40}, checkpoint=path)


def test_scene_with_a_star_in_the_order_of_the_catalog(tmp_path):
    obs = small_observation(CENTERS, shape=(24, 24))
    table = Table(
        {"id": ["s", "g"], "x": CENTERS[:, 1], "y": CENTERS[:, 0], "is_star": [True, False]}
    )
    where = read_positions(table, obs)
    assert list(where.is_point) == [True, False]
    result = deblend(obs, where, prior=gaussian_prior(), padding=1)
    tree = sample_deblended(
        result,
        key=jax.random.key(0),
        models="given",
        algorithm="flow",
        num_warmup=20,
        num_samples=20,
        num_chains=4,
    )
    held = group(tree, "posterior")
    assert list(held["flux"]["source"].values) == ["s", "g"]
    assert list(held["stars_offset"]["stars_source"].values) == ["s"]
    assert np.ptp(np.asarray(held["stars_offset"])) > 0
    assert list(flux_catalog(tree)["id"]) == ["s", "g"]
    paths = {path.name: path for path in write_samples(result, tree, tmp_path / "out")}
    assert np.shape(json.loads(load_tree(paths["posterior.nc"]).attrs["source_steps"])) == (3, 2)
    assert "E-BFMI" not in paths["diagnostics.txt"].read_text()
    assert "Energy over" not in paths["report.html"].read_text()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"spectra": "sampled"}, "integrates spectra out"),
        ({"model": lambda scene: blend(scene)}, "use 'nuts'"),
        ({"num_samples": 2}, "`num_samples` must be at least 4"),
        ({"init": "uniform"}, "begins at a mode"),
    ],
)
def test_what_it_cannot_sample_is_one_sentence(bound, mode, change, match):
    scene = scene_at(CENTERS, change.get("spectra", "marginal"))
    other = posterior(change.get("model", blend), scene)
    options = {n: v for n, v in change.items() if n.startswith(("num", "init"))}
    with pytest.raises(InputError, match=match):
        sample(other, algorithm=Flow(), key=jax.random.key(0), **{"init": mode, **options})


def test_bad_settings():
    with pytest.raises(InputError, match="between 0 and 1"):
        Flow(target_acceptance_rate=1.5)


def test_another_blend_of_the_shape_compiles_nothing(bound, mode):
    few = {"num_warmup": 20, "num_samples": 10, "thinning": 1, "num_chains": 4}
    draw(bound, mode, **few)
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    other = posterior(blend, scene_at(CENTERS[::-1] + 0.2, seed=5))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        draw(other, mode, **few)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled
