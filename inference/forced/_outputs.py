"""Files and figure of forced photometry."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from scorepriors import __version__
from scorepriors.inference.deblending._hdus import fits_text, image_header
from scorepriors.inference.reports._figure import COLORS, INK, SOFT, significance, view_composer
from scorepriors.inference.reports._outputs import write_whole
from scorepriors.models.data._correlations import correlation_facts
from scorepriors.models.data._views import View

from ._forced import SHAPES, Forced
from ._table import forced_catalog

#: Names of the result files.
FORCED_NAMES = ("catalog.ecsv", "images.fits", "report.png", "summary.json")

#: Most sources that are marked and drawn one by one.
_MARKED = 60


def write_forced(
    found: Forced,
    directory: str | Path,
    *,
    force: bool = False,
    extra: dict[str, Any] | None = None,
) -> list[Path]:
    """Write catalog, images, figure and summary of forced photometry; all of them or none.

    Parameters
    ----------
    found
        Result of `forced_photometry`.
    directory
        Folder to write to; made if missing.
    force
        Whether to replace existing results.
    extra
        Further entries of the summary.

    Returns
    -------
    list of pathlib.Path
        Files ``catalog.ecsv``, ``images.fits`` (MODEL and RESIDUAL on the pixels of the image,
        and of a scene COVARIANCE, in the unit of the image squared), ``report.png`` and
        ``summary.json``.

    Raises
    ------
    InputError
        If results are there and `force` is False, or the folder cannot be written.
    """
    text = json.dumps(forced_summary(found) | (extra or {}), indent=2, allow_nan=False)
    writers = (
        lambda path: forced_catalog(found).write(path, format="ascii.ecsv"),
        lambda path: forced_images(found).writeto(path),
        lambda path: forced_figure(found).savefig(path, dpi=110),
        lambda path: path.write_text(text + "\n"),
    )
    return write_whole(directory, dict(zip(FORCED_NAMES, writers, strict=True)), force=force)


def forced_images(found: Forced) -> fits.HDUList:
    """Return MODEL and RESIDUAL ``[B, H, W]`` as FITS, and the covariance where there is one."""
    obs = found.observation
    wcs = None if obs.wcs is None else obs.wcs.to_header(relax=True)
    header = image_header(wcs, found.bands, found.unit, found.zero_point)
    header["ROW0"] = (obs.corner[0], "row of the first pixel in the file")
    header["COLUMN0"] = (obs.corner[1], "column of the first pixel in the file")
    hdus = [
        fits.PrimaryHDU(),
        fits.ImageHDU(found.model.astype(np.float32), header, name="MODEL"),
        fits.ImageHDU(found.residual, header, name="RESIDUAL"),
    ]
    if found.covariance is not None:
        about = image_header(None, found.bands, None)
        for number, one in enumerate(found.ids, 1):
            about[f"SRC{number}"] = fits_text(one)
        hdus.append(fits.ImageHDU(found.covariance, about, name="COVARIANCE"))
    return fits.HDUList(hdus)


def forced_summary(found: Forced) -> dict[str, Any]:
    """Return a summary, ready for JSON."""
    with np.errstate(invalid="ignore"):
        detected = {band: int((found.snr[:, b] > 5).sum()) for b, band in enumerate(found.bands)}
    measured = ~np.isnan(found.flux)
    return {
        "image": found.observation.name,
        "bands": list(found.bands),
        "num_sources": len(found.ids),
        "measured": {band: int(measured[:, b].sum()) for b, band in enumerate(found.bands)},
        "detected": detected,
        "chi2": _median(found.chi2[measured.any(1)]),
        "shapes": SHAPES[found.shapes],
        "noise_correlation": correlation_facts(found.observation),
        "noise_from_model": list(found.noise_from_model),
        "sky": _sky_facts(found),
        "doubts": found.doubts,
        "versions": {"scorepriors": __version__},
    }


def _sky_facts(found: Forced) -> dict[str, float] | None:
    """Return the mean of the sky where it was fitted, by band, image units; None if none was."""
    if found.background is None:
        return None
    # Of a field it is zero where no window with a sky was.
    fitted = np.any(found.background != 0, axis=0)
    if not fitted.any():
        return dict.fromkeys(found.bands, 0.0)
    means = found.background[:, fitted].mean(1)
    return {b: float(one) for b, one in zip(found.bands, means, strict=True)}


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None


def forced_figure(found: Forced) -> Figure:
    """Draw image, model and residual, and the fluxes with their errors.

    Returns
    -------
    matplotlib.figure.Figure
        Figure without a window; ``figure.savefig(path)`` writes it.
    """
    figure = Figure(figsize=(11, 7), layout=ConstrainedLayoutEngine(), facecolor="white")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[3.8, 3.0])
    axes = parts[0].subplots(1, 3)
    view = View(found.observation, found.observation.psfs, found.bands)
    compose = view_composer(view)
    name = found.observation.name or "image"
    for axis, cube, title in zip(axes, (found.observation.images, found.model), (name, "model")):
        axis.imshow(compose(cube), origin="lower", interpolation="nearest")
        axis.set_title(title, color=INK)
    shown = axes[2].imshow(
        significance(view, found.model), origin="lower", cmap="RdBu_r", vmin=-4, vmax=4
    )
    axes[2].set_title("residual / noise", color=INK)
    parts[0].colorbar(shown, ax=axes[2], shrink=0.8)
    height, width = found.observation.shape
    for k, (row, column) in enumerate(found.pixel[:_MARKED]):
        axes[0].plot(column, row, "+", color=COLORS[k % len(COLORS)], markersize=7)
    for axis in axes:
        axis.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(-0.5, height - 0.5))
    _draw_fluxes(parts[1].subplots(), found)
    return figure


def _draw_fluxes(axis: Any, found: Forced) -> None:
    """Draw fluxes with errors, source by source, or their significance where there are many."""
    unit, factor = found.flux_unit
    if len(found.ids) > _MARKED:
        for b, band in enumerate(found.bands):
            values = found.snr[:, b][~np.isnan(found.snr[:, b])]
            axis.hist(np.arcsinh(values), 60, histtype="step", color=COLORS[b % 8], label=band)
        axis.set(xlabel="arcsinh(flux / error)", ylabel="sources")
    else:
        error = found.error
        for b, band in enumerate(found.bands):
            place = np.arange(len(found.ids)) + 0.6 * ((b + 0.5) / len(found.bands) - 0.5)
            axis.errorbar(
                place,
                found.flux[:, b] * factor[b],
                error[:, b] * factor[b],
                fmt="o",
                color=COLORS[b % len(COLORS)],
                markersize=4,
                label=band,
            )
        axis.axhline(0, color=SOFT, linewidth=0.8)
        axis.set_xticks(
            np.arange(len(found.ids)), found.ids, rotation=0 if len(found.ids) < 20 else 90
        )
        axis.set_ylabel(f"flux [{unit}]" if str(unit) else "flux")
    if found.bands:
        axis.legend(frameon=False)
