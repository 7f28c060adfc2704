"""Tables of sources for the terminal: at most 80 columns, numbers in the digits of their errors."""

import textwrap
from collections.abc import Mapping, Sequence

from scorepriors.inference.deblending._flags import SENTENCES, flags_said, worst_first

#: Widest line, and the longest name of a source that is not cut.
WIDTH, LONGEST = 80, 20

#: Space between columns.
_GAP = "  "


def source_tables(
    title: str,
    ids: Sequence[str],
    facts: Mapping[str, Sequence[str]],
    fluxes: Mapping[str, Sequence[str]],
    flags: Sequence[str],
    known: Mapping[str, str] = SENTENCES,
) -> str:
    """Return tables of sources, and what their flags mean.

    The first has facts and flags, the others the fluxes: as many bands as have room side by side.

    Parameters
    ----------
    title
        First line.
    ids
        Names of the sources.
    facts, fluxes
        Cells ``[N]`` by column.
    flags
        Comma-separated flags of the sources, as in the column ``flags`` of catalogs.
    known
        Sentences of the flags by word, the worst first.
    """
    names = {"id": [_short(one) for one in ids]}
    words = [", ".join(worst_first(each, known)) or "ok" for each in flags]
    blocks = [_with_flags([*(names | dict(facts)).items()], words)]
    blocks += [_lines([*names.items(), *part]) for part in _parts(names, fluxes)]
    said = [flag_line(word, sentence) for word, sentence in flags_said(flags, known).items()]
    parts = [title, *("\n".join(lines) for lines in blocks), *(["\n".join(said)] if said else [])]
    return "\n\n".join(parts)


def flag_line(word: str, sentence: str) -> str:
    """Return a flag and its sentence, wrapped."""
    text = f"{word}: {sentence}"
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def flux_title(number: int, unit: str) -> str:
    """Return the first line of tables: how many sources, and the unit of their fluxes."""
    sources = f"{number} source{'' if number == 1 else 's'}"
    return f"{sources}, flux in {unit}" if unit else f"{sources}, flux in the unit of the image"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def _parts(names: Mapping[str, Sequence[str]], fluxes: Mapping[str, Sequence[str]]):
    """Yield columns of fluxes that have room beside the names."""
    first = _width(*next(iter(names.items())))
    part: list[tuple[str, Sequence[str]]] = []
    used = first
    for name, cells in fluxes.items():
        width = len(_GAP) + _width(name, cells)
        if part and used + width > WIDTH:
            yield part
            part, used = [], first
        part.append((name, cells))
        used += width
    if part:
        yield part


def _width(name: str, cells: Sequence[str]) -> int:
    return max(map(len, (name, *cells)))


def _lines(columns: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Return a table: the first column to the left, the others to the right."""
    out = []
    for row in zip(*([name, *cells] for name, cells in columns), strict=True):
        padded = [
            cell.rjust(_width(*column)) if number else cell.ljust(_width(*column))
            for number, (cell, column) in enumerate(zip(row, columns, strict=True))
        ]
        out.append(_GAP.join(padded).rstrip())
    return out


def _with_flags(columns: Sequence[tuple[str, Sequence[str]]], words: Sequence[str]) -> list[str]:
    """Return a table with a last column of flags, which are wrapped."""
    used = sum(_width(*column) + len(_GAP) for column in columns)
    out = []
    for line, said in zip(_lines(columns), ("flags", *words), strict=True):
        for number, part in enumerate(textwrap.wrap(said, WIDTH - used)):
            out.append(f"{line if number == 0 else '':<{used}}{part}")
    return out
