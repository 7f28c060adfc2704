"""Which sources are stars, from columns of catalogs."""

from collections.abc import Sequence

import numpy as np
from astropy.table import Table

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note

from ._columns import first_of, plain, words

#: Columns of yes or no.
_STAR_COLUMNS = ("is_star", "is_point", "isstar", "star", "point_source", "is_point_source")

#: Columns of a word; those after the first also hold other things than kinds of sources.
_TYPE_COLUMNS = ("type", "kind", "class", "objtype", "obj_type", "object_type", "morphtype")

#: Columns of a probability or a measure, which decide nothing by themselves.
_DEGREES = (
    "class_star",  # SExtractor
    "spread_model",
    "refextendedness",  # Rubin
    "extendedness",
    "point_like_prob",  # Euclid
    "classprob_dsc_combmod_star",  # Gaia
    "probpsf",  # SDSS
)

_YES = ("true", "t", "yes", "y", "1", "1.0", "star", "stars", "point", "psf", "stellar")
_NO = ("false", "f", "no", "n", "0", "0.0", "galaxy", "gal", "extended", "")

#: Words for points: Tractor's PSF, NED's *, SDSS's 6.
_POINT_TYPES = ("star", "point", "psf", "stellar", "pointsource", "point source", "*", "s", "6")

#: NED's words for what is neither star nor galaxy for certain, and SDSS's 0: modeled as galaxies.
_OTHER_TYPES = (
    *(
        "qso",
        "gpair",
        "gtrpl",
        "ggroup",
        "gclstr",
        "pofg",
        "q_lens",
        "g_lens",
        "qgroup",
        "other",
        "0",
    ),
    *("radios", "irs", "uves", "uvs", "viss", "xrays", "gammas", "emls", "emobj", "absls", "absl"),
)

#: Words for galaxies: Tractor's profiles, NED's G, SDSS's 3.
_EXTENDED_TYPES = (
    *("galaxy", "gal", "g", "extended", "sersic", "3"),
    *("rex", "exp", "dev", "ser", "comp", "simp"),
)

#: What the column `model` of this package's catalogs holds.
_MODELS = ("point", "profile", "free-form")


def find_stars(table: Table, columns: dict[str, str], ids: Sequence[str]) -> np.ndarray:
    """Return which sources are points, ``[K]``.

    Raises
    ------
    InputError
        For words that are not understood in a column that is there for this.
    """
    name = first_of(columns, _STAR_COLUMNS)
    kind = first_of(columns, _TYPE_COLUMNS)
    if name is not None:
        return _from_yes_or_no(table, name, ids)
    if kind is not None:
        found = _from_types(table, kind, ids)
        if found is not None:
            return found
    if "model" in columns:
        models = [word.lower() for word in words(table[columns["model"]])]
        if set(models) <= set(_MODELS):
            return np.array([word == "point" for word in models], bool)
    degree = first_of(columns, _DEGREES)
    if degree is not None:
        note(
            f"the column {degree} is a degree, not a decision, and was not used: all sources are "
            "modeled as galaxies; add a column is_star (true or false) to model stars as points."
        )
    return np.zeros(len(table), bool)


def _from_yes_or_no(table: Table, name: str, ids: Sequence[str]) -> np.ndarray:
    values, missing = plain(table[name])
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
    each = [
        "" if gone else word.lower() for word, gone in zip(words(table[name]), missing, strict=True)
    ]
    for source, word in zip(ids, each, strict=True):
        if word not in (*_YES, *_NO):
            raise InputError(
                f"the column {name!r} must hold true or false (or 1 and 0, yes and no, star and "
                f"galaxy); source {source!r} has {word!r}."
            )
    return np.array([word in _YES for word in each], bool)


def _from_types(table: Table, name: str, ids: Sequence[str]) -> np.ndarray | None:
    """Return which sources are points by words; None where the column holds other things."""
    kinds = [word.lower() for word in words(table[name])]
    other = sorted({kind for kind in kinds if kind in _OTHER_TYPES})
    if other:
        note(
            f"sources of the types {', '.join(other)} in the column {name!r} are modeled as galaxies; add "
            "a column is_star to model some as points."
        )
    known = (*_POINT_TYPES, *_EXTENDED_TYPES, *_OTHER_TYPES)
    unknown = [(source, kind) for source, kind in zip(ids, kinds, strict=True) if kind not in known]
    if not unknown:
        return np.array([kind in _POINT_TYPES for kind in kinds], bool)
    source, kind = unknown[0]
    if name.lower() == _TYPE_COLUMNS[0]:
        raise InputError(
            f"source {source!r} has the type {kind!r}; give star, point, psf, galaxy or extended (or "
            "Tractor's PSF, REX, EXP, DEV, SER)."
        )
    note(
        f"the column {name!r} holds {kind!r}, which is neither star nor galaxy, and was not used: all "
        "sources are modeled as galaxies; add a column is_star to model stars as points."
    )
    return None
