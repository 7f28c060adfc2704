"""What bad starts, bad data and bad catalogs do to a deblending, against truth.

    scorepriors simulate --num-blends 30 --seed 21 --output set.npz
    python benchmarks/robustness.py set.npz --json robustness.json

Every blend is spoilt in one way at a time and deblended; figures are those of
`scorepriors evaluate` on the true sources.  ``collapsed`` counts sources that end with less
than a fifth of their light, ``unflagged`` those of them that the catalog flags with no more
than ``edge``; ``not finite`` counts fluxes that are no numbers (there must be none).
"""

import argparse
import dataclasses
import json

import jax
import numpy as np
from astropy.table import Table
from scipy.ndimage import affine_transform

from scorepriors._zoo import priors_for
from scorepriors.inference import catalog, deblend_many
from scorepriors.inference.deblending._priors import load_priors
from scorepriors.inference.evaluation._metrics import source_metrics, summarize
from scorepriors.models import read_positions
from scorepriors.models.simulation._blend_sets import BlendSet

#: Position errors that go with the catalog: true centers, or those a user would assume.
EXACT, USUAL = 0.05, 0.3


@dataclasses.dataclass
class Task:
    """One blend as the fit gets it; `true` says which fitted sources are real."""

    obs: object
    center: np.ndarray
    true: np.ndarray


def hot_pixels(task, rng):
    """Twenty pixels per band, 50 to 500 sigma high, that nobody has masked."""
    images = np.array(task.obs.images)
    for image, weights in zip(images, task.obs.weights, strict=True):
        where = rng.choice(image.size, 20, replace=False)
        height = rng.uniform(50, 500, 20) / np.sqrt(np.median(weights))
        image.reshape(-1)[where] += height
    return dataclasses.replace(task, obs=dataclasses.replace(task.obs, images=images))


def masked_hot_pixels(task, rng):
    """The same pixels, masked."""
    spoilt = hot_pixels(task, rng).obs
    weights = np.where(spoilt.images == task.obs.images, task.obs.weights, 0)
    return dataclasses.replace(task, obs=dataclasses.replace(task.obs, weights=weights))


def missing_band(task, rng):
    """One band, drawn at random, without a single pixel."""
    weights = np.array(task.obs.weights)
    weights[rng.integers(len(weights))] = 0
    return dataclasses.replace(task, obs=dataclasses.replace(task.obs, weights=weights))


def masked_third(task, rng):
    """30 % of the pixels masked, other ones in each band."""
    weights = np.where(rng.uniform(size=task.obs.weights.shape) < 0.3, 0, task.obs.weights)
    return dataclasses.replace(task, obs=dataclasses.replace(task.obs, weights=weights))


def wider_psf(task, rng):
    """PSFs that the fit is told to be 5 % wider than they are."""
    del rng
    size = task.obs.psfs.shape[-1]
    middle = (size - 1) / 2
    wide = np.stack(
        [affine_transform(psf, np.eye(2) / 1.05, middle - middle / 1.05) for psf in task.obs.psfs]
    )
    wide = np.maximum(wide, 0)
    wide /= wide.sum((1, 2), keepdims=True)
    return dataclasses.replace(task, obs=dataclasses.replace(task.obs, psfs=wide))


def moved_catalog(task, rng):
    """Every position off by a pixel, in a direction of its own."""
    angle = rng.uniform(0, 2 * np.pi, len(task.center))
    step = np.stack([np.sin(angle), np.cos(angle)], 1)
    return dataclasses.replace(task, center=task.center + step)


def missing_source(task, rng):
    """One source, drawn at random, that the catalog has not."""
    gone = rng.integers(len(task.center))
    keep = np.arange(len(task.center)) != gone
    return dataclasses.replace(task, center=task.center[keep], true=np.flatnonzero(keep))


def spurious_source(task, rng):
    """One position more, at least 6 px from the others, where nothing is."""
    height, width = task.obs.shape
    while True:
        place = rng.uniform(8, [height - 9, width - 9])
        if (np.linalg.norm(task.center - place, axis=1) > 6).all():
            return dataclasses.replace(task, center=np.concatenate([task.center, place[None]]))


#: What is done to a blend, where the fit starts, and the position error it is told.
CASES = {
    "nothing": (None, "profiles", EXACT),
    "spectra x 20": (None, "sed20", EXACT),
    "flat spectra": (None, "flat", EXACT),
    "Gaussian shapes": (None, "gaussian", EXACT),
    "usual position error": (None, "profiles", USUAL),
    "hot pixels": (hot_pixels, "profiles", EXACT),
    "hot pixels, masked": (masked_hot_pixels, "profiles", EXACT),
    "a band missing": (missing_band, "profiles", EXACT),
    "30 % masked": (masked_third, "profiles", EXACT),
    "PSF 5 % too wide": (wider_psf, "profiles", EXACT),
    "catalog off by 1 px": (moved_catalog, "profiles", USUAL),
    "a source missing": (missing_source, "profiles", EXACT),
    "a source too many": (spurious_source, "profiles", EXACT),
}


def run(blends: BlendSet, number: int, case: str, prior) -> dict:
    """Figures of one case."""
    spoil, start, error = CASES[case]
    tasks, truths = [], [blends.truth(i) for i in range(number)]
    for index, truth in enumerate(truths):
        center = truth.center
        task = Task(blends.observation(index), center, np.arange(len(center)))
        rng = np.random.default_rng((index, len(case)))
        tasks.append(task if spoil is None else spoil(task, rng))
    where = [
        read_positions(Table({"x": t.center[:, 1], "y": t.center[:, 0]}), t.obs) for t in tasks
    ]
    results = deblend_many(
        [t.obs for t in tasks],
        where,
        prior=prior,
        center_error=error,
        start=start,
        key=jax.random.key(0),
        padding=4 * -(-(blends.max_sources + 1) // 4),
    )
    rows, chi2, not_finite, collapsed, unflagged, flagged, extra = [], [], 0, 0, 0, 0, []
    for task, truth, result in zip(tasks, truths, results, strict=True):
        scene, words = result.free_form, list(catalog(result)["flags"])
        not_finite += int((~np.isfinite(scene.flux)).sum())
        real = np.arange(len(task.true))
        metrics = source_metrics(
            scene.convolved[0][real], truth.convolved[task.true], truth.flux[task.true]
        )
        telling = [set(w.split(",")) - {"ok", "edge"} for w in words]
        for k, true in enumerate(task.true):
            lost = metrics["e_F"][k] < -0.8
            collapsed += lost
            unflagged += lost and not telling[k]
            flagged += bool(telling[k])
            rows.append(
                {"beta": truth.blendedness[true], "covered": None}
                | {n: metrics[n][k] for n in ("e_F", "xi_morphology", "xi_sed")}
            )
        noise = 1 / np.sqrt(np.sum(1 / np.maximum(scene.flux_error**2, 1e-30), axis=1))
        extra += [abs(scene.flux[k].sum()) / noise[k] for k in range(len(real), len(words))]
        chi2.append(scene.chi2)
    figures = summarize(rows, chi2)
    return figures | {
        "num_sources": len(rows),
        "not_finite": not_finite,
        "collapsed": int(collapsed),
        "unflagged": int(unflagged),
        "flagged": int(flagged),
        "converged": float(np.mean([r.converged for r in results])),
        "spurious_significance": float(np.median(extra)) if extra else None,
    }


def line(case: str, r: dict) -> str:
    """A row of the table."""
    blended, isolated = (
        r[f"median_abs_flux_error_{kind}"] or np.nan for kind in ("blended", "isolated")
    )
    return (
        f"{case:24s} {r['median_abs_flux_error']:.3f} / {isolated:.3f} / {blended:.3f}  "
        f">.5 {r['share_flux_error_above_half']:.2f}  xi {r['xi_morphology_median']:.4f}"
        f" [{r['xi_morphology_p16']:.3f}]  SED {r['xi_sed_median']:.4f}"
        f" [{r['xi_sed_p16']:.3f}]  chi2 {r['chi2_median']:.3f}  converged {r['converged']:.2f}  "
        f"collapsed {r['collapsed']} unflagged {r['unflagged']} flagged {r['flagged']} "
        f"of {r['num_sources']}  not finite {r['not_finite']}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--limit", type=int, default=30)
    parser.add_argument("--prior", nargs="+", default=priors_for(0.2))
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--json")
    options = parser.parse_args()
    blends = BlendSet(options.file)
    prior, results = load_priors(options.prior), {}
    for case in options.case or CASES:
        results[case] = run(blends, min(options.limit, len(blends)), case, prior)
        print(line(case, results[case]), flush=True)
    if options.json:
        with open(options.json, "w") as stream:
            json.dump(results, stream, indent=1)


if __name__ == "__main__":
    main()
