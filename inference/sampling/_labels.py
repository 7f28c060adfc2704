"""Names of the axes of a model's sites, for ArviZ."""

from typing import Any

#: Axes of one event of this project's sites (and of deterministic ones, whole), by the
#: name or its last part.  A box has its own axes: ``y, x`` are those of the image.
AXES = {
    "morphology": ("box_y", "box_x"),
    "large/morphology": ("large_box_y", "large_box_x"),
    "offset": ("axis",),
    "ellipticity": ("ellipticity_component",),
    "bulge_ellipticity": ("ellipticity_component",),
    "spectrum": ("source", "band"),
    "flux": ("source", "band"),
}


def site_dims(trace: dict[str, Any]) -> dict[str, list[str]]:
    """Names of the axes of every site: plates by name, the rest from `AXES`.

    Axes without a name are called after the site, as ArviZ does.

    Parameters
    ----------
    trace
        From `Posterior.trace`.
    """
    dims = {}
    for name, site in trace.items():
        if site["type"] not in ("sample", "deterministic"):
            continue
        frames = [(f.name, f.dim) for f in site.get("cond_indep_stack", [])]
        event = len(site["fn"].event_shape) if site["type"] == "sample" else 0
        if site["value"].ndim:
            dims[name] = _dims(name, frames, event, site["value"].ndim)
    return dims


def _dims(name: str, frames, event: int, ndim: int) -> list[str]:
    dims = [f"{name}_dim_{i}" for i in range(ndim)]
    batch = ndim - event
    for plate, dim in frames:
        if -batch <= dim < 0:
            dims[batch + dim] = plate
    own = AXES.get(name) or AXES.get(name.rsplit("/", 1)[-1], ())
    if own and len(own) <= ndim and all(d.startswith(f"{name}_dim_") for d in dims[-len(own) :]):
        dims[-len(own) :] = own
    return dims
