"""Sets of blends whose galaxies are not what the bulge-and-disk fit knows, for `evaluate`.

    python benchmarks/errors/populations.py irregular --number 60 --seed 901 --output irregular.npz
    python benchmarks/errors/populations.py gradients --number 60 --seed 901 --output gradients.npz
    scorepriors evaluate irregular.npz --json irregular.json

``irregular``: every galaxy has the lumps, twists and free Sersic indices of the irregular ones of
`scorepriors.training._sets.irregular_lsst_galaxy`.  ``gradients``: the most concentrated component of
a galaxy is redder than the rest by 10 to 50 % over the bands, so that no single spectrum
describes it.  Shapes of real galaxies: ``scorepriors simulate --galaxies``.
"""

import argparse
from unittest import mock

import numpy as np

from scorepriors.models.simulation import _blend_sets as sets
from scorepriors.training._sets import irregular_lsst_galaxy


def irregular(number: int, seed: int) -> dict:
    """Blends of irregular galaxies alone."""
    # Every index that ends in 9 is one.
    with mock.patch.object(
        sets, "lsst_galaxy", lambda galsim, rng: irregular_lsst_galaxy(galsim, rng, 9)
    ):
        return sets.simulate_set("lsst", number, seed=seed)


def gradients(number: int, seed: int) -> dict:
    """Blends of galaxies with red centers."""
    tilts: list[float] = []
    population, draw = sets.bulge_and_disk, sets.draw

    def profile(galsim, rng, *rest):
        tilts.append(rng.uniform(0.1, 0.5))
        return population(galsim, rng, *rest)

    def colored(galsim, whole, center, psfs, shape, scale):
        parts = components(whole)
        if len(parts) < 2 or len(psfs) < 2:
            return draw(galsim, whole, center, psfs, shape, scale)
        images = [draw(galsim, part, center, psfs, shape, scale) for part in parts]
        flux = np.array([image.sum((1, 2)) for image in images])
        red = int(np.argmax([image.max() / image.sum() for image in images]))
        weight = np.ones_like(flux)
        weight[red] += tilts[-1] * np.linspace(-1, 1, len(psfs))
        # The same flux in every band: only its distribution changes.
        weight *= flux.sum(0) / (flux * weight).sum(0)
        return sum(w[:, None, None] * image for w, image in zip(weight, images, strict=True))

    with (
        mock.patch.object(sets, "bulge_and_disk", profile),
        mock.patch.object(sets, "draw", colored),
    ):
        return sets.simulate_set("lsst", number, seed=seed)


def components(profile) -> list:
    """The summands of a profile that has been dilated, or itself."""
    inner = getattr(profile, "original", profile)
    parts = getattr(inner, "obj_list", None)
    if parts is None:
        return [profile]
    turn = np.asarray(profile.jac).ravel() if hasattr(profile, "jac") else (1, 0, 0, 1)
    return [part.transform(*turn) * (profile.flux / inner.flux) for part in parts]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("population", choices=("irregular", "gradients"))
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True)
    given = parser.parse_args()
    sets.write_set(given.output, globals()[given.population](given.number, given.seed))
