"""Marks on the picture of a scene, as SVG: its sources, a scale bar, north and east."""

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from astropy import units as u

from scorepriors.models.data._views import View

#: Units of the drawing per pixel: browsers dislike letters smaller than a unit.
_FINE = 10

#: Widest scale bar, as a share of the image, and length of the arrows.
_BAR, _ARROW = 0.3, 0.11

#: Number of sources from which their names are written smaller.
_MANY = 12


class Marks(NamedTuple):
    """Marks of one observation.

    Attributes
    ----------
    svg
        The drawing, to be laid over the image.
    words
        What scale bar and arrows say, in words.
    """

    svg: str
    words: str


def scene_marks(
    view: View, places: np.ndarray, names: Sequence[str], serious: Sequence[bool]
) -> Marks:
    """Return marks of the sources of a scene, linked to their parts of the page.

    Parameters
    ----------
    view
        The observation.
    places
        Positions (row, column) of the sources in its pixels, ``[N, 2]``; those outside are left out.
    names
        Names of the sources.
    serious
        Whether a flag of theirs calls for a look.
    """
    height, width = view.observation.shape
    side = max(height, width)
    parts = [
        _source(k, (column + 0.5, height - 0.5 - row), name, (width, side), bad, len(names))
        for k, ((row, column), name, bad) in enumerate(zip(places, names, serious, strict=True))
        if -0.5 <= row < height - 0.5 and -0.5 <= column < width - 0.5
    ]
    length, label, said = scale_bar(view)
    parts.append(_bar(length, label, height, side))
    words = f"The scale bar is {said} long"
    arrows = compass(view)
    if arrows is not None:
        parts.append(_arrows(*arrows, width, side))
        words += f"; {_direction('north', arrows[0])}, {_direction('east', arrows[1])}"
    svg = (
        f'<svg viewBox="0 0 {_FINE * width} {_FINE * height}" role="group" '
        f'aria-label="Sources, scale bar and directions">{"".join(parts)}</svg>'
    )
    return Marks(svg, f"{words}.")


def scale_bar(view: View) -> tuple[float, str, str]:
    """Return length in pixels of a scale bar, its label, and the same in words."""
    obs = view.observation
    scale = obs.pixel_scale
    longest = _BAR * obs.shape[1] * (1.0 if scale is None else scale)
    unit = 10.0 ** np.floor(np.log10(longest))
    value = unit * max(step for step in (1, 2, 5) if step * unit <= longest)
    if scale is None:
        return value, f"{value:g} px", f"{value:g} pixels"
    return value / scale, f"{value:g}″", f"{value:g} arcsec"


def compass(view: View) -> tuple[np.ndarray, np.ndarray] | None:
    """Return unit vectors (right, up) towards north and east; None without a WCS."""
    obs = view.observation
    if obs.wcs is None:
        return None
    height, width = obs.shape
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    here = obs.wcs.pixel_to_world(*middle).icrs
    out = []
    for angle in (0, 90):
        there = here.directional_offset_by(angle * u.deg, obs.pixel_scale * u.arcsec)
        way = np.array(obs.wcs.world_to_pixel(there), float) - middle
        out.append(way / np.hypot(*way))
    return out[0], out[1]


def _direction(name: str, way: np.ndarray) -> str:
    """Return where an arrow points, in words."""
    right, up = (float(v) for v in way)
    if max(abs(right), abs(up)) > 0.9998:  # one degree
        where = ("right" if right > 0 else "left") if abs(right) > abs(up) else ""
        return f"{name} is {where or ('up' if up > 0 else 'down')}"
    # Angles on the sky are counted from up, counterclockwise.
    return f"{name} is {np.degrees(np.arctan2(-right, up)) % 360:.0f}° counterclockwise from up"


def _source(
    k: int,
    at: tuple[float, float],
    name: str,
    sizes: tuple[int, int],
    is_serious: bool,
    number: int,
) -> str:
    (x, y), (width, side) = at, sizes
    radius, letters = side / 42, side / (24 if number <= _MANY else 34)
    # To the left of sources that are near the right border.
    anchor, along = ("end", -1) if x > 0.8 * width else ("start", 1)
    kind = "mark serious" if is_serious else "mark"
    return (
        f'<a href="#source-{k + 1}" class="{kind}"><title>{escape(name)}</title>'
        f'<circle cx="{_at(x)}" cy="{_at(y)}" r="{_at(radius)}"/>'
        f'<text x="{_at(x + along * 1.25 * radius)}" y="{_at(y - 0.9 * radius)}" '
        f'text-anchor="{anchor}" font-size="{_at(letters)}">{escape(name)}</text></a>'
    )


def _bar(length: float, label: str, height: int, side: int) -> str:
    left, low, letters = 0.04 * side, height - 0.045 * side, side / 24
    return (
        f'<g class="bar-of-scale"><line x1="{_at(left)}" x2="{_at(left + length)}" y1="{_at(low)}" '
        f'y2="{_at(low)}"/><text x="{_at(left)}" y="{_at(low - 0.35 * letters)}" '
        f'font-size="{_at(letters)}">{escape(label)}</text></g>'
    )


def _arrows(north: np.ndarray, east: np.ndarray, width: int, side: int) -> str:
    length, letters = _ARROW * side, side / 26
    ways = {"N": (north[0], -north[1]), "E": (east[0], -east[1])}  # y of the drawing goes down
    reach = length + letters
    # The corner at the top right, with both arrows within the picture.
    x = width - 0.02 * side - reach * max(0.25, *(a for a, _ in ways.values()))
    y = 0.02 * side + reach * max(0.25, *(-b for _, b in ways.values()))
    parts = []
    for name, (right, down) in ways.items():
        tip = x + length * right, y + length * down
        text = x + (length + 0.6 * letters) * right, y + (length + 0.6 * letters) * down
        parts.append(
            f'<line x1="{_at(x)}" y1="{_at(y)}" x2="{_at(tip[0])}" y2="{_at(tip[1])}"/>'
            f'<text x="{_at(text[0])}" y="{_at(text[1] + 0.35 * letters)}" text-anchor="middle" '
            f'font-size="{_at(letters)}">{name}</text>'
        )
    return f'<g class="compass">{"".join(parts)}</g>'


def _at(value: Any) -> str:
    return f"{_FINE * float(value):.0f}"
