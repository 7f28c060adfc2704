"""The command for reports of problems."""

import click

from . import _common as common


@click.command()
@common.for_scripts("Print tests that failed alone.")
def doctor(quiet):
    """Show versions, devices and caches, and test the installation.

    The tests take some twenty seconds, and more the first time, when programs are compiled.  Exit code
    3 if one fails.  For reports of problems: paste what it prints.
    """
    common.prepare_jax()

    from scorepriors.inference import _doctor as room

    facts = room.installation()
    found = []
    if not quiet:
        _show(facts)
    for trial in room.trials():
        found.append(trial)
        if not (quiet and trial.passed):
            click.echo(f"{'ok    ' if trial.passed else 'FAILED'}  {trial.name}: {trial.text}.")
    passed = all(trial.passed for trial in found)
    common.echo_table(
        "All tests passed." if passed else "This installation does not compute right."
    )
    tests = [trial._asdict() for trial in found]
    return common.Outcome(
        0 if passed else common.NOT_TRUSTED, lambda: {**facts, "tests": tests, "passed": passed}
    )


def _show(facts: dict) -> None:
    """Print what is known of an installation."""
    cache, memory = facts["cache"], facts["memory_gib"]
    libraries = facts["libraries"]
    lines = {
        "scorepriors": f"{facts['scorepriors']}, Python {facts['python']}, {facts['platform']}",
        "devices": ", ".join(facts["devices"]) + (" (double precision)" if facts["x64"] else ""),
        "cores": f"{facts['cpus']}" + ("" if memory is None else f", {memory:g} GiB of memory"),
        "programs": f"{cache['programs']} compiled, {cache['mib']:g} MiB in {cache['folder']}"
        + ("" if cache["writable"] else " (can't be written: each run compiles its own)"),
        "not installed": ", ".join(n for n, v in libraries.items() if v is None) or "-",
    }
    for name, text in lines.items():
        click.echo(f"{name:<14}{text}")
    for name, number in libraries.items():
        if number is not None:
            click.echo(f"  {name:<12}{number}")
