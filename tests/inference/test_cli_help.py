"""Help and options of the commands, all together."""

import subprocess
import sys

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
