"""Help and options of the commands, all together."""

import subprocess
import sys
from collections import defaultdict

import click
import pytest
from click.testing import CliRunner

from scorepriors.inference.cli import main

#: Packages that take longer to load than a shell should wait for the names of options.
HEAVY = ("jax", "numpy", "scipy", "astropy", "matplotlib", "numpyro", "equinox", "xarray", "rich")

_ASK_ALL = """
import sys
from scorepriors.inference.cli import main

for words in ([], *([name] for name in main.commands)):
    try:
        main([*words, "--help"])
    except SystemExit as ended:
        assert ended.code == 0, words
print("loaded:", *sorted(set(sys.argv[1:]) & set(sys.modules)))
"""


def test_help_loads_nothing_heavy():
    ran = subprocess.run(
        [sys.executable, "-c", _ASK_ALL, *HEAVY], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "loaded:"
    # Defaults that are in no light module would be left out.
    text = " ".join(ran.stdout.split())
    for default in ("[default: 300;", "[default: bulge-disk]", "[default: 1,0.4]"):
        assert default in text


#: Options that one command takes otherwise, and why.
EXCEPTIONS = {
    ("--json", "evaluate"): "takes the name of a file as well; without one it is as in the others",
    ("--output", "source"): "writes one FITS file",
    ("--output", "simulate"): "writes one file or several, by what is simulated",
    ("--size", "simulate"): "the side of the field that it makes, in pixels",
    ("--sky", "simulate"): "a level, where others choose what is fitted",
}

#: Classes of click for a number, with limits or without.
_KINDS = {"integer range": "integer", "float range": "float", "filename": "path"}


def options_of(command):
    """Return the options that help shows."""
    return [one for one in command.params if isinstance(one, click.Option) and not one.hidden]


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_can_be_used_in_scripts(name):
    options = {one.opts[0]: one for one in options_of(main.commands[name])}
    assert {"--quiet", "--json"} <= options.keys()
    assert options["--quiet"].is_flag
    assert options["--json"].is_flag != (("--json", name) in EXCEPTIONS)


def meanings(commands):
    """Return what each name of an option takes: by name and meaning the commands."""
    found = defaultdict(lambda: defaultdict(set))
    for name, command in commands.items():
        for one in options_of(command):
            # Old names are the same options.
            for option in [*one.opts, *one.secondary_opts]:
                if (option, name) not in EXCEPTIONS:
                    found[option][taken_by(one)].add(name)
    return found


def taken_by(option):
    """Return what an option takes."""
    kind = _KINDS.get(option.type.name, option.type.name)
    choices = tuple(getattr(option.type, "choices", ()))
    return kind, choices, option.metavar, option.nargs, option.is_flag


def test_a_name_of_an_option_means_one_thing_in_all_commands():
    found = meanings(main.commands)
    assert sum(len(set().union(*taken.values())) > 1 for taken in found.values()) > 30
    assert {name: dict(taken) for name, taken in found.items() if len(taken) > 1} == {}
    # What is excepted is there, and is another thing.
    for option, name in EXCEPTIONS:
        (own,) = (one for one in options_of(main.commands[name]) if option in one.opts)
        (usual,) = found[option]
        assert taken_by(own) != usual


def test_two_meanings_of_a_name_are_found():
    def command(name, **attributes):
        return click.Command(name, params=[click.Option(["--size"], **attributes)])

    for other in ({"type": int, "metavar": "PIXELS"}, {"type": float, "metavar": "PIXELS"}):
        both = {
            "a": command("a", type=float, metavar="ARCSEC"), "b": command("b", **other),
        }  # fmt: skip
        assert len(meanings(both)["--size"]) == 2


def test_the_shell_completes_commands_and_options():
    def completed(line):
        environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        environment["_SCOREPRIORS_COMPLETE"] = "bash_complete"
        ran = CliRunner(env=environment).invoke(main, prog_name="scorepriors")
        return [one.partition(",")[2] for one in ran.stdout.splitlines()]

    assert completed("scorepriors s") == ["sample", "simulate", "source"]
    assert completed("scorepriors deblend --prof") == ["--profile"]
    for shell in ("bash", "zsh", "fish"):
        assert f"_SCOREPRIORS_COMPLETE={shell}_source scorepriors" in main.epilog


def test_numbers_of_things_have_one_kind_of_name_and_keep_the_old_ones():
    old = {
        "simulate": {"number": "--number"},
        "evaluate": {
            "limit": "--limit", "chains": "--chains", "warmup": "--warmup", "draws": "--draws",
        },
        "sample": {
            "num_chains": "--chains", "num_warmup": "--warmup", "num_samples": "--draws",
        },
        "validate-prior": {"num": "--num"},
    }  # fmt: skip
    for name, options in old.items():
        command = main.commands[name]
        shown = CliRunner().invoke(main, [name, "--help"]).stdout
        for parameter, option in options.items():
            with command.make_context(name, [option, "100", "x"], resilient_parsing=True) as ctx:
                assert ctx.params[parameter] == 100
            assert f"{option} " not in shown
            (now,) = (one.opts[0] for one in command.params if one.name == parameter)
            assert now.startswith("--num-")
            assert f"{now} " in shown
