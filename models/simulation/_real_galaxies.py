"""Shapes of real galaxies, from catalogs of space-telescope images in GalSim's format.

GalSim's COSMOS samples have it (Mandelbaum et al. 2012, MNRAS 420, 1518; ``galsim_download_cosmos``
fetches them): a FITS table, and beside it the files of images and PSFs that it names.
"""

from pathlib import Path

import numpy as np
from astropy.table import Table

from scorepriors._errors import InputError

from ._simulation import import_galsim

#: Magnitude limit of galaxies from a catalog; images of fainter ones are dominated by noise.
FAINTEST = 24.0

#: Columns used here or by GalSim.
COLUMNS = (
    "ident",
    "mag",
    "gal_filename",
    "gal_hdu",
    "psf_filename",
    "psf_hdu",
    "pixel_scale",
    "noise_mean",
    "noise_variance",
    "noise_filename",
)

#: Number of draws without a measurable center after which an error is raised.
_ATTEMPTS = 100


class RealGalaxies:
    """Real galaxies for simulated blends, with their observed PSFs removed.

    Parameters
    ----------
    path
        FITS table; images and PSFs are expected in its folder.
    faintest
        Magnitude of the faintest galaxy to use.

    Attributes
    ----------
    path
        The table.
    magnitudes
        Magnitudes ``[N]`` of the galaxies that are used.

    Raises
    ------
    InputError
        If GalSim is not installed, the table is unreadable, lacks a column or names a file that
        is missing, or no galaxy is bright enough.
    """

    def __init__(self, path: str | Path, *, faintest: float = FAINTEST):
        galsim = import_galsim()
        self.path = Path(path).resolve()
        columns = _columns(self.path)
        try:
            magnitudes = np.asarray(columns["mag"], float)
        except ValueError as error:
            raise InputError(f"{self.path.name}: the column MAG holds no numbers.") from error
        self._rows = np.flatnonzero(magnitudes <= faintest)
        if not self._rows.size:
            raise InputError(
                f"{self.path.name} has no galaxy brighter than magnitude {faintest:g}; fainter ones "
                "are more noise than shape."
            )
        self.magnitudes = magnitudes[self._rows]
        for column in ("gal_filename", "psf_filename", "noise_filename"):
            for name in sorted({str(n).strip() for n in columns[column][self._rows]}):
                if not (self.path.parent / name).is_file():
                    raise InputError(
                        f"{self.path.name} names a file {name!r} that is not beside it; put it there."
                    )
        self._catalog = galsim.RealGalaxyCatalog(self.path.name, dir=str(self.path.parent))

    def __len__(self) -> int:
        return len(self._rows)

    def draw(
        self, rng: np.random.Generator, magnitude: float, size_slope: float, psf, scale: float
    ):
        """Draw a galaxy, rotated, perhaps mirrored, and scaled to the size of its new magnitude.

        Parameters
        ----------
        rng
            Random number generator.
        magnitude
            Magnitude of the simulated galaxy.
        size_slope
            Decades of size per magnitude.
        psf
            GalSim object of the PSF with which the center of a galaxy is measured.
        scale
            Arcseconds per pixel of the image for that.

        Returns
        -------
        galsim.GSObject
            Galaxy of unit flux, its center (of adaptive moments) at the origin.

        Raises
        ------
        InputError
            If the files lack the image.
        """
        galsim = import_galsim()
        for _ in range(_ATTEMPTS):
            pick = int(rng.integers(len(self)))
            angle, mirrored = rng.uniform(0, 360) * galsim.degrees, bool(rng.integers(2))
            profile = self._profile(galsim, pick).rotate(angle)
            if mirrored:
                profile = profile.transform(1, 0, 0, -1)
            profile = profile.dilate(10 ** (size_slope * (magnitude - self.magnitudes[pick])))
            image = galsim.Convolve(profile, psf).drawImage(scale=scale / 2)
            try:
                center = image.FindAdaptiveMom().moments_centroid
            except galsim.GalSimHSMError:  # no center can be measured; draw another galaxy
                continue
            return profile.shift(-(center - image.true_center) * image.scale)
        raise InputError(f"none of {_ATTEMPTS} galaxies drawn from {self.path.name} has a center.")

    def _profile(self, galsim, pick: int):
        """Return a galaxy of unit flux, with the telescope's PSF removed."""
        row = int(self._rows[pick])
        try:
            return galsim.RealGalaxy(self._catalog, index=row, flux=1.0)
        # Raised by GalSim and astropy for wrong HDUs, damaged files and invalid columns.
        except (
            OSError,
            LookupError,
            TypeError,
            ValueError,
            ArithmeticError,
            RuntimeError,
        ) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(
                f"galaxy {row} of {self.path.name} cannot be read ({reason}); remove it or mend it."
            ) from error


def _columns(path: Path) -> dict:
    """Return the columns of the table, by names in lower case."""
    if path.is_dir():
        raise InputError(f"{path.name} is a folder; give the table of real galaxies in it.")
    if not path.is_file():
        raise InputError(f"there is no catalog of real galaxies {str(path)!r}.")
    try:
        table = Table.read(path, format="fits", hdu=1)
    except Exception as error:  # whatever astropy raises for what is no FITS table
        raise InputError(
            f"{path.name} is no FITS table, as catalogs of real galaxies are."
        ) from error
    columns = {name.lower(): table[name] for name in table.colnames}
    missing = [name.upper() for name in COLUMNS if name not in columns]
    if missing:
        raise InputError(
            f"{path.name} is no catalog of real galaxies as GalSim has them: it lacks "
            f"{', '.join(missing)}."
        )
    return columns
