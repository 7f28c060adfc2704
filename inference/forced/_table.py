"""Catalog of forced photometry."""

import numpy as np
from astropy import units as u
from astropy.table import QTable

from scorepriors import __version__
from scorepriors._surveys import magnitude_errors
from scorepriors.inference.deblending._flags import Flag

from ._forced import SHAPES, Forced

#: Shares of the light on unmasked pixels below which a source is flagged.
_WHOLE, _NOTHING = 0.8, 1e-3

#: Ratio of the error of a flux to that without neighbors from which on a source is blended.
_BLENDED = 1.2

#: Chi2 in its footprint from which on a source is flagged.
_MISFIT = 2.0

FORCED_FLAGS = (
    Flag(0, "outside", "none of its light falls on the image"),
    Flag(1, "masked", "more than a fifth of its light is on masked pixels or beyond the image"),
    Flag(2, "blended", "neighbors make the error of its flux larger by a fifth and more"),
    Flag(3, "no_time", "it moves, and the image has no time: nobody knows where it was then"),
    Flag(
        11,
        "no_data",
        "in the band named, as in no_data:g, less than a tenth of its light falls on pixels with "
        "data: it has no flux there",
    ),
    Flag(
        12,
        "misfit",
        "where it is seen the fixed shapes do not explain the image: chi² is above 2, as with a "
        "wrong PSF or position, or where it changed its shape with wavelength",
    ),
)


#: Sentences of these flags by word, the worst first.
FORCED_SENTENCES = {
    word: next(flag.sentence for flag in FORCED_FLAGS if flag.word == word)
    for word in ("misfit", "no_time", "outside", "no_data", "masked", "blended")
}


def forced_catalog(found: Forced) -> QTable:
    """Return a table of forced photometry, in the order of the catalog.

    Parameters
    ----------
    found
        Result of `forced_photometry`.

    Returns
    -------
    astropy.table.QTable
        For every band b ``flux_b``, its error ``flux_err_b`` and the parts of that,
        ``flux_err_noise_b`` and ``flux_err_shape_b``, ``snr_b``, ``mag_b`` where there are zero
        points, and ``data_share_b``; places in the image, and flags.
    """
    unit, factor = found.flux_unit
    table = QTable()
    table["id"] = np.asarray(found.ids)
    table["ra"], table["dec"] = found.sky.T * u.deg
    # Of a scene the image was cut to what sees it.
    row, column = (found.pixel + found.first).T
    table["x"], table["y"] = column, row
    magnitudes = found.magnitudes(found.flux)
    error, snr = found.error, found.snr
    for b, band in enumerate(found.bands):
        columns = {
            "flux": found.flux[:, b],
            "flux_err": error[:, b],
            "flux_err_noise": found.noise_error[:, b],
            "flux_err_shape": found.shape_error[:, b],
        }
        for name, values in columns.items():
            table[f"{name}_{band}"] = values * factor[b] * unit
            table[f"{name}_{band}"].info.description = f"{_TEXTS[name]}, band {band}"
        table[f"snr_{band}"] = snr[:, b]
        table[f"snr_{band}"].info.description = f"flux over its error, band {band}"
        if magnitudes is not None:
            table[f"mag_{band}"] = magnitudes[:, b] * u.mag
            table[f"mag_err_{band}"] = magnitude_errors(found.flux[:, b], error[:, b]) * u.mag
            table[f"mag_{band}"].info.description = f"AB magnitude, NaN below zero, band {band}"
            table[f"mag_err_{band}"].info.description = f"its error, to first order, band {band}"
        table[f"data_share_{band}"] = found.share[:, b]
        table[
            f"data_share_{band}"
        ].info.description = f"share of the light on unmasked pixels of the image, band {band}"
    table["chi2"] = found.chi2
    for name, text in _PLAIN.items():
        table[name].info.description = text
    _add_flags(table, found)
    table.meta.update(
        image=found.observation.name, shapes=SHAPES[found.shapes], scorepriors=__version__
    )
    return table


def _add_flags(table: QTable, found: Forced) -> None:
    """Add the columns ``flags`` and ``flag_bits``, as catalogs of `deblend` have them."""
    tests = _tests(found)
    values = {flag.word: flag.value for flag in FORCED_FLAGS}
    bits = sum(np.where(hit, values[word], 0) for word, hit in tests.items())
    words = []
    for k, missing in enumerate(np.isnan(found.flux)):
        named = [f"no_data:{band}" for band in np.array(found.bands)[missing]]
        each = [named if word == "no_data" else [word] for word, hit in tests.items() if hit[k]]
        words.append(",".join(word for one in each for word in one) or "ok")
    table["flags"], table["flag_bits"] = words, bits
    meanings = "; ".join(f"{flag.word}: {flag.sentence}" for flag in FORCED_FLAGS)
    table["flags"].info.description = f"comma-separated words, or ok. {meanings}"
    numbers = ", ".join(f"{flag.bit} {flag.word}" for flag in FORCED_FLAGS)
    table["flag_bits"].info.description = f"the flags as bits, lowest first: {numbers}"


def _tests(found: Forced) -> dict[str, np.ndarray]:
    """Return for each flag whether it holds for the sources, ``[N]``."""
    seen = ~np.isnan(found.flux)
    neighbors = found.noise_error > _BLENDED * found.alone_error
    lost = np.isin(found.ids, found.lost)
    return {
        "outside": (found.share < _NOTHING).all(1) & ~lost,
        "masked": (found.share < _WHOLE).any(1) & seen.any(1),
        "blended": neighbors.any(1),
        "no_time": lost,
        "no_data": ~seen.all(1) & ~lost,
        "misfit": found.chi2 > _MISFIT,
    }


_TEXTS = {
    "flux": "flux of the fixed shape, without any prior",
    "flux_err": "error of the flux, from noise and shapes",
    "flux_err_noise": "error from the noise of the pixels and the neighbors",
    "flux_err_shape": "error from the shapes and places",
}

_PLAIN = {
    "id": "name in the catalog of the run",
    "ra": "ICRS right ascension",
    "dec": "ICRS declination",
    "x": "column in the image, 0-based pixel",
    "y": "row in the image, 0-based pixel",
    "chi2": "mean squared residual over noise where the source is seen",
}
