"""Places in the pixels of an observation, from whichever columns of a table hold them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import Table

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note

from ._angles import angles
from ._columns import COORDINATE_COLUMNS, PIXEL_COLUMNS, SKY_COLUMNS, first_pixel, numbers

#: Largest distance in pixels of two columns' places that makes no difference to a fit.
_SAME = 0.5

#: Distance from the center, in half diagonals of the image, beyond which a WCS with distortions
#: means nothing.
_FAR = 3.0


class Places(NamedTuple):
    """Places from two columns, or one of coordinates.

    Attributes
    ----------
    row_column
        Places ``[K, 2]`` in pixels, NaN where missing or far from the image.
    given
        Booleans ``[K]``, false where the columns hold no numbers.
    names
        Names of the columns.
    how
        How the numbers were read where that was not the usual way; else empty.
    """

    row_column: np.ndarray
    given: np.ndarray
    names: str
    how: str = ""

    def inside(self, shape: tuple[int, int]) -> np.ndarray:
        """Return which places are in the image."""
        return is_inside(self.row_column, shape)


def is_inside(row_column: np.ndarray, shape: tuple[int, int], margin: float = 0.0) -> np.ndarray:
    """Return which places are in an image, or at most `margin` pixels beyond its edge."""
    # Pixel centers are integers, so the image ends half a pixel beyond the last center.
    low, high = -0.5 - margin, np.array(shape) - 0.5 + margin
    with np.errstate(invalid="ignore"):
        inside = (row_column >= low) & (row_column < high)
    return np.all(np.asarray(inside), axis=1)


def find_places(table: Table, columns: dict[str, str], obs) -> Places:
    """Return the places of a table's rows in an image.

    Where there are several columns of positions, those of pixels are taken, unless they contradict
    those on the sky: then they are pixels of another image.  A warning says so.

    Parameters
    ----------
    table
        The table.
    columns
        Its names of columns by their lower case.
    obs
        The observation; its corner is that of a cut.

    Raises
    ------
    InputError
        If there are no columns of positions, or only ones on the sky without a WCS.
    """
    pixels = _pixel_places(table, columns, obs)
    sky = [] if obs.wcs is None else _sky_places(table, columns, obs)
    if pixels and sky:
        return _agreed(pixels[0], sky[0], obs.shape)
    for found in (pixels, sky):
        if found:
            _say_others(found, obs.shape)
            return found[0]
    if _has_sky(table, columns):
        raise InputError(
            "the catalog gives positions on the sky but the observation has no WCS; give x "
            "and y in pixels."
        )
    listed = ", ".join(table.colnames[:20]) or "none"
    more = "" if len(table.colnames) <= 20 else f" and {len(table.colnames) - 20} more"
    raise InputError(
        f"the catalog has no columns of positions; give x and y (pixels) or ra and dec "
        f"(degrees); found {listed}{more}."
    )


def _agreed(pixels: Places, sky: Places, shape: tuple[int, int]) -> Places:
    """Return the places to take of those from pixels and from the sky."""
    seen = sky.inside(shape)
    if not seen.any():
        if pixels.inside(shape).any():
            note(
                f"by {sky.names} no source of the catalog is in the image: {pixels.names} were taken; "
                "check the WCS, and that the catalog is of this field."
            )
            return pixels
        return sky
    apart = (pixels.row_column - sky.row_column)[seen]
    apart = apart[np.isfinite(apart).all(axis=1)]
    if len(apart) and np.median(np.hypot(*apart.T)) < _SAME:
        return pixels
    if sky.how:
        note(sky.how)
    if len(apart):
        y, x = np.median(apart, axis=0)
        more = (
            ", as if they counted pixels from 1" if np.abs([y - 1, x - 1]).max() < _SAME / 2 else ""
        )
        note(
            f"{pixels.names} and {sky.names} are apart by (x, y) = ({x:+.1f}, {y:+.1f}) px{more}: "
            f"{sky.names} were taken; leave them out of the catalog to use {pixels.names}."
        )
    return sky


def _say_others(found: Sequence[Places], shape: tuple[int, int]) -> None:
    """Say which columns were taken if others give different places."""
    taken, *others = found
    if taken.how:
        note(taken.how)
    for other in others:
        seen = taken.inside(shape) | other.inside(shape)
        apart = np.hypot(*(taken.row_column - other.row_column)[seen].T)
        if apart.size and not (apart < _SAME).all():
            note(
                f"{taken.names} were taken as positions; {other.names} differ from them by up to "
                f"{np.nanmax(np.append(apart, 0)):.1f} px: remove the columns you do not mean."
            )
            return


def _pixel_places(table: Table, columns: dict[str, str], obs) -> list[Places]:
    found = []
    for x_name, y_name, first in PIXEL_COLUMNS:
        if x_name in columns and y_name in columns:
            names = columns[x_name], columns[y_name]
            x, y = (numbers(table, name, units.pix) for name in names)
            row_column = np.stack([y, x], axis=1) - first_pixel(names[0], first)
            given = np.isfinite(row_column).all(axis=1)
            found.append(Places(row_column, given, " and ".join(names)))
    return [_from_whole(one, obs) for one in found]


def _from_whole(places: Places, obs) -> Places:
    """Move places in a file's image to those in the cut that was read from it."""
    corner = np.array(obs.views[0].observation.corner)
    if not corner.any():
        return places
    moved = places._replace(
        row_column=places.row_column - corner,
        how=f"{places.names} were taken as pixels of the whole file, of which the image is a cut "
        f"that starts at (x, y) = ({corner[1]}, {corner[0]}).",
    )
    if moved.inside(obs.shape).any() or not places.inside(obs.shape).any():
        return moved
    return places._replace(
        how=f"{places.names} were taken as pixels of the cut: as pixels of the whole file none "
        "were in it."
    )


def _has_sky(table: Table, columns: dict[str, str]) -> bool:
    coordinates = (columns[name] for name in COORDINATE_COLUMNS if name in columns)
    return any(isinstance(table[name], SkyCoord) for name in coordinates) or any(
        lon in columns and lat in columns for lon, lat, _ in SKY_COLUMNS
    )


def _sky_places(table: Table, columns: dict[str, str], obs) -> list[Places]:
    found = []
    for name in COORDINATE_COLUMNS:
        if name in columns and isinstance(table[columns[name]], SkyCoord):
            sky = table[columns[name]]
            lon, lat = (np.ma.filled(a.deg, np.nan) for a in (sky.spherical.lon, sky.spherical.lat))
            found.append(_on_image(lon, lat, sky.frame, columns[name], obs))
    for lon_name, lat_name, frame in SKY_COLUMNS:
        if lon_name in columns and lat_name in columns:
            names = columns[lon_name], columns[lat_name]
            if len(_pair(frame, found)):
                continue
            found.append(_read_best(table, names, frame, obs))
    return found


def _pair(frame: str, found: Sequence[Places]) -> Sequence[Places]:
    """Return places found already, where `frame` is one that is only taken without others."""
    return found if frame != "icrs" else ()


def _read_best(table: Table, names: tuple[str, str], frame: str, obs) -> Places:
    """Return places by the first way to read the numbers that puts a source into the image."""
    both = " and ".join(names)
    ways: list[tuple[str, Places]] = []
    for one in angles(table, *names):
        if np.nanmax(np.abs(np.append(one.lat, 0))) > 90:
            worst = int(np.nanargmax(np.abs(one.lat)))
            if not ways:
                raise InputError(
                    f"row {worst} has the declination {one.lat[worst]:g} degrees in {names[1]!r}; it "
                    "must be within -90 and 90."
                )
            continue
        ways.append((one.how, _on_image(one.lon, one.lat, frame, both, obs)))
    for number, (how, places) in enumerate(ways):
        if places.inside(obs.shape).any():
            if number == 0:
                return places
            return places._replace(
                how=f"{both} were read as {how}: in {ways[0][0]} no source would be in the image."
            )
    return ways[0][1]


def _on_image(lon, lat, frame, names: str, obs) -> Places:
    """Return places of positions on the sky, in degrees; NaN far from the image."""
    given = np.isfinite(lon) & np.isfinite(lat)
    out = np.full((len(lon), 2), np.nan)
    height, width = obs.shape
    middle = obs.wcs.pixel_to_world((width - 1) / 2, (height - 1) / 2)
    corner = obs.wcs.pixel_to_world(-0.5, -0.5)
    sky = SkyCoord(np.where(given, lon, 0), np.where(given, lat, 0), unit="deg", frame=frame)
    near = given & (sky.separation(middle) < _FAR * middle.separation(corner))
    if near.any():
        try:
            x, y = obs.wcs.world_to_pixel(sky[near])
        except Exception as error:  # NoConvergence of distortions
            raise InputError(
                "the WCS can't say where the catalog's positions on the sky are in the image; give x "
                "and y in pixels."
            ) from error
        out[near] = np.stack([np.atleast_1d(y), np.atleast_1d(x)], axis=1)
    return Places(out, given, names)


def coordinates_missing(places: Places, ids: Sequence[str]) -> None:
    """Raise `InputError` if positions are missing."""
    bad = np.flatnonzero(~places.given)
    if bad.size:
        raise InputError(
            f"{bad.size} position(s) are not finite or missing, first of source {ids[bad[0]]!r}; "
            "remove them."
        )
