"""Common functions for both lines of ArviZ.

ArviZ 1.x works on xarray's DataTree, 0.23 (the last for Python 3.11) on its own
InferenceData.  All differences are handled here; `tests/test_compat.py` tests them.
"""

import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from scorepriors._compat import arviz_module
from scorepriors._errors import InputError
from scorepriors._files import atomic_path

az: Any = arviz_module()

#: Whether ArviZ is of the DataTree line.
DATATREE = int(az.__version__.split(".")[0]) >= 1


#: Groups with draws, whose first axes are chains and draws.
_DRAWN = ("posterior", "sample_stats", "log_likelihood", "log_prior", "posterior_predictive")


def make_tree(groups: dict[str, Any], *, dims=None, coords=None, attrs=None) -> Any:
    """Return ArviZ's object: a DataTree with ArviZ 1.x, InferenceData with 0.23.

    A slash in a name (``galaxies/morphology``) becomes an underscore: in a tree, and in
    NetCDF, it would mean another group.

    Parameters
    ----------
    groups
        Arrays by group and name; ``(chain, draw, ...)`` for those of draws.
    dims
        Names of the other axes, by variable.
    coords
        Coordinates by axis.
    attrs
        Attributes of the tree.
    """
    groups = {
        name: {plain(n): np.asarray(array) for n, array in group.items()}
        for name, group in groups.items()
        if group
    }
    dims = {plain(n): [plain(d) for d in axes] for n, axes in (dims or {}).items()}
    coords = {plain(n): c for n, c in (coords or {}).items()}
    datasets = {name: _dataset(name, group, dims, coords) for name, group in groups.items()}
    attrs = attrs or {}
    if DATATREE:
        tree = xarray.DataTree.from_dict(datasets)
        tree.attrs.update(attrs)
        return tree
    return az.InferenceData(**datasets, attrs=attrs)


def _dataset(name: str, variables: dict, dims: dict, coords: dict) -> xarray.Dataset:
    """Return one group.  Log-densities have no axes of events: names beyond theirs are cut."""
    leading = 2 if name in _DRAWN else 0
    named = {n: dims[n][: array.ndim - leading] for n, array in variables.items() if n in dims}
    used = {axis for axes in named.values() for axis in axes}
    own = {n: c for n, c in coords.items() if n in used}
    first = ["chain", "draw"][:leading]
    options = {"sample_dims": first} if DATATREE else {"default_dims": first}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="More chains")
        return az.dict_to_dataset(variables, dims=named, coords=own, **options)


def plain(name: str) -> str:
    """Return the name of a site in a tree, where a slash would mean another group."""
    return name.replace("/", "_")


def group(tree: Any, name: str) -> Any:
    """Return a group of the tree as an xarray Dataset."""
    found = tree[name]
    return found.to_dataset() if hasattr(found, "to_dataset") else found


def replace_group(tree: Any, name: str, dataset: Any) -> None:
    """Replace a group by another Dataset."""
    if hasattr(tree, "children"):
        tree[name].dataset = dataset
    else:
        tree.map(lambda _: dataset, groups=name, inplace=True)


def group_names(tree: Any) -> tuple[str, ...]:
    """Return the names of the groups."""
    names = tree.children if hasattr(tree, "children") else tree.groups()
    return tuple(names)


def save_tree(tree: Any, path: str | Path) -> None:
    """Write NetCDF (or zarr, for a path that ends so), atomically.

    Parameters
    ----------
    tree
        Draws, from `sample`, `laplace` or one of their like.
    path
        File to write; a folder for ``.zarr``.

    Raises
    ------
    InputError
        For zarr, where it is not installed.
    """
    path = Path(path)
    if path.suffix == ".zarr":
        _needs_zarr(path)
        # ArviZ 0.23 supports only earlier versions of zarr; xarray supports both.
        whole = tree if DATATREE else tree.to_datatree()
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
            # Version 3 of the format does not have strings of fixed length yet.
            whole.to_zarr(Path(folder) / "new", zarr_format=2)
            if path.exists():
                path.rename(Path(folder) / "old")
            (Path(folder) / "new").rename(path)
        return
    with atomic_path(path) as temporary:
        tree.to_netcdf(str(temporary), engine="h5netcdf")


def load_tree(path: str | Path) -> Any:
    """Read a file of `save_tree`.

    Parameters
    ----------
    path
        The file, or the folder ``.zarr``.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        The tree, in the format of the installed ArviZ.

    Raises
    ------
    InputError
        For zarr, where it is not installed.
    """
    path = Path(path)
    if path.suffix == ".zarr":
        _needs_zarr(path)
        with xarray.open_datatree(path, engine="zarr") as stored:
            whole = stored.load()
        return whole if DATATREE else az.InferenceData.from_datatree(whole)
    return az.from_netcdf(str(path))


def _needs_zarr(path: Path) -> None:
    if find_spec("zarr") is None:
        raise InputError(
            f"{path.name!r} needs the package zarr: pip install zarr, or name a file that ends "
            "in .nc."
        )


def effective_sizes(dataset: Any, method: str = "bulk") -> dict[str, np.ndarray]:
    """Return the effective sample size of every element, by variable."""
    return {n: np.asarray(v) for n, v in az.ess(dataset, method=method).data_vars.items()}
