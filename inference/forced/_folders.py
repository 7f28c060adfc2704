"""Folders of finished runs, of scenes and of fields."""

import os
from pathlib import Path
from typing import Any

from scorepriors._errors import InputError
from scorepriors.inference.deblending._scene_file import NAME as SCENE

#: Draws in a folder of `sample`.
_DRAWS = "posterior.nc"


def opened(result: Any) -> tuple[Any, Any]:
    """Return a finished run, and draws of it or None.

    Parameters
    ----------
    result
        A result, returned as it is, or the folder of one.

    Raises
    ------
    InputError
        If the folder does not exist, or holds no result.
    """
    if not isinstance(result, str | os.PathLike):
        return result, None
    path = Path(result)
    if path.exists() and not path.is_dir():
        raise InputError(f"{str(path)!r} is a file; give the folder that `deblend` wrote.")
    if not path.exists():
        raise InputError(f"there is no folder {str(path)!r}; give one that `deblend` wrote.")
    if (path / SCENE).exists():
        from scorepriors.inference.deblending._scene_file import load_scene
        from scorepriors.inference.sampling._tree import load_tree

        chains = path / _DRAWS
        return load_scene(path), load_tree(chains) if chains.exists() else None
    from scorepriors.inference.fields._stamps import open_field

    try:
        return open_field(path), None
    except InputError as error:
        raise InputError(
            f"{str(path)!r} holds no result of `deblend` or `sample` ({error})"
        ) from error
