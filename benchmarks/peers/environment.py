"""The environment of the peers: what is installed there, and how.

The astronomers' scarlet is not on PyPI, where another package has its name, and neither is
scarlet_lite: both are built from their repositories, or from checkouts of them
(``--source scarlet=PATH``).
"""

import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

#: What building from source needs: setuptools with what scarlet's script imports from it, and Eigen.
TOOLS = ("setuptools<81", "wheel", "pybind11", "peigen", "lsst-versions", "numpy")


class Peer(NamedTuple):
    """A code to compare with.

    Attributes
    ----------
    requirement
        What pip installs, and where a checkout replaces it.
    test
        What runs where it is there. A name of its own: others share the name of its module.
    adapter
        File in `adapters` that runs it.
    runs
        Rows of the table: name, and settings of the adapter where they are not the documented ones.
    """

    requirement: tuple[str, ...]
    test: str
    adapter: str
    runs: dict[str, dict]


#: The peers by name.  scarlet2's documentation has 1000 iterations; 200 do better.
PEERS = {
    "scarlet2": Peer(
        ("scarlet2==0.5.1", "tqdm"),
        "from scarlet2 import Scene",
        "scarlet2_scene",
        {"scarlet2": {}, "scarlet2, 200 iterations": {"iterations": 200}},
    ),
    "scarlet": Peer(
        (
            "scarlet @ git+https://github.com/pmelchior/scarlet@998ca34cf7441bc372280302178de2568990babb",
        ),
        "from scarlet import Blend",
        "scarlet_blend",
        {"scarlet": {}},
    ),
    "scarlet_lite": Peer(
        ("lsst-scarlet-lite @ git+https://github.com/lsst/scarlet_lite@w.2025.43",),
        "from lsst.scarlet.lite import Blend",
        "scarlet_lite_blend",
        {"scarlet_lite": {}},
    ),
}


def python_of(folder: Path) -> Path:
    """Return the interpreter of the environment in a folder, which is made if there is none."""
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    return python


def install(python: Path, name: str, source: str | None = None) -> str | None:
    """Install a peer; return None, or why it can't be.

    Parameters
    ----------
    python
        Interpreter of the environment.
    name
        Name in `PEERS`.
    source
        Folder with a checkout of it, in place of what is downloaded.
    """
    peer = PEERS[name]
    # Isolated: a checkout in the working directory would do for an import.
    test = [python, "-I", "-c", peer.test]
    if _run(test) is None:
        return None
    wanted = peer.requirement if source is None else (source, *peer.requirement[1:])
    built = source is not None or any(" @ " in one for one in wanted)
    pip = [python, "-m", "pip", "install", "--quiet"]
    steps = [[*pip, *TOOLS]] if built else []
    # In isolation its script would not see the headers.
    steps.append([*pip, *(["--no-build-isolation"] if built else []), *wanted])
    steps.append(test)
    for step in steps:
        why = _run(step)
        if why is not None:
            return why
    return None


def _run(command: list) -> str | None:
    """Run a command; return None, or the line that says why it failed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode == 0:
        return None
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    # What Git or the compiler said stands before what pip makes of it.
    for mark in ("fatal:", "fatal error:", "ERROR:", "Error:", "error:"):
        found = [line for line in said if mark in line]
        if found:
            return found[0]
    return said[-1] if said else f"exit code {done.returncode}"
