"""Commands and options that the documentation names exist, by click's own parser."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

import scorepriors
from scorepriors.inference.cli import main
from scorepriors.inference.cli._common import OptionOfOldNames

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "surveys").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "scorepriors" / "weights").glob("*.md")),
]
#: Options of other programs, and of benchmarks, that the pages name by themselves.
FOREIGN = {"--nthreads", "--one-worker", "--small"}


def known_names(command):
    """Return the names of a command's options, without those of earlier versions."""
    return {
        name
        for option in command.get_params(click.Context(command))
        if not getattr(option, "hidden", False)
        for name in (*current_names(option), *option.secondary_opts)
    }


def current_names(option):
    return option.opts[:1] if isinstance(option, OptionOfOldNames) else option.opts


OPTIONS = set().union(*map(known_names, main.commands.values()))


def fenced(text):
    """Return commands in blocks of code, whose lines may be continued."""
    for block in re.findall(r"^```(?:console|sh|bash)\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for found in re.findall(
                r"(?:^|[\s/])(scorepriors [^|;&]*)", line.split("  #")[0].rstrip()
            ):
                yield found.strip()


def inline(text):
    """Return commands within sentences; some of them stand for a command with any arguments."""
    return [
        " ".join(found.split()) for found in re.findall(r"(?<!`)`(scorepriors\s[^`]+)`(?!`)", text)
    ]


def options(text):
    """Return the names of options that stand in sentences."""
    found = re.findall(r"(?<!`)`(--[^`]+)`(?!`)", text)
    return {word.split("=")[0] for one in found for word in one.split() if word[:2] == "--"}


def parse(line):
    """Parse a whole command with all its values, without running it."""
    _, *words = shlex.split(line)
    name, command, rest = main.resolve_command(click.Context(main), words)
    command.make_context(name, rest)


def names(line):
    """Parse the names of a command and its options alone."""
    _, name, *rest = shlex.split(line)
    given = {word.split("=")[0] for word in rest if word.startswith("--")}
    return given - known_names(main.commands[name])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_the_documentation_exist(page):
    text = page.read_text()
    for line in fenced(text):
        if line.split()[1].startswith("-"):
            continue  # the help of all commands
        try:
            parse(line)
        except click.exceptions.Exit:
            assert "--help" in line
        except click.ClickException as error:
            pytest.fail(f"{line}: {error.format_message()}")
    for line in inline(text):
        if line.split()[1].startswith("-"):
            continue
        assert not names(line), line
    assert options(text) - FOREIGN <= OPTIONS


def test_most_commands_are_in_the_documentation():
    lines = [line for page in PAGES for line in fenced(page.read_text())]
    assert len(lines) > 40
    assert {line.split()[1] for line in lines} >= set(main.commands) - {"priors"}


@pytest.mark.parametrize(
    "line",
    [
        "scorepriors deblend blend.fits --catalogue positions.csv",
        "scorepriors deblend blend.fits --profile spiral",
        "scorepriors deblend blend.fits --size twelve",
        "scorepriors deblend blend.fits --catalog",
        "scorepriors simulate --num 3 --output set.npz",
        "scorepriors separate blend.fits",
    ],
)
def test_wrong_lines_are_found(line):
    with pytest.raises(click.ClickException):
        parse(line)


def test_wrong_names_in_sentences_are_found():
    text = "Say `scorepriors deblend --no-such`, `--neither`, or\n`--psf FILE`."
    assert names(inline(text)[0]) == {"--no-such"}
    assert options(text) - OPTIONS == {"--neither"}
    with pytest.raises(KeyError):
        names("scorepriors separate")


def test_blocks_are_read_as_a_shell_would():
    block = "```console\n$ scorepriors evaluate a.npz \\\n    --force  # again\n$ pip list\n```\n"
    (line,) = fenced(block)
    assert line.split() == ["scorepriors", "evaluate", "a.npz", "--force"]


@pytest.fixture(scope="module")
def generated():
    """Module of the documentation that writes pages."""
    spec = importlib.util.spec_from_file_location("_generated", ROOT / "docs" / "_generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(main.commands))
def test_pages_of_the_reference_have_all_options(name, generated):
    page, command = generated.command_page(name, main), main.commands[name]
    described = re.findall(r"^```\{option\} (.*)\n\n(.+)", page, re.M)
    heads = " ".join(head for head, _ in described)
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            names = current_names(option)
            assert all(re.search(rf"(?:^|[\s,]){one}(?![\w-])", heads) for one in names), names
    assert f"commands/{name}.md" in (ROOT / "docs" / "commands.md").read_text()


def test_the_citation_is_that_of_the_repository(generated):
    entries = generated.bibtex()
    assert f"version = {{{scorepriors.__version__}}}" in entries
    names = re.findall(r"family-names: (\w+)", (ROOT / "CITATION.cff").read_text())
    assert len(names) == 4
    assert " and ".join(names) == re.sub(
        r", [^,]*?(?= and |$)", "", re.search(r"author = \{(.*)\}", entries)[1]
    )
