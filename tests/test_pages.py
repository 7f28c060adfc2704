"""Pages of the documentation: pictures have words, and no page is too long to be read."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted((DOCS / "surveys").glob("*.md"))]
#: What makes a picture of a cell.
DRAWS = re.compile(r"\.subplots\(|_figure\(|\bplot_\w+\(|^figure$", re.M)
LONGEST = 2000


def cells(text):
    """Return the settings and the code of all executed cells."""
    for cell in re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", text, re.M | re.S):
        head = re.match(r"---\n.*?^---\n|(?::[^\n]*\n)*", cell, re.M | re.S)[0]
        yield head, cell[len(head) :]


def alternatives(text):
    """Return the words for all pictures of a page; empty ones where there are none."""
    found = [alt for alt, _ in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text)]
    for figure in re.findall(r"^```\{(?:figure|image)\}[^\n]*\n(.*?)^```", text, re.M | re.S):
        # Options with colons have one line: what follows it would be a caption.
        alt = re.search(r"^:alt: *(.*)$", figure, re.M)
        found.append(alt[1] if alt else "")
    for head, code in cells(text):
        if DRAWS.search(code):
            alt = re.search(r"^    alt: >-\n((?: {6}.*\n)+)", head, re.M)
            found.append(" ".join(alt[1].split()) if alt else "")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_have_alternatives_in_words(page):
    assert all(len(alt.split()) >= 5 for alt in alternatives(page.read_text()))


def test_most_pictures_are_drawn_by_cells():
    assert sum(len(alternatives(page.read_text())) for page in PAGES) > 20


@pytest.mark.parametrize(
    "text",
    [
        "```{code-cell} python\nreport_figure(result)\n```\n",
        "```{code-cell} python\n:tags: [remove-input]\nfigure\n```\n",
        "```{code-cell} python\n---\ntags: [hide-input]\n---\nplt.subplots(2)\n```\n",
        "```{figure} a.png\n:alt: >-\n  Words that would be a caption.\n```\n",
        "![](a.png)",
    ],
)
def test_pictures_without_words_are_found(text):
    (alt,) = alternatives(text)
    assert len(alt.split()) < 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_is_too_long(page):
    assert len(page.read_text().split()) <= LONGEST
