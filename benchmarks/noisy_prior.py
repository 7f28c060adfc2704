"""A prior learned from noisy, blurred stamps, beside one that was trained on the clean images.

    python benchmarks/noisy_prior.py runs/noisy --num-images 4000 --steps 8000 --rounds 6
    python benchmarks/noisy_prior.py runs/noisy --start half     # from galaxies of half the size
    python benchmarks/noisy_prior.py runs/noisy --blends         # neighbors, subtracted badly
    python benchmarks/noisy_prior.py runs/noisy --draws lsst-32 --num-images 256   # one round of draws

Galaxies of the set `lsst`, 0.2 arcsec pixels, seen with a Kolmogorov PSF of 0.6 to 0.9 arcsec (drawn by
GalSim, light from beyond the stamp included) at a signal to noise of 20 to 200; a hundredth of the pixels is
masked.  Both trainings have the same network and number of steps; that on stamps also has its rounds.
Printed, and written to NAME.json: the denoising loss of held-out clean images (mean square) over that of
the clean-trained prior, at several noise levels; KS of moments and AUC of samples of both.  NAME.png shows
the bias of drawn galaxies by round.  The same command resumes.

`--draws` trains nothing: under a prior of the right population, moments of galaxies drawn from stamps must be
those of the true ones, whatever the noise; what they differ by is the error of the draws.

With `--blends` every stamp has a neighbor of 0.1 to 1 times its flux, 6 to 14 pixels away.  What is
subtracted is that neighbor with 5 % more or less flux and, alone, 10 % larger or smaller; a tenth of it is added to the
noise.  A stand-in for a deblender: errors of the same kind, not its own.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from scorepriors import load_prior, prior_recipe, save_prior, train
from scorepriors._defaults import MODEL_PSF_SIGMA
from scorepriors._moments import image_moments
from scorepriors.inference.validation._comparison import compare_sets, ks_distance
from scorepriors.inference.validation._density import denoising_table
from scorepriors.inference.validation._report import add_noise, draw_samples
from scorepriors.training._recipe import (
    DataRecipe,
    NetworkRecipe,
    Recipe,
    RoundsRecipe,
    TrainingRecipe,
)
from scorepriors.training._sets import lsst_galaxy, peak_normalize

SCALE = 0.2
MOMENTS = ("flux", "size", "ellipticity", "concentration")


def galaxy(galsim, seed, index, size=1.0):
    """Galaxy of the set `lsst`, magnified, with its offset from the middle."""
    rng = np.random.default_rng((seed, index))
    profile = lsst_galaxy(galsim, rng, index).expand(size)
    return profile.shift(*(rng.uniform(-0.6, 0.6, 2) * SCALE))


def drawn(galsim, profile, psf, box):
    image = galsim.Convolve(profile, psf).drawImage(nx=box, ny=box, scale=SCALE, dtype=float)
    return image.array


def simulate_stamps(path, num, box, seed, blends):
    """Write stamps, and beside them the clean galaxies, which no training is shown."""
    import galsim

    model = galsim.Gaussian(sigma=MODEL_PSF_SIGMA * SCALE)
    clean, images, variances, psfs, masks = [], [], [], [], []
    for index in range(num):
        rng = np.random.default_rng((seed, index, 1))
        profile = galaxy(galsim, seed, index)
        psf = galsim.Kolmogorov(fwhm=rng.uniform(0.6, 0.9))
        clean.append(drawn(galsim, profile, model, box))
        seen = drawn(galsim, profile, psf, box)
        sigma = np.sqrt((seen**2).sum()) / np.exp(rng.uniform(*np.log([20, 200])))
        variance = np.full_like(seen, sigma**2)
        if blends:
            other = galaxy(galsim, seed + 1, index) * np.exp(rng.uniform(np.log(0.1), 0))
            angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(6, 14) * SCALE
            place = distance * np.cos(angle), distance * np.sin(angle)
            fitted = other.expand(np.exp(0.1 * rng.choice([-1, 1])))
            fitted *= (1 + 0.05 * rng.choice([-1, 1])) * other.flux / fitted.flux
            subtracted = drawn(galsim, fitted.shift(*place), psf, box)
            seen = seen + drawn(galsim, other.shift(*place), psf, box) - subtracted
            variance = variance + (0.1 * subtracted) ** 2
        images.append(seen + sigma * rng.standard_normal(seen.shape))
        variances.append(variance)
        # Pixels of the PSF's stamp count as those of the image: one response of a pixel is in it.
        psfs.append(psf.drawImage(nx=25, ny=25, scale=SCALE, dtype=float).array)
        masks.append(rng.random(seen.shape) < 0.01)
    arrays = {"images": images, "variance": variances, "psf": psfs, "mask": masks}
    np.savez(path, **{name: np.asarray(a, np.float32) for name, a in arrays.items()})
    np.savez(path.with_name(f"{path.stem}-clean.npz"), peak_normalize(np.asarray(clean)))


def trained(recipe, folder):
    """Train, or go on, and return the prior as it is loaded from its file."""
    path = folder / f"{recipe.name}.safetensors"
    if not path.exists():
        start = None if recipe.data.start is None else load_prior(recipe.data.start)
        result = train(recipe, folder, start=start, progress=recipe.name)
        if not result.finished:
            raise SystemExit("interrupted; the same command resumes")
        save_prior(path, result.prior, recipe)
    return load_prior(path)


def report(prior, clean_prior, held, num):
    """Losses over those of the clean-trained prior; samples of both, and of the galaxies."""
    key = jax.random.key(0)
    z = np.asarray(prior.stretch.inv(jnp.asarray(held)))
    linear = clean_prior.gaussian(held)
    tables = [denoising_table(p, linear, z, key=key) for p in (prior, clean_prior)]
    ratio = np.square(tables[0]["energy"]) / np.square(tables[1]["energy"])
    keys = jax.random.split(jax.random.key(1), 6)
    ours, theirs = (
        draw_samples(p, 0.05, num, key=k) for p, k in ((prior, keys[0]), (clean_prior, keys[1]))
    )
    noisy = add_noise(held, prior.stretch, 0.05, key=keys[2])
    samples = compare_sets(ours, theirs, prior.stretch, key=keys[3])
    control = compare_sets(theirs, noisy, prior.stretch, key=keys[4])
    truth = compare_sets(ours, noisy, prior.stretch, key=keys[5])
    return {
        "sigma": tables[0]["sigma"],
        "loss_ratio": ratio.tolist(),
        "over_wiener": tables[0]["ratio"],
        "clean_over_wiener": tables[1]["ratio"],
        "against_clean_trained": samples,
        "clean_trained_against_galaxies": control,
        "against_galaxies": truth,
    }


def bias_by_round(folder, clean, stretch):
    """Median moments of the galaxies drawn in each round, over those of the true ones."""
    rows = []
    truth = image_moments(clean)
    for path in sorted(folder.glob("rounds/*/draws.npz")):
        with np.load(path) as file:
            found = image_moments(np.asarray(stretch(jnp.asarray(file["z"]))))
        rows.append({n: float(np.median(found[n]) / np.median(truth[n]) - 1) for n in MOMENTS})
    return rows


def figure(rows, path):
    canvas = Figure(figsize=(6, 4), layout="constrained")
    axis = canvas.subplots()
    for name in MOMENTS:
        axis.plot(range(1, len(rows) + 1), [row[name] for row in rows], "o-", label=name)
    axis.axhline(0, color="0.5", lw=0.8)
    axis.set(xlabel="round", ylabel="median of drawn galaxies over that of the true ones, less one")
    axis.legend()
    canvas.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-images", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--gaussian", type=int, help="0 for the right start, 2 for the wrong one")
    parser.add_argument("--round-steps", type=int, default=3000)
    parser.add_argument("--widen", type=float, help="1 for the right start, 3 for the wrong one")
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--modes", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64, help="stamps drawn at a time")
    parser.add_argument("--num-test", type=int, default=1000)
    parser.add_argument("--transitions", type=int, default=2)
    parser.add_argument("--draws", metavar="PRIOR")
    parser.add_argument("--start", choices=("right", "half"), default="right")
    parser.add_argument("--blends", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    kind = "blends" if options.blends else "stamps"
    stamps = options.folder / f"{kind}.npz"
    clean_path = stamps.with_name(f"{kind}-clean.npz")
    if not clean_path.exists():
        simulate_stamps(stamps, options.num_images, options.box, 0, options.blends)
    clean = np.load(clean_path)["arr_0"]
    if options.draws:
        drawn_under(options, stamps, clean)
        return
    base = Recipe(
        name="clean",
        # The start's pixels and PSF are those of the set.
        data=DataRecipe(path=str(clean_path), box=options.box),
        network=NetworkRecipe(options.modes, options.width, 2 * options.width, options.depth),
        training=TrainingRecipe(steps=options.steps, ema=0.998),
    )
    base = dataclasses.replace(
        base, data=dataclasses.replace(base.data, model_psf_sigma=MODEL_PSF_SIGMA)
    )
    clean_prior = trained(base, options.folder / f"clean-{kind}")
    name = f"{kind}-{options.start}"
    rounds = RoundsRecipe(
        number=options.rounds,
        widen=options.widen or {"right": 1.0, "half": 3.0}[options.start],
        gaussian={"right": 0, "half": 2}[options.start]
        if options.gaussian is None
        else options.gaussian,
        steps=options.round_steps,
        batch=options.batch,
        transitions=options.transitions,
    )
    recipe = dataclasses.replace(base, name=name, rounds=rounds)
    start = start_prior(options, base)
    recipe = dataclasses.replace(
        recipe, data=DataRecipe(noisy=str(stamps), start=str(start), box=options.box)
    )
    folder = options.folder / name
    prior = trained(recipe, folder)
    import galsim

    model = galsim.Gaussian(sigma=MODEL_PSF_SIGMA * SCALE)
    held = peak_normalize(
        np.stack(
            [
                drawn(galsim, galaxy(galsim, 9, i), model, options.box)
                for i in range(options.num_test)
            ]
        )
    )
    found = report(prior, clean_prior, held, options.num_test)
    found["options"] = {k: str(v) for k, v in vars(options).items()}
    found["bias_by_round"] = bias_by_round(folder, clean, prior.stretch)
    figure(found["bias_by_round"], options.folder / f"{name}.png")
    (options.folder / f"{name}.json").write_text(json.dumps(found, indent=1))
    print("denoising loss over that of the clean-trained prior")
    for sigma, ratio in zip(found["sigma"], found["loss_ratio"], strict=True):
        print(f"  sigma {sigma:5.2f}  {ratio:.3f}")
    for title in ("against_clean_trained", "clean_trained_against_galaxies", "against_galaxies"):
        one = found[title]
        moments = "  ".join(f"{n} {one['ks'][n]:.3f}" for n in MOMENTS)
        print(f"{title}: AUC {one['trees_auc']:.3f} / {one['pixel_auc']:.3f}  KS {moments}")
    for number, row in enumerate(found["bias_by_round"], 1):
        print(f"round {number}: " + "  ".join(f"{n} {v:+.3f}" for n, v in row.items()))


def drawn_under(options, stamps, clean):
    """Print moments of galaxies drawn under a given prior beside those of the true ones."""
    prior = load_prior(options.draws)
    described = prior_recipe(options.draws)
    number = options.num_images
    recipe = dataclasses.replace(
        described,
        data=DataRecipe(noisy=str(stamps), start=options.draws, box=options.box),
        rounds=RoundsRecipe(
            number=1, widen=1.0, batch=options.batch, transitions=options.transitions
        ),
        training=dataclasses.replace(described.training, steps=1),
        confinement=dataclasses.replace(described.confinement, steps=0),
    )
    folder = options.folder / f"draws-{options.draws}-{options.transitions}"
    train(recipe, folder, start=prior, progress="draws")
    with np.load(folder / "rounds" / "01" / "draws.npz") as file:
        z, accepted = file["z"], file["accepted"]
    found = image_moments(np.asarray(prior.stretch(jnp.asarray(z))))
    truth = image_moments(clean)
    error = z - np.asarray(prior.stretch.inv(jnp.asarray(clean)))
    print(f"{len(z)} stamps, {accepted.mean():.0%} accepted, rms of z {error.std():.3f}")
    for name in MOMENTS:
        bias = np.median(found[name]) / np.median(truth[name]) - 1
        print(f"  {name:13s} bias {bias:+.3f}  KS {ks_distance(found[name], truth[name]):.3f}")
    print(
        f"  two sets of {number} alike: KS up to {1.36 * np.sqrt(2 / number):.3f} in 95 % of cases"
    )


def start_prior(options, base):
    """Train the prior of the start, on other galaxies than those of the stamps."""
    import galsim

    size = {"right": 1.0, "half": 0.5}[options.start]
    folder = options.folder / f"start-{options.start}"
    folder.mkdir(exist_ok=True)
    path = folder / "images.npz"
    if not path.exists():
        model = galsim.Gaussian(sigma=MODEL_PSF_SIGMA * SCALE)
        images = [
            drawn(galsim, galaxy(galsim, 5, i, size), model, options.box) for i in range(2000)
        ]
        np.savez(path, np.asarray(images, np.float32))
    steps = dataclasses.replace(base.training, steps=options.round_steps)
    data = dataclasses.replace(base.data, path=str(path))
    recipe = dataclasses.replace(base, name=folder.name, data=data, training=steps)
    trained(recipe, folder / "run")
    return folder / "run" / f"{recipe.name}.safetensors"


if __name__ == "__main__":
    main()
