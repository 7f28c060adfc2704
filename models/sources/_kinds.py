"""Groups of sources in files: their facts, and groups from facts."""

from collections.abc import Iterator, Mapping
from typing import Any

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError

from ._abstract import AbstractSource
from ._bulge_disk import BulgeDisk
from ._free_form import FreeForm
from ._placement import Placement
from ._point import PointSource
from ._sersic import Sersic

#: Kinds of this package; others are found once the module that defines them is imported.
OWN = (FreeForm, PointSource, BulgeDisk, Sersic)


def group_facts(group: AbstractSource) -> dict[str, Any]:
    """Return the facts of a group for JSON; arrays of its `at` are stored separately."""
    return {
        "name": group.name,
        "kind": type(group).__name__,
        "box": group.at.box,
        "settings": group.settings(),
    }


def group_from(
    facts: Mapping[str, Any], at: Placement, prior: ScorePrior | None = None
) -> AbstractSource:
    """Return the group with the given `group_facts`.

    Parameters
    ----------
    facts
        Result of `group_facts`.
    at
        Positions of the sources.
    prior
        Prior of free-form sources.

    Raises
    ------
    InputError
        For a kind that no imported module defines.
    """
    known = {kind.__name__: kind for kind in (*_all_kinds(AbstractSource), *OWN)}
    kind = known.get(facts["kind"])
    if kind is None:
        raise InputError(
            f"the results hold sources of the kind {facts['kind']!r}, which is not known; import "
            "the module that defines it first."
        )
    settings = dict(facts["settings"])
    if kind is FreeForm:
        return FreeForm(prior, at, facts["name"], tuple(settings["axes"]))
    return kind(at, facts["name"], **settings)


def _all_kinds(kind: type) -> Iterator[type]:
    child: type
    for child in kind.__subclasses__():
        yield child
        yield from _all_kinds(child)
