"""Noise and sky of the image of forced photometry: what its empty pixels say of the file."""

from collections.abc import Iterable
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float

from scorepriors.inference.deblending._sky import FittedSky, kind_of_sky, with_level_subtracted
from scorepriors.models.data._field_checks import (
    FieldWarning,
    check_field,
    refuse_hopeless,
    rescale_noise,
)
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import note, said_before
from scorepriors.models.data.positions._positions import Positions


class Checked(NamedTuple):
    """An image whose noise and sky were compared with its empty pixels.

    Attributes
    ----------
    observation
        The image, with other weights if these were to be rescaled.
    kind
        Kind of the sky to fit with the sources; None for none.
    level
        Level of that sky in the empty pixels; None for none.
    doubts
        Sentences of `check_field` on what is not fitted.
    """

    observation: Observation
    kind: str | None = None
    level: FittedSky | None = None
    doubts: dict[str, str] = {}


def checked(
    obs: Observation,
    places: Float[np.ndarray, "N 2"],
    sky: str,
    *,
    rescale: bool = False,
    refuse: bool = True,
) -> Checked:
    """Compare noise and sky of an image with its empty pixels, as `deblend` does.

    Parameters
    ----------
    obs
        The image.
    places
        Pixels (row, column) of the sources.
    sky
        ``"auto"``: a sky is fitted where empty pixels show one; or a kind of sky, or ``"none"``.
    rescale
        Whether errors are rescaled where empty pixels scatter by far more or less.
    refuse
        Whether a hopeless sky is refused; else it is a doubt like any other.

    Raises
    ------
    InputError
        If there is so much sky that fluxes would mean nothing, and it is not fitted.
    """
    if not obs.num_pixels:
        return Checked(obs)
    names = tuple(map(str, range(len(places))))
    positions = Positions(names, np.asarray(places, float), np.zeros(len(places), bool))
    if rescale:
        obs = cast(Observation, rescale_noise(obs, positions))
    kind, rest, level = kind_of_sky(obs, positions, sky), obs, None
    if kind is not None:
        with said_before():
            rest, level = with_level_subtracted(obs, positions, kind)
    if refuse:
        refuse_hopeless(rest, positions)
    return Checked(obs, kind, level, check_field(rest, positions))


def tell_doubts(doubts: Iterable[str]) -> None:
    """Warn with sentences on noise and sky."""
    for sentence in doubts:
        note(sentence, FieldWarning)
