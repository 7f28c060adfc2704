"""Tables in Markdown, printed row by row, for the pages of the documentation."""

from collections.abc import Sequence


def header(names: Sequence[str], *, words: int = 1) -> str:
    """Return the head of a table whose first columns hold words, and the others numbers.

    >>> print(header(["host", "bias"]))
    | host | bias |
    | --- | ---: |
    """
    rule = ["---"] * words + ["---:"] * (len(names) - words)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, rule))


def row(cells: Sequence[str | float], *, decimals: int = 3) -> str:
    """Return a row; numbers have this many decimals.

    >>> print(row(["smooth", 0.12345]))
    | smooth | 0.123 |
    """
    texts = [cell if isinstance(cell, str) else f"{cell:.{decimals}f}" for cell in cells]
    return "| " + " | ".join(texts) + " |"
