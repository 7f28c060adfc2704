"""Shapes of real galaxies, from catalogues of space-telescope images in GalSim's format.

GalSim's COSMOS samples have it (Mandelbaum et al. 2012, MNRAS 420, 1518; ``galsim_download_cosmos``
fetches them): a FITS table, and beside it the files of images and PSFs that it names.
"""

from pathlib import Path

import numpy as np

from scorepriors.errors import InputError

from .simulation import import_galsim, model_psf

#: Fainter galaxies of a catalogue are not used: their images are noise as much as shape.
FAINTEST = 24.0


class RealGalaxies:
    """Real galaxies to simulate blends with, each without the PSF that it was seen through.

    Parameters
    ----------
    path
        The FITS table; images and PSFs are looked for beside it.
    scale
        Arcseconds per pixel of the images to be simulated.
    faintest
        Magnitude of the faintest galaxy to use.

    Raises
    ------
    InputError
        If GalSim is missing, the table is not one, files that it names are missing, or no
        galaxy is bright enough.
    """

    def __init__(self, path: str | Path, *, scale: float, faintest: float = FAINTEST):
        galsim = import_galsim()
        self.path = Path(path)
        name = self.path.name
        if not self.path.is_file():
            raise InputError(f"there is no catalogue of real galaxies {str(path)!r}.")
        try:
            catalogue = galsim.RealGalaxyCatalog(str(self.path), dir=str(self.path.parent))
            magnitudes = np.asarray(catalogue.mag, float)
        except (OSError, TypeError, IndexError, KeyError, AttributeError, galsim.GalSimError) as e:
            raise InputError(
                f"{name} is no catalogue of real galaxies as GalSim has them: {e}."
            ) from e
        bright = np.flatnonzero(magnitudes <= faintest)
        if not bright.size:
            raise InputError(
                f"{name} has no galaxy brighter than magnitude {faintest:g}; fainter ones are "
                "more noise than shape."
            )
        try:
            # Centres are those that a survey would measure, not the middle of the cutout.
            self._profiles = [
                _centred(galsim, galsim.RealGalaxy(catalogue, index=int(i), flux=1.0), scale)
                for i in bright
            ]
        except (OSError, KeyError, galsim.GalSimError) as e:
            raise InputError(f"{name} names images that cannot be read: {e}.") from e
        self.magnitudes = magnitudes[bright]

    def __len__(self) -> int:
        return len(self._profiles)

    def draw(self, rng: np.random.Generator, magnitude: float, size_slope: float):
        """One of the galaxies, turned, perhaps mirrored, and as large as its new magnitude wants.

        Parameters
        ----------
        rng
            Chooses.
        magnitude
            Of the galaxy that it stands for.
        size_slope
            Decades of size per magnitude.

        Returns
        -------
        galsim.GSObject
            Of unit flux, its centre at the origin.
        """
        galsim = import_galsim()
        pick = int(rng.integers(len(self)))
        profile = self._profiles[pick].rotate(rng.uniform(0, 360) * galsim.degrees)
        if rng.integers(2):
            profile = profile.transform(1, 0, 0, -1)
        return profile.dilate(10 ** (size_slope * (magnitude - self.magnitudes[pick])))


def _centred(galsim, profile, scale: float):
    """Move the centroid (of adaptive moments) of a profile at the model's resolution to the origin."""
    image = galsim.Convolve(profile, model_psf(galsim, scale)).drawImage(scale=scale / 2)
    offset = image.FindAdaptiveMom().moments_centroid - image.true_center
    return profile.shift(-offset * image.scale)
