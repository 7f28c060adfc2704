"""Pages that are made from the package: the command line, the model cards, and how to cite it."""

import inspect
import re
import shutil
from pathlib import Path

import click
import yaml

HERE = Path(__file__).parent
WEIGHTS = HERE.parent / "scorepriors" / "weights"


def write_pages(app=None) -> None:
    """Write the pages of commands and model cards, where sources of the documentation lie."""
    from scorepriors.inference.cli import main

    del app
    _write(HERE / "commands", {name: command_page(name, main) for name in main.commands})
    _write(HERE / "cards", {card.stem: card.read_text() for card in WEIGHTS.glob("*.md")})
    for picture in WEIGHTS.glob("*.png"):
        shutil.copy(picture, HERE / "cards")
    (HERE / "_build").mkdir(exist_ok=True)
    (HERE / "_build" / "citation.bib").write_text(bibtex())


def command_page(name: str, main: click.Group) -> str:
    """Return the page of a command, in the words of its ``--help``."""
    command = main.commands[name]
    context = click.Context(command, info_name=f"scorepriors {name}")
    parts = [
        f"# scorepriors {name}",
        *map(escaped, inspect.cleandoc(command.help or "").split("\n\n")),
        f"```text\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```",
        f"```{{program}} scorepriors {name}\n```",
    ]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:  # arguments have none
            parts.append(f"```{{option}} {record[0]}\n\n{escaped(record[1])}\n```")
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Return a text as Markdown: its options as code, and no characters with a meaning."""
    pieces = re.split(r"(`[^`]*`|(?<![\w-])--[a-z][\w-]*)", text)
    code = [f"`{piece.strip('`')}`" for piece in pieces[1::2]]
    words = [re.sub(r"([\\*_<$\[\]])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(a + b for a, b in zip(words, [*code, ""], strict=True))


def bibtex() -> str:
    """Return the entries of ``CITATION.cff`` for BibTeX: the paper of the method, and the software."""
    facts = yaml.safe_load((HERE.parent / "CITATION.cff").read_text())
    (paper,) = facts["references"]
    authors = [f"{one['family-names']}, {one['given-names']}" for one in paper["authors"]]
    developers = [f"{{{one['name']}}}" for one in facts["authors"]]
    article = {"author": " and ".join(authors)} | {
        key: paper[key] for key in ("title", "journal", "volume", "year")
    }
    software = {
        "author": " and ".join(developers),
        "title": facts["title"],
        "version": facts["version"],
    }
    return (
        _entry("article", "scorematching", article)
        + "\n"
        + _entry("software", "scorepriors", software)
    )


def _entry(kind: str, key: str, fields: dict) -> str:
    lines = [f"    {name} = {{{value}}}" for name, value in fields.items()]
    return f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}\n"


def _write(folder: Path, pages: dict[str, str]) -> None:
    """Write pages, leave those as they are that did not change, and remove all others."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.suffix != ".md" or old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
