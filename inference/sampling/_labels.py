"""Names of the axes of a model's sites, for ArviZ."""

from typing import Any


def site_dims(trace: dict[str, Any]) -> dict[str, list[str]]:
    """Return names of the axes of every site, from plates and from annotations of events.

    As in NumPyro, ``numpyro.sample(..., infer={"event_dims": ["y", "x"]})`` names the axes of one
    event.  Axes without a name are named after the site, as in ArviZ.

    Parameters
    ----------
    trace
        Result of `Posterior.trace`.
    """
    dims = {}
    for name, site in trace.items():
        if site["type"] not in ("sample", "deterministic") or not site["value"].ndim:
            continue
        ndim = site["value"].ndim
        event = len(site["fn"].event_shape) if site["type"] == "sample" else 0
        axes = [f"{name}_dim_{i}" for i in range(ndim)]
        for frame in site.get("cond_indep_stack", []):
            if -(ndim - event) <= frame.dim < 0:
                axes[ndim - event + frame.dim] = frame.name
        own = (site.get("infer") or {}).get("event_dims", [])
        if own and len(own) == event:
            axes[-event:] = own
        dims[name] = axes
    return dims
