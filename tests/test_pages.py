"""Pages of the documentation: pictures have words, and no page is too long to be read."""

import re
from pathlib import Path

import pytest

from scorepriors.models.data.readers import _product_rules as rules

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted((DOCS / "surveys").glob("*.md"))]
#: What makes a picture of a cell.
DRAWS = re.compile(r"\.subplots\(|_figure\(|\bplot_\w+\(|^figure$", re.M)
LONGEST = 2000
#: Characters of a line of code that fit the column of the pages; those of cells are for the linter.
WIDEST = 88


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
def test_no_cell_shows_its_figure_twice(page):
    # The inline backend shows figures of pyplot by itself at the end of a cell.
    for _, code in cells(page.read_text()):
        assert "plt.subplots(" not in code or code.rstrip().split("\n")[-1] != "figure"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_is_too_long(page):
    assert len(page.read_text().split()) <= LONGEST


def code_lines(text):
    """Return the lines of blocks of code that are shown and not executed."""
    blocks = re.findall(r"^```\w+\n(.*?)^```", text, re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_fits_the_column(page):
    assert [line for line in code_lines(page.read_text()) if len(line) > WIDEST] == []


def test_lines_of_code_are_found():
    text = "```console\n$ one\n$ two\n```\nWords\n```{code-cell} python\nthree\n```\n"
    assert code_lines(text) == ["$ one", "$ two"]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("rubin", (*rules.RUBIN_VISIT_BAD, *rules.DP2_VISIT_BAD)),
        ("hsc", rules.RUBIN_VISIT_BAD),
        ("legacy-surveys", sorted({word.split("_")[0] for word in rules.LEGACY_BAD})),
        ("pan-starrs", sorted(set(rules.PANSTARRS_PLANES) - set(rules.PANSTARRS_BAD))),
        ("others", [f"{less:.3f}" for name, less in rules.VEGA.items() if name[:5] != "2MASS"]),
    ],
)
def test_pages_of_surveys_say_what_the_reader_does(page, words):
    text = (DOCS / "surveys" / f"{page}.md").read_text()
    assert [word for word in words if not re.search(rf"\b{re.escape(word)}\b", text)] == []


def test_every_survey_with_a_page_is_in_the_table():
    index = (DOCS / "from-your-survey.md").read_text()
    names = {page.stem for page in (DOCS / "surveys").glob("*.md")}
    assert set(re.findall(r"\(surveys/([\w-]+)\.md\)", index)) == names
    assert set(re.findall(r"^surveys/([\w-]+)$", index, re.M)) == names
