"""Groups of sources in files: their facts, and groups from facts."""

from collections.abc import Iterator, Mapping
from typing import Any

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError

from ._abstract import AbstractSource
from ._bulge_disk import BulgeDisk
from ._free_form import FreeForm
from ._moving import MovingStar
from ._parametric import AbstractParametric, Site
from ._placement import Placement
from ._point import PointSource
from ._sersic import Sersic
from ._two_color import TwoColor
from ._two_part import TwoPart

#: Kinds of this package; others are found once the module that defines them is imported.
OWN = (FreeForm, PointSource, BulgeDisk, Sersic, TwoColor, TwoPart, MovingStar)


def group_facts(group: AbstractSource) -> dict[str, Any]:
    """Return the facts of a group for JSON; arrays of its `at` are stored separately."""
    facts = {
        "name": group.name,
        "kind": _kind_name(type(group)),
        "box": group.at.box,
        "settings": group.settings(),
    }
    if isinstance(group, AbstractParametric):
        facts["sites"] = {
            name: {
                "mean": float(site.mean),
                "width": float(site.width),
                "axis": site.axis,
                "known": site.known,
            }
            for name, site in group.sites.items()
        }
    return facts


def _kind_name(kind: type) -> str:
    """Return the class name of an own kind, and the module's as well for another."""
    return kind.__name__ if kind in OWN else f"{kind.__module__}.{kind.__qualname__}"


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
    known = {_kind_name(kind): kind for kind in (*_all_kinds(AbstractSource), *OWN)}
    kind = known.get(facts["kind"])
    if kind is None:
        module = facts["kind"].rpartition(".")[0]
        raise InputError(
            f"the results hold sources of the kind {facts['kind']!r}, which is not known; import "
            f"the module that defines it first{f' ({module})' if module else ''}."
        )
    settings = dict(facts["settings"])
    if kind in (FreeForm, TwoPart):
        axes = tuple(settings.pop("axes"))
        return kind(prior, at, facts["name"], axes, **settings)
    group = kind(at, facts["name"], **settings)
    if "sites" in facts:
        return group.replaced(sites={n: Site(**site) for n, site in facts["sites"].items()})
    return group


def _all_kinds(kind: type) -> Iterator[type]:
    child: type
    for child in kind.__subclasses__():
        yield child
        yield from _all_kinds(child)
