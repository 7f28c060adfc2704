"""Many blends in one command, `deblend --each`: which of them are done, and of what."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from scorepriors._errors import InputError

from . import _common as common
from ._common import NOT_CONVERGED, NOT_TRUSTED, written_summary
from ._input import Input

#: Entry of the summary of a blend: digest of its files and options; None if its fit was cut short.
REQUEST = "request"

#: Parameters of the command that change nothing in results, and those with one entry for each file.
_WITHOUT_EFFECT = {"files", "output", "force", "resume", "quiet", "as_json", "workers", "scheduler"}
_OF_FILES = ("noise_files", "masks")


class Plan(NamedTuple):
    """What a run has to do.

    Attributes
    ----------
    requests
        Digest of the files and options of each blend.
    todo
        Numbers of the blends that are not done.
    replaced
        Numbers of those whose results are of something else, and are replaced.
    """

    requests: list[str]
    todo: list[int]
    replaced: set[int]


def folders(files: Sequence[str], output: str | Path) -> list[Path]:
    """Return one folder per file, named after it.

    Raises
    ------
    InputError
        If two files have one name.
    """
    names = [Path(file).name.removesuffix(".gz") for file in files]
    names = [name.rsplit(".", 1)[0] or name for name in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"two files are called {twice[0]!r}, and so would be their folders of results; "
            "rename one."
        )
    return [Path(output) / name for name in names]


def planned(files: Sequence[str], targets: Sequence[Path], resume: bool) -> Plan:
    """Return what a run of the current command has to do, and say what it leaves and replaces.

    Parameters
    ----------
    files, targets
        File and folder of each blend.
    resume
        Whether blends that are done are left as they are.
    """
    options = click.get_current_context().params
    requests = [_request(number, file, options) for number, file in enumerate(files)]
    if not resume:
        return Plan(requests, [*range(len(files))], set())
    todo, replaced = [], set()
    for number, target in enumerate(targets):
        before = _recorded(target)
        if REQUEST not in before:
            todo.append(number)
            continue
        whole = not options["diagnosed"] or (target / "hallucination.png").exists()
        if before[REQUEST] == requests[number] and whole:
            continue
        why = (
            "was cut short"
            if before[REQUEST] is None or before[REQUEST] == requests[number]
            else "is of another input or other options"
        )
        click.echo(f"scorepriors: {target} {why}; it is done again.", err=True)
        todo.append(number)
        replaced.add(number)
    if len(todo) == len(files) and not replaced:
        common.say_start(targets[0].parent)
    elif len(todo) < len(files):
        done = len(files) - len(todo)
        click.echo(
            f"scorepriors: {done} of {len(files)} blends are done, and left as they are.", err=True
        )
    return Plan(requests, todo, replaced)


def those_of(given: Input, numbers: Sequence[int]) -> Input:
    """Return the input of some of the blends: their files, with noise and masks of their own."""
    reading = dict(given.reading)
    for name in ("noise", "mask"):
        # A number that is not one for each file is refused where they are read.
        if len(reading.get(name) or ()) == len(given.files):
            reading[name] = [reading[name][number] for number in numbers]
    files = tuple(given.files[number] for number in numbers)
    return dataclasses.replace(given, files=files, reading=reading)


def left_code(targets: Sequence[Path]) -> int:
    """Return the exit code for blends that were done before, and say what speaks against them."""
    code = 0
    for target in targets:
        facts = written_summary(target)
        for sentence in facts["doubts"].values():
            click.echo(f"scorepriors: {target}: {sentence}", err=True)
            code = NOT_TRUSTED
        if not facts["converged"]:
            click.echo(f"scorepriors: {target}: not converged.", err=True)
            code = NOT_CONVERGED
    return code


def _recorded(target: Path) -> Mapping[str, Any]:
    """Return the summary in a folder; an empty one if there is none."""
    try:
        facts = json.loads((target / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, Mapping) else {}


def _request(number: int, file: str, options: Mapping[str, Any]) -> str:
    """Return a digest of what makes the results of a blend: contents of files, and options."""
    own = {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT}
    for name in _OF_FILES:
        own[name] = own[name][number : number + 1]
    facts = {name: _identity(value) for name, value in own.items()} | {"file": _identity(file)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _identity(value: Any) -> Any:
    """Return what an option stands for: the sum of a file that it names, or its value."""
    if isinstance(value, tuple | list):
        return [_identity(one) for one in value]
    if not isinstance(value, str):
        return value
    from scorepriors._addresses import sum_of_file

    # With an HDU, as in file.fits[WEIGHT]; a folder of `card` has the sums of its files.
    path = Path(value.partition("[")[0])
    for one in (path, path / "SHA256SUMS"):
        if value and one.is_file():
            return [value.removeprefix(str(path)), sum_of_file(one)]
    return value
