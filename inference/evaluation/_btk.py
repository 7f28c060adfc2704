"""Our deblender behind the interface of the BlendingToolKit, for its batches and metrics."""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from astropy.table import Table

from scorepriors._errors import InputError
from scorepriors.inference.deblending._deblend import deblend_many
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._own_noise import NoiseWarning
from scorepriors.models.data.positions._reading import read_positions

#: Most pixels on a side of the images of PSFs.
_PSF_PIXELS = 61


def btk_deblender(max_n_sources: int, *, key=None, **options: Any) -> Any:
    """Return this package as a `Deblender` of the BlendingToolKit (BTK).

    It takes its `BlendBatch`, of one survey, and gives its `DeblendBatch`, so that BTK's generators
    and metrics can run it beside others.  All blends of a batch are fitted side by side.  As in BTK's
    own `Scarlet`, positions are those of the true catalogs unless others are given:
    ``deblender(batch, reference_catalogs=[...])``.

    Parameters
    ----------
    max_n_sources
        Most sources in a blend, as for every deblender of BTK.
    key
        Random key; ``jax.random.key(0)`` if not given.
    **options
        Options of `deblend_many`.

    Returns
    -------
    btk.deblend.Deblender
        Its catalogs have ``ra`` and ``dec`` in arcseconds and ``x_peak``, ``y_peak`` in pixels, as
        fitted, and ``flux_*`` and ``flux_err_*``, posterior means and errors in the batch's
        electrons.  Its images are sources as observed.  ``extra_data`` has each result of `deblend`
        under ``"result"``.

    Raises
    ------
    InputError
        If BTK is not installed, or later if a blend has more sources than that.  Its requirement astropy < 7 is not ours: it works with later ones,
        and ``pip install --no-deps blending_toolkit fast3tree`` installs it beside this package.
    """
    try:
        # No dependency can be declared that excludes another one, so this is no import statement.
        btk = importlib.import_module("btk.deblend")
    except ImportError as error:
        raise InputError(
            "the BlendingToolKit is not installed: pip install --no-deps blending_toolkit fast3tree, "
            "and 'scorepriors[simulation,peers]' for what it needs."
        ) from error
    random = jax.random.key(0) if key is None else key

    class ScorepriorsDeblender(btk.Deblender):
        """Learned priors of galaxies, by `scorepriors.inference.deblend_many`."""

        def deblend(self, ii, blend_batch, reference_catalogs=None):
            """Deblend one blend of a batch."""
            return self._examples(blend_batch, [ii], reference_catalogs)[0]

        def batch_call(self, blend_batch, njobs=1, reference_catalogs=None):
            """Deblend all blends of a batch, several at once in this process."""
            if njobs != 1:
                raise InputError(
                    "blends are fitted side by side in one process, and processes that begin as copies "
                    f"of one that runs JAX hang; leave out `njobs`, got {njobs}."
                )
            indices = range(blend_batch.batch_size)
            found = self._examples(blend_batch, indices, reference_catalogs)
            return btk.DeblendBatch(
                blend_batch.batch_size,
                self.max_n_sources,
                [one.catalog for one in found],
                len(blend_batch.survey.available_filters),
                blend_batch.image_size,
                None,
                np.stack([one.deblended_images for one in found]),
                [one.extra_data for one in found],
            )

        def _examples(self, batch, indices, catalogs):
            given = batch.catalog_list if catalogs is None else catalogs
            # Before anything is fitted: a batch takes minutes.
            for i in indices:
                if len(given[i]) > self.max_n_sources:
                    raise InputError(
                        f"blend {i} has {len(given[i])} sources, more than `max_n_sources` = "
                        f"{self.max_n_sources}."
                    )
            filled = [i for i in indices if len(given[i])]
            observations = [observation_of(batch, i) for i in filled]
            positions = [
                read_positions(_pixels(given[i], batch.wcs), obs)
                for i, obs in zip(filled, observations, strict=True)
            ]
            results = deblend_many(observations, positions, key=random, **options)
            known = dict(zip(filled, results, strict=True))
            return [self._example(batch, known.get(i)) for i in indices]

        def _example(self, batch, result):
            bands, size = batch.survey.available_filters, batch.image_size
            images = np.zeros((self.max_n_sources, len(bands), size, size))
            catalog = Table({"ra": np.zeros(0), "dec": np.zeros(0)})
            if result is not None:
                found = np.asarray(result.free_form.convolved[0])
                images[: len(found)] = found
                catalog = _catalog(result, batch.wcs)
            extra = None if result is None else {"result": result}
            return btk.DeblendExample(
                self.max_n_sources, catalog, len(bands), size, None, images, extra
            )

    return ScorepriorsDeblender(max_n_sources)


def observation_of(batch, index: int) -> Observation:
    """Return a blend of a batch of BTK, in electrons.

    Variances are those of the sky and of the light in each pixel, which `deblend` knows to take from
    the model instead.
    """
    survey = batch.survey
    filters = [survey.get_filter(band) for band in survey.available_filters]
    images = np.asarray(batch.blend_images[index], float)
    sky = np.array([_sky(survey, one) for one in filters])[:, None, None]
    with warnings.catch_warnings():
        # Said to those who give such variances unknowingly.
        warnings.simplefilter("ignore", NoiseWarning)
        return Observation.from_arrays(
            images,
            variance=sky + np.clip(images, 0, None),
            psfs=psf_images(batch),
            bands=list(survey.available_filters),
            wcs=batch.wcs,
            # That of one electron in the whole exposure; filters have that of one in a second.
            zero_point=[
                one.zeropoint.value + 2.5 * np.log10(one.full_exposure_time.to_value("s"))
                for one in filters
            ],
            name=f"{survey.name} {index}",
        )


def psf_images(batch) -> np.ndarray:
    """Return PSFs ``[B, P, P]`` on the pixels of the images.

    `BlendBatch.get_numpy_psf` leaves the size of the pixels to GalSim, which takes another one.

    Raises
    ------
    InputError
        If the batch has images of PSFs alone, as those that BTK loads from files.
    """
    scale = batch.survey.pixel_scale.to_value("arcsec")
    size = min(batch.image_size, _PSF_PIXELS) - 1 | 1
    try:
        return np.stack(
            [one.drawImage(nx=size, ny=size, scale=scale).array for one in batch.psf]
        ).astype(float)
    except AttributeError as error:
        raise InputError(
            "the PSFs of this batch are images whose pixels have an unknown size, as in files of BTK; "
            "give a batch as it is drawn."
        ) from error


def _sky(survey, one) -> float:
    level = importlib.import_module("surveycodex.utilities").mean_sky_level
    return float(level(survey, one).to_value("electron"))


def _pixels(catalog: Table, wcs) -> Table:
    x, y = wcs.world_to_pixel_values(
        np.asarray(catalog["ra"], float) / 3600, np.asarray(catalog["dec"], float) / 3600
    )
    return Table({"x": x, "y": y})


def _catalog(result, wcs) -> Table:
    row, column = np.asarray(result.center, float).T
    ra, dec = wcs.pixel_to_world_values(column, row)
    table = Table({"ra": ra * 3600, "dec": dec * 3600, "x_peak": column, "y_peak": row})
    found, bands = result.photometry, result.observation.bands
    columns: Sequence[tuple[str, np.ndarray]] = (("flux", found.flux), ("flux_err", found.error))
    for name, values in columns:
        for b, band in enumerate(bands):
            table[f"{name}_{band}"] = np.asarray(values)[:, b]
    return table
