"""Positions from region files of ds9: centers of circles, ellipses, boxes and points."""

import re

import numpy as np
from astropy.coordinates import Angle, SkyCoord
from astropy.table import Table

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note

#: Shapes with a center.
_CENTERED = ("circle", "ellipse", "box", "rotbox", "point", "annulus", "panda", "epanda", "bpanda")

#: Shapes without one, which are left out.
_OTHER = ("polygon", "line", "vector", "projection", "segment", "ruler", "compass", "text")

#: Coordinate systems of pixels, and of the sky with their frames in astropy.
_PIXELS = ("image", "physical")
_FRAMES = {"icrs": "icrs", "fk5": "fk5", "j2000": "fk5", "fk4": "fk4", "b1950": "fk4"}
_FRAMES |= {"galactic": "galactic", "ecliptic": "barycentrictrueecliptic"}

_SHAPE = re.compile(r"([+-]?)\s*([a-z]+)\s*[( ]\s*([^)]*)", re.I)
_NAME = re.compile(r"""text\s*=\s*(?:\{([^}]*)\}|"([^"]*)"|'([^']*)')""", re.I)


def read_regions(written: str, name: str) -> Table:
    """Return the centers of regions as a table.

    Parameters
    ----------
    written
        Content of the file; the coordinates may be image, physical, FK5, ICRS, FK4, galactic or
        ecliptic, in degrees or sexagesimal.
    name
        Name of the file, for messages.

    Returns
    -------
    Table
        Columns ``x_image``, ``y_image`` (first pixel 1) or ``sky``; ``id`` where every region has
        a text.

    Raises
    ------
    InputError
        If there is no region with a center, or for coordinates that can't be understood.
    """
    system = "physical"  # what ds9 takes where nothing is said
    places, systems, texts, left = [], [], [], []
    for line in written.splitlines():
        said, _, comment = line.partition("#")
        for part in said.split(";"):
            word = part.strip().lower()
            if word in _PIXELS or word in _FRAMES:
                system = word
                continue
            found = _SHAPE.match(part.strip().replace(",", " "))
            if found is None or word.startswith("global"):
                if word and not word.startswith("global"):
                    raise InputError(
                        f"{name} has the line {line.strip()[:60]!r}, which is no region of ds9; save "
                        "regions in the format ds9 and the system fk5 or image."
                    )
                continue
            sign, shape, numbers = found[1], found[2].lower(), found[3].split()
            if shape in _OTHER or (shape in _CENTERED and sign == "-"):
                left.append(shape if sign != "-" else "excluded")
                continue
            if shape not in _CENTERED:
                raise InputError(
                    f"{name} has the system or shape {shape!r}, which is not understood; save "
                    "regions in the system fk5 or image."
                )
            if len(numbers) < 2:
                raise InputError(f"{name}: {part.strip()!r} has no center.")
            places.append(_place(numbers[:2], system, name))
            systems.append(system)
            given = _NAME.search(comment)
            texts.append("" if given is None else next(g for g in given.groups() if g is not None))
    if left:
        kinds = ", ".join(sorted(set(left)))
        note(f"{name} has {len(left)} region(s) without a center ({kinds}), which were left out.")
    if not places:
        raise InputError(f"{name} holds no region with a center, such as circle or point.")
    table = _table(np.array(places), systems, name)
    if all(texts) and len(set(texts)) == len(texts):
        table["id"] = texts
    return table


def _place(numbers: list[str], system: str, name: str) -> tuple[float, float]:
    try:
        if system in _PIXELS:
            return float(numbers[0].rstrip("ip")), float(numbers[1].rstrip("ip"))
        in_hours = ":" in numbers[0] and system not in ("galactic", "ecliptic")
        units = ("hourangle" if in_hours else "deg", "deg")
        lon, lat = (_angle(one, unit) for one, unit in zip(numbers, units))
        return lon, lat
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: {' '.join(numbers)!r} is no position in {system}.") from error


def _angle(word: str, unit: str) -> float:
    if word.endswith("r"):
        return float(np.degrees(float(word[:-1])))
    return float(Angle(word, unit=unit).deg)


def _table(places: np.ndarray, systems: list[str], name: str) -> Table:
    frames = {_FRAMES.get(one, "pixels") for one in systems}
    if len(frames) > 1:
        raise InputError(
            f"{name} mixes the systems {', '.join(sorted(set(systems)))}; save all regions in one."
        )
    (frame,) = frames
    if frame != "pixels":
        return Table({"sky": SkyCoord(*places.T, unit="deg", frame=frame).icrs})
    if "physical" in systems:
        note(
            f"the regions of {name} are in physical coordinates, which were taken as those of the "
            "image; save them in the system image or fk5 if it was cut from another."
        )
    return Table({"x_image": places[:, 0], "y_image": places[:, 1]})
