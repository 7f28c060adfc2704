"""Checks of models and points that would otherwise end in words of JAX or NumPyro."""

from collections.abc import Mapping

import numpy as np

from scorepriors._errors import InputError


def check_free(sites: Mapping, purpose: str) -> None:
    """Refuse a model that has nothing to fit or to sample.

    Parameters
    ----------
    sites
        Continuous latent sites, by name.
    purpose
        Purpose in a word, such as ``"sample"``.

    Raises
    ------
    InputError
        Without a continuous latent site.
    """
    if not sites:
        raise InputError(
            f"the model has no free site to {purpose}: every site is observed or discrete."
        )


def check_point(shapes: Mapping, u: Mapping, what: str) -> None:
    """Refuse a point that has not the sites and shapes of a model's parameters.

    Parameters
    ----------
    shapes
        Shapes of the parameters by site, as `Posterior.shapes` returns them.
    u
        Unconstrained parameters by site.
    what
        Words for the point.

    Raises
    ------
    InputError
        For sites that are missing or too many, and for other shapes.
    """
    wanted = {name: one.shape for name, one in shapes.items()}
    given = {name: np.shape(value) for name, value in u.items()}
    if given != wanted:
        raise InputError(
            f"{what} needs the unconstrained parameters of the sites {_listed(wanted)}, and got "
            f"{_listed(given)}: give `.params` of a fit, not its `.values`, or the result of "
            "`Posterior.unconstrain`."
        )


def _listed(shapes: Mapping) -> str:
    return ", ".join(f"{name!r} {shape}" for name, shape in sorted(shapes.items())) or "none"
