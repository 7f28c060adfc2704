"""Simulation-based calibration of `sample` on blends, batch by batch and resumable.

    python benchmarks/calibration/calibrate.py --number 200 --output calibration.npz

Blends of two sources in three bands are drawn from the model's own prior and sampled;
ranks of fluxes, centroids and random projections of the images are tested for
uniformity and drawn.  Fluxes and colors come from `flux_prior`, PSFs differ between the
bands, noise is one.  Spectra are marginalized in the fit and were drawn in the
simulation.  The prior of the images is either one whose density is known in closed form,
so that truths are exact draws of it (boxes of 8 pixels), or a learned one, with truths
from `truths.py`:

    scorepriors train benchmarks/calibration/lsst-12.toml --output RUN
    python benchmarks/calibration/truths.py RUN/lsst-12.safetensors truths.npz --sigma 0.3
    python benchmarks/calibration/calibrate.py --prior RUN/lsst-12.safetensors --sigma 0.3 \\
        --truths truths.npz --output learned.npz

The algorithm ``flow`` samples what the prior's own `sample` draws, so there any prior will do:

    python benchmarks/calibration/calibrate.py --algorithm flow --prior lsst-32 --output flow.npz
"""

import argparse
import json
import time
import warnings
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from numpyro import handlers

from scorepriors import LogStretch, ScorePrior, load_prior
from scorepriors._files import atomic_path
from scorepriors.energies._gaussian import GaussianEnergy
from scorepriors.inference import SamplingWarning, fit_map, posterior, sample
from scorepriors.inference._posterior import without_data
from scorepriors.inference.deblending._sampling import SCENE_ALGORITHMS
from scorepriors.inference.deblending.flow import NUM_STEPS
from scorepriors.inference.sampling._calibration import coverage, ranks, thin, uniformity
from scorepriors.inference.sampling._rhat import rank_rhat
from scorepriors.inference.sampling._tree import group
from scorepriors.models import FreeForm, Observation, Scene, blend, gaussian_psf, place_sources

BANDS, DRAWS = 3, 99
NAMES = ("flux", "light", "row centroid", "projection 1", "projection 2", "projection 3")

#: Mean (above the log of the noise) and width of the prior on brightness, and widths
#: of colors: as `blend` has them, and for sources that a survey would list, with
#: a signal to noise of about 50 and more.  Where data say nothing a sampler must cross the
#: whole of a learned prior, thousands of transitions for each blend.
WIDE, DETECTED = (4.0, 4.0, 1.0), (7.0, 0.7, 1 / 3)


def with_brightness(value: Scene, brightness) -> Scene:
    """A scene with ``brightness``, as `WIDE`, in the place of its own."""
    fields = ("brightness", "brightness_width", "color_width")
    return eqx.tree_at(
        lambda s: [getattr(s.spectra, name) for name in fields],
        value,
        [np.float32(number) for number in brightness],
    )


def with_treatment(value: Scene, treatment: str) -> Scene:
    """A scene whose spectra are integrated out, maximized or sampled."""
    return Scene(value.exposures, value.sources, value.spectra, treatment)


def with_prior(value: Scene, prior: ScorePrior) -> Scene:
    """A scene of galaxies under another prior."""
    (galaxies,) = value.sources
    return Scene(value.exposures, (FreeForm(prior, galaxies.at),), value.spectra, value.treatment)


def closed_form(box: int = 8) -> ScorePrior:
    """An image prior whose every property is known."""
    row = np.arange(box) - (box - 1) / 2
    blob = np.exp(-(row[:, None] ** 2 + row**2) / 8)
    mean = jnp.asarray(np.log1p(blob / 0.05) / 0.44, jnp.float32)
    return ScorePrior(GaussianEnergy(mean, jnp.asarray(0.2)), LogStretch(), 0.3, sigma_max=5.0)


def scene(prior: ScorePrior | None = None) -> Scene:
    """An empty image and two overlapping sources under a prior."""
    prior = closed_form() if prior is None else prior
    box = prior.event_shape[-1]
    centers = np.array([[box, box + 1.0], [box + 5.0, box + 4.0]])
    images = np.zeros((BANDS, 2 * box + 4, 2 * box + 4))
    psfs = np.stack([gaussian_psf(1.3 + 0.15 * b, 15) for b in range(BANDS)])
    obs = Observation.from_arrays(images, variance=np.ones_like(images), psfs=psfs)
    return Scene.build(obs, galaxies=FreeForm(prior, place_sources(centers, box=box)))


class ForgottenJacobian(LogStretch):
    """A stretch without its Jacobian: a control."""

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """Zero, which is wrong."""
        return jnp.zeros(jnp.shape(x))


def without_jacobian(prior: ScorePrior) -> ScorePrior:
    """The same energy, treated as if it were that of the images themselves."""
    return ScorePrior(prior.energy, ForgottenJacobian(), float(prior.sigma), sigma_max=5.0)


def exact_draw(prior: ScorePrior, key):
    """Morphologies ``[2, n, n]`` from the prior in closed form."""
    width = jnp.sqrt(prior.energy.variance + prior.sigma**2)
    noise = jax.random.normal(key, (2, *prior.event_shape))
    return prior.stretch(prior.energy.mean + width * noise)


@eqx.filter_jit
def simulate(empty: Scene, morphology, key):
    """Pixels and fluxes of a blend of these images, drawn from the model."""
    free = without_data(partial(blend, with_treatment(empty, "sampled")), ("pixels",))
    known = handlers.substitute(free, data={"galaxies/morphology": morphology})
    trace = handlers.trace(handlers.seed(known, key)).get_trace()
    return trace["pixels"]["value"], trace["flux"]["value"]


def quantities(morphology, flux):
    """The ranked numbers ``[..., K, 6]`` of morphologies and fluxes."""
    shape = morphology.shape[-2:]
    directions = np.random.default_rng(0).normal(size=(3, *shape))
    light = morphology.sum((-2, -1))
    rows = (morphology * np.indices(shape)[0]).sum((-2, -1)) / light
    projections = [(morphology * d).sum((-2, -1)) for d in directions]
    return np.stack([flux.sum(-1), light, rows, *projections], -1)


def fit_one(
    index,
    empty,
    *,
    truths=None,
    brightness=WIDE,
    fitted=None,
    fitted_brightness=None,
    spectra="marginal",
    algorithm="hmc",
    thinning=1,
    **options,
):
    """Draws ``[C, n, K, 6]`` of the quantities of one blend, and their truth ``[K, 6]``.

    Parameters
    ----------
    index
        Of the blend: all that is random follows from it.
    empty
        From `scene`.
    truths
        Images ``[N, n, n]`` drawn from the prior, two for each blend.
    brightness
        Prior on brightness and colors, as `WIDE`.
    fitted, fitted_brightness
        Priors to fit with instead: controls.
    spectra, algorithm, thinning, **options
        Of `blend`, of the sampler and of `sample`.
    """
    first, second = jax.random.split(jax.random.key(index))
    prior = empty["galaxies"].prior
    if truths is not None:
        morphology = jnp.asarray(truths[2 * index : 2 * index + 2])
    elif isinstance(prior.energy, GaussianEnergy):
        morphology = exact_draw(prior, first)
    else:
        morphology = prior.sample(first, (2,), num_steps=NUM_STEPS)
    images, flux = simulate(with_brightness(empty, brightness), morphology, second)
    mine = eqx.tree_at(lambda s: s.exposures[0].images, empty, images)
    mine = with_brightness(mine, fitted_brightness or brightness)
    mine = with_treatment(mine if fitted is None else with_prior(mine, fitted), spectra)
    key = jax.random.fold_in(jax.random.key(1), index)
    options = {"num_warmup": 200, "num_samples": 250, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        sampler = SCENE_ALGORITHMS[algorithm](thinning=thinning)
        bound = posterior(blend, mine)
        if algorithm == "flow":
            options["init"] = fit_map(bound, key=key, max_iterations=200, tolerance=0.5)
        tree = sample(bound, key=key, algorithm=sampler, **options)
    held = group(tree, "posterior")
    drawn = quantities(np.asarray(held["galaxies_morphology"]), np.asarray(held["flux"]))
    truth = quantities(np.asarray(morphology), np.asarray(flux))
    return drawn, truth


def rank_one(index, empty, **options):
    """Ranks ``[K, 6]`` of one blend's truth; see `fit_one`."""
    drawn, truth = fit_one(index, empty, **options)
    return ranks(thin(drawn, DRAWS), truth)


def summary(found) -> dict:
    """p-values of uniformity and coverages of ranks ``[m, K, 6]``."""
    columns = found.reshape(len(found), -1).T
    values = [uniformity(c, DRAWS, bins=10 if len(found) >= 100 else 5) for c in columns]
    return {
        "blends": len(found),
        "smallest_p": min(values),
        "smallest_p_allowed": 0.01 / len(values),
        "coverage": {
            name: {
                str(level): coverage(found[..., i].ravel(), DRAWS, level)
                for level in (0.5, 0.68, 0.9)
            }
            for i, name in enumerate(NAMES)
        },
    }


def figure(found, path):
    """Rank histograms with the band in which uniform ones lie."""
    axes = plt.subplots(1, len(NAMES), figsize=(14, 2.6), sharey=True, layout="constrained")[1]
    bins = 10
    for i, (axis, name) in enumerate(zip(axes, NAMES, strict=True)):
        values = found[..., i].ravel()
        expected = len(values) / bins
        spread = 2.58 * np.sqrt(expected * (1 - 1 / bins))
        axis.axhspan(expected - spread, expected + spread, color="0.88")
        axis.hist(values, np.linspace(0, DRAWS + 1, bins + 1), color="#0072b2", rwidth=0.9)
        axis.set(title=name, xlabel="rank of the truth")
    axes[0].set_ylabel("blends x sources")
    plt.savefig(path, dpi=110)


def parse():
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description="Simulation-based calibration of `sample`.")
    parser.add_argument("--number", type=int, default=200, help="Blends.")
    parser.add_argument("--prior", help="Weights of a learned prior; without, the closed form.")
    parser.add_argument("--sigma", type=float, help="Its noise level; the recipe's by default.")
    parser.add_argument("--truths", type=Path, help="Draws of it, from truths.py.")
    parser.add_argument("--warmup", type=int, default=200, help="Draws to tune with.")
    parser.add_argument("--samples", type=int, default=250, help="Draws kept per chain.")
    parser.add_argument("--thinning", type=int, default=1, help="Transitions per draw.")
    parser.add_argument("--algorithm", default="hmc")
    parser.add_argument("--spectra", default="marginal", help="profiled is a control that fails.")
    parser.add_argument(
        "--forget-jacobian", action="store_true", help="Of the stretch: a control that fails."
    )
    parser.add_argument(
        "--wrong-flux",
        action="store_true",
        help="Fit with fluxes a width too high, they and colors an eighth as wide: a control "
        "that fails.",
    )
    parser.add_argument("--output", type=Path, default=Path("calibration.npz"))
    given = parser.parse_args()
    if given.algorithm == "flow":
        if given.truths or given.wrong_flux or given.forget_jacobian:
            parser.error("--algorithm flow draws its own truths, and has no controls here")
    elif bool(given.prior) != bool(given.truths):
        parser.error("--prior and --truths go together")
    return given


def main():
    """Run what is missing, and report."""
    given = parse()
    found, mixed = [], []
    if given.output.exists():
        with np.load(given.output) as stored:
            found, mixed = list(stored["ranks"]), list(stored["rhat"])
    empty = scene(load_prior(given.prior, sigma=given.sigma) if given.prior else None)
    options = {
        "spectra": given.spectra,
        "num_warmup": given.warmup,
        "num_samples": given.samples,
        "thinning": given.thinning,
        "algorithm": given.algorithm,
        "brightness": DETECTED if given.truths else WIDE,
    }
    if given.truths:
        with np.load(given.truths) as stored:
            options["truths"] = stored["images"]
        if len(options["truths"]) < 2 * given.number:
            raise SystemExit(f"{given.number} blends need {2 * given.number} truths")
    if given.forget_jacobian:
        options["fitted"] = without_jacobian(empty["galaxies"].prior)
    if given.wrong_flux:
        mean, width, colors = options["brightness"]
        # Narrow as well: a wide prior a width off hardly moves sources that data show.
        options["fitted_brightness"] = (mean + width, width / 8, colors / 8)
    started = time.monotonic()
    while len(found) < given.number:
        drawn, truth = fit_one(len(found), empty, **options)
        found.append(ranks(thin(drawn, DRAWS), truth))
        mixed.append(rank_rhat(drawn).max())
        if len(found) % 5 == 0 or len(found) == given.number:
            with atomic_path(given.output) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, ranks=np.array(found), rhat=np.array(mixed))
            print(f"{len(found)} blends, {time.monotonic() - started:.0f} s", flush=True)
    report = summary(np.array(found))
    report["largest R-hat of a blend, median and 90 %"] = np.percentile(mixed, [50, 90]).tolist()
    print(json.dumps(report, indent=1))
    figure(np.array(found), given.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
