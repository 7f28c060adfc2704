"""Data and reference draws of posteriordb (Magnusson et al. 2024, arXiv 2407.04967).

Read from a checkout, from a git directory without a work tree, or from the address that git clones.
"""

import io
import json
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

#: Where the database lives, for those with a network.
ADDRESS = "https://github.com/stan-dev/posteriordb"


class Entry(NamedTuple):
    """Data by name, and reference draws ``[chain, draw]`` by parameter (``beta[1]``)."""

    data: dict
    draws: dict[str, np.ndarray]


class Database:
    """posteriordb at a path, or cloned from an address."""

    def __init__(self, place: str):
        self.path = Path(place)
        if not self.path.exists():
            self._folder = tempfile.TemporaryDirectory()
            self.path = Path(self._folder.name)
            subprocess.run(["git", "clone", "-q", "--depth", "1", place, self.path], check=True)
        self.bare = not (self.path / "posterior_database").exists()

    def _bytes(self, name: str) -> bytes:
        inside = f"posterior_database/{name}"
        if not self.bare:
            return (self.path / inside).read_bytes()
        command = ["git", "--git-dir", str(self.path), "show", f"HEAD:{inside}"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def _zipped(self, name: str):
        with zipfile.ZipFile(io.BytesIO(self._bytes(name))) as archive:
            return json.loads(archive.read(archive.namelist()[0]))

    def entry(self, name: str) -> Entry:
        """Return the data and the reference draws of a posterior."""
        facts = json.loads(self._bytes(f"posteriors/{name}.json"))
        data = self._zipped(f"data/data/{facts['data_name']}.json.zip")
        reference = facts["reference_posterior_name"]
        chains = self._zipped(f"reference_posteriors/draws/draws/{reference}.json.zip")
        draws = {n: np.array([chain[n] for chain in chains], float) for n in chains[0]}
        return Entry({n: _array(v) for n, v in data.items()}, draws)


def _array(value):
    return np.asarray(value) if isinstance(value, list) else value
