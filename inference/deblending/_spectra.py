"""Prior on the spectra of a blend: galaxies, and sources that vary."""

from collections.abc import Sequence

import numpy as np

from scorepriors._errors import InputError
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.scene._exposures import epoch_spectra, galaxy_spectra
from scorepriors.models.spectra._priors import AbstractSpectra


def spectra_of(
    obs,
    seen: Sequence[Exposure],
    ids: Sequence[str],
    variable: Sequence[str] = (),
    timescale: float | None = None,
    moving: Sequence[str] = (),
) -> AbstractSpectra:
    """Return the prior on the spectra of the sources of a blend.

    Parameters
    ----------
    obs, seen, ids
        Observation, its exposures, and names of the sources.
    variable, timescale, moving
        Options of the same name.

    Raises
    ------
    InputError
        If there is no source of the name of a variable one, if there is one epoch only, or if
        something varies but no band is seen twice.
    """
    if not variable and not moving:
        return galaxy_spectra(obs, seen)
    unknown = [name for name in (*variable, *moving) if name not in ids]
    if unknown:
        what = "vary" if set(unknown) & set(variable) else "move"
        raise InputError(
            f"there is no source {', '.join(map(repr, unknown))} that could {what}; the sources are "
            f"{', '.join(ids[:10])}{' ...' if len(ids) > 10 else ''}."
        )
    filters = [name for view in obs.views for name in view.observation.bands]
    if len(obs.views) == 1:
        raise InputError(
            f"the bands {', '.join(filters)} are of one epoch, at which nothing varies or moves; join "
            "observations of several times (join_observations, --with)."
        )
    if len(set(filters)) == len(filters):
        if variable:
            raise InputError(
                f"each of the bands {', '.join(filters)} is seen once, so that what varies cannot be told "
                "from its color; join observations of one band at several times."
            )
        # A star that moves may be seen in another band each time.
        return galaxy_spectra(obs, seen)
    varies = np.isin(ids, variable)
    return epoch_spectra(obs, seen, varies, timescale=timescale)
