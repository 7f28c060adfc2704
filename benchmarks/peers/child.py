"""Runs one code on a file of blends, in the environment of that code; needs NumPy alone.

    python child.py ADAPTER blends.npz output.npz [--limit N] [--settings '{"iterations": 200}']

ADAPTER is a Python file with ``version()`` and ``deblend(blend, **settings)``, which returns models
``[K, B, H, W]`` as observed, or with ``deblend_all(blends, **settings)``, which returns a list of
them.  An error in a blend is noted, and its models are zero.
"""

import argparse
import importlib.util
import json
import resource
import sys
from types import SimpleNamespace

import numpy as np


def blends_of(path: str, limit: int | None = None) -> list[SimpleNamespace]:
    """Return what a deblender may see of each blend of a file."""
    with np.load(path, allow_pickle=False) as arrays:
        held = dict(arrays)
    edges = held["src_start"]
    return [
        SimpleNamespace(
            index=i,
            path=str(held["path"]),
            images=held["images"][i],
            weights=held["weights"][i],
            psfs=held["psfs"][i],
            centers=held["centers"][edges[i] : edges[i + 1]],
            bands=[str(band) for band in held["bands"]],
        )
        for i in range(min(len(edges) - 1, limit or len(edges)))
    ]


def adapter_of(path: str):
    """Return the module in a file."""
    spec = importlib.util.spec_from_file_location("adapter", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fitted(adapter, blends, settings: dict) -> tuple[list, list]:
    """Return models and errors of each blend."""
    if hasattr(adapter, "deblend_all"):
        return adapter.deblend_all(blends, **settings), [""] * len(blends)
    models, errors = [], []
    for blend in blends:
        try:
            model, why = np.asarray(adapter.deblend(blend, **settings), np.float32), ""
        except Exception as error:  # of another's code: the next blend may do
            model = np.zeros((len(blend.centers), *blend.images.shape), np.float32)
            why = f"{type(error).__name__}: {error}"
            print(f"blend {blend.index}: {why}", file=sys.stderr)
        models.append(model)
        errors.append(why)
    return models, errors


def main():
    """Run the code, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter")
    parser.add_argument("blends")
    parser.add_argument("output")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--settings", type=json.loads, default={})
    given = parser.parse_args()
    blends = blends_of(given.blends, given.limit)
    adapter = adapter_of(given.adapter)
    models, errors = fitted(adapter, blends, given.settings)
    np.savez(
        given.output,
        models=np.concatenate(models),
        errors=np.array(errors),
        # KiB on Linux, bytes on macOS.
        peak_bytes=(1 if sys.platform == "darwin" else 1024)
        * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        version=str(adapter.version()),
    )


if __name__ == "__main__":
    main()
