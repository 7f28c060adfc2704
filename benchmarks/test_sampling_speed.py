"""Effective draws per second and per gradient, against NumPyro and against less.

    pytest benchmarks/test_sampling_speed.py --benchmark-enable -s

All on one blend: two bright galaxies in three bands under `lsst-32`, spectra marginalized
unless said otherwise, four chains; the effective draws are those of the worst of the sites
that fluxes hang on, brightness and the sum of a morphology.  (Not of the fluxes: in ours
exact spectra are drawn afterwards, which adds noise without memory.)  Ours finds the mode
and its curvature first, which counts; NumPyro's chains run side by side too, and are given
the mode.  Ours run once to compile and once for the clock.  NumPyro's run once, compilation
included, which is seconds of its many minutes.
"""

import time
import warnings

import jax
import numpy as np
import pytest

from scorepriors import load_prior
from scorepriors.inference import NUTS as OurNUTS
from scorepriors.inference import SamplingWarning, fit_map, sample
from scorepriors.inference.sampling._tree import effective_sizes, group
from scorepriors.models import FreeForm, Scene, blend, exposures, place_sources
from scorepriors.models.data._observation import Observation
from scorepriors.models.rendering._psf import gaussian_psf

CENTERS = np.array([[17.0, 18.0], [23.0, 22.0]])
SETTINGS = {"num_warmup": 200, "num_samples": 200, "num_chains": 4}

#: Trajectories of NumPyro's that double more often would take hours.
MOST_DOUBLINGS = 8

#: What is left out, and how.
CASES = {
    "nuts": {"algorithm": "nuts"},
    "dynamic_hmc": {"algorithm": "dynamic_hmc"},
    "no curvature": {"algorithm": OurNUTS(preconditioner="warmup")},
    "no refinement": {"algorithm": OurNUTS(preconditioner="curvature")},
    "sampled spectra": {"algorithm": "nuts", "spectra": "sampled"},
}


@pytest.fixture(scope="session")
def scene():
    """A blend drawn from the prior itself, with a signal to noise of about 200 and 100.

    Bright: where data say little, chains of this length measure nothing.
    """
    prior = load_prior("lsst-32")
    sources = place_sources(CENTERS, box=32)
    images = np.zeros((3, 40, 40))
    psfs = np.stack([gaussian_psf(1.3 + 0.15 * b, 15) for b in range(3)])
    obs = Observation.from_arrays(images, variance=np.ones_like(images), psfs=psfs)
    (data,) = exposures(obs)
    morphology = prior.sample(jax.random.key(4), (2,))
    share = np.array([[0.3, 0.33, 0.37], [0.4, 0.33, 0.27]]) * [[3000.0], [1500.0]]
    spectrum = share / np.asarray(morphology.sum((-2, -1)))[:, None]
    images = np.asarray(data.model(spectrum, morphology, sources.corner))
    images = images + np.random.default_rng(0).normal(size=images.shape)
    obs = Observation.from_arrays(images, variance=np.ones_like(images), psfs=psfs)
    return Scene.build(obs, galaxies=FreeForm(prior, sources))


def worst(morphology, brightness) -> float:
    """Fewest effective draws, of morphologies ``[chain, draw, K, n, n]`` and so on."""
    import xarray

    light = np.asarray(morphology).sum((-2, -1))
    values = {"light": light, "brightness": np.asarray(brightness)}
    made = xarray.Dataset({n: (("chain", "draw", "source"), v) for n, v in values.items()})
    return min(float(v.min()) for v in effective_sizes(made).values())


def ours(scene, key, *, spectra="marginal", **options):
    """Effective draws and gradients of one run of `sample`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        treated = Scene(scene.exposures, scene.sources, scene.spectra, spectra)
        tree = sample(blend, treated, key=key, **SETTINGS, **options)
    held = group(tree, "posterior")
    return worst(held["galaxies_morphology"], held["brightness"]), tree.attrs["gradients"]


def theirs(scene, mcmc, key):
    """The same of NumPyro's NUTS, whose warm-up counts too."""
    fields = ("num_steps",)
    mcmc.warmup(key, scene, extra_fields=fields, collect_warmup=True)
    tuning = int(np.sum(mcmc.get_extra_fields()["num_steps"]))
    mcmc.run(key, scene, extra_fields=fields)
    held = mcmc.get_samples(group_by_chain=True)
    effective = worst(held["galaxies/morphology"], held["brightness"])
    return effective, tuning + int(np.sum(mcmc.get_extra_fields()["num_steps"]))


def record(benchmark, run):
    """Time a run, and note the ratios."""
    found, times = [], []

    def timed():
        started = time.perf_counter()
        found.append(run())
        times.append(time.perf_counter() - started)

    benchmark.pedantic(timed, rounds=1)
    effective, gradients = found[-1]
    about = {
        "min_ess": effective,
        "ess_per_second": effective / times[-1],
        "ess_per_1000_gradients": 1000 * effective / gradients,
    }
    benchmark.extra_info.update(about)
    print("  ".join(f"{name} {value:.3g}" for name, value in about.items()))


@pytest.mark.parametrize("case", CASES)
def test_sample(benchmark, scene, case):
    ours(scene, jax.random.key(0), **CASES[case])
    record(benchmark, lambda: ours(scene, jax.random.key(1), **CASES[case]))


def test_numpyro_nuts(benchmark, scene):
    from numpyro.infer import MCMC, NUTS, init_to_value

    mode = fit_map(blend, scene, key=jax.random.key(2), tolerance=1.0, max_iterations=1000)
    values = {name: mode.values[name] for name in ("galaxies/morphology", "brightness")}
    kernel = NUTS(blend, init_strategy=init_to_value(values=values), max_tree_depth=MOST_DOUBLINGS)
    mcmc = MCMC(kernel, chain_method="vectorized", progress_bar=False, **SETTINGS)
    # A raw key: NumPyro tells one from several by its shape.
    record(benchmark, lambda: theirs(scene, mcmc, jax.random.PRNGKey(1)))
