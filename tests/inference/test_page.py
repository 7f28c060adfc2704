"""The page of a sampled scene: its template, and its plots by ArviZ."""

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import QTable
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from scorepriors.inference.reports import _page
from scorepriors.inference.reports._arviz import energy_figure, rank_figure, trace_figure
from scorepriors.inference.reports._page import picture, report_page
from scorepriors.inference.sampling._tree import group, group_names, make_tree

CHAINS, DRAWS, SOURCES = 3, 40, 4


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(0)
    shape = (CHAINS, DRAWS, SOURCES)
    groups = {
        "posterior": {
            "spectrum": rng.normal(100, 5, (*shape, 2)),
            "flux": rng.normal(100, 5, (*shape, 2)),
        },
        "sample_stats": {
            "energy": rng.normal(size=(CHAINS, DRAWS)),
            "diverging": np.zeros((CHAINS, DRAWS), bool),
            "acceptance_rate": np.full((CHAINS, DRAWS), 0.8),
        },
        "constant_data": {
            "center": 3.0 * np.ones((SOURCES, 2)),
            "corner": np.ones((SOURCES, 2), int),
            "is_point": np.zeros(SOURCES, bool),
            "flux_factor": np.ones(2),
        },
    }
    dims = {
        "spectrum": ["source", "band"],
        "flux": ["source", "band"],
        "center": ["source", "axis"],
        "corner": ["source", "axis"],
        "is_point": ["source"],
        "flux_factor": ["band"],
    }
    ids = [f"<{i}>" for i in range(SOURCES)]
    coords = {"source": ids, "band": ["g", "r"]}
    attrs = {
        "scene": "deblended",
        "prior_name": "some & prior",
        "prior_sigma": 0.3,
        "height": 12,
        "width": 12,
        "flux_unit": "nJy",
        "image_unit": "nJy",
        "warnings": json.dumps(["R-hat > 1.01: too few"]),
        "algorithm": "nuts",
    }
    return make_tree(groups, dims=dims, coords=coords, attrs=attrs)


def without_energy(tree):
    """The same draws from moves that have no energy."""
    parts = {n: {v: a.values for v, a in group(tree, n).items()} for n in group_names(tree)}
    parts["sample_stats"].pop("energy")
    dims = {v: a.dims[2:] for v, a in group(tree, "posterior").items()}
    dims |= {v: a.dims for v, a in group(tree, "constant_data").items()}
    source = group(tree, "posterior")["source"].values
    coords = {"source": list(source), "band": ["g", "r"]}
    return make_tree(parts, dims=dims, coords=coords, attrs=dict(tree.attrs))


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("energy", [True, False])
def test_the_page_says_everything_and_escapes_it(tree, monkeypatch, energy):
    for name in ("scene_figure", "draws_figure"):
        monkeypatch.setattr(_page, name, lambda result, tree: Figure())
    ids = [f"<{i}>" for i in range(SOURCES)]
    result = SimpleNamespace(
        positions=SimpleNamespace(ids=ids),
        observation=SimpleNamespace(name="<b>blend</b>", bands=("g", "r")),
    )
    columns = ["x", "y", "size", *(f"flux_{n}" for n in ("g", "r", "total"))]
    table = QTable({n: np.full(SOURCES, 1.234567) for n in columns})
    for name in columns:
        table[name.replace("flux_", "flux_err_") if "_" in name else f"{name}_err"] = 0.02
    table["id"], table["flux_ess"] = ids, 812.0
    table["neighbor"], table["neighbor_correlation"] = ids[::-1], -0.5
    table["flags"] = ["faint", *["ok"] * (SOURCES - 1)]
    if not energy:
        tree = without_energy(tree)
    section = "<h2>More</h2>" + picture(Figure(), 'an "alt" text', "a < caption")
    text = report_page(result, tree, table=table, more=[section])
    page = Page(text)
    assert page.open == []
    words = " ".join(page.words)
    for said in (
        "1.235 ± 0.020",
        "<0> (-0.50)",
        "812",
        "Posterior of <b>blend</b>",
        "R-hat > 1.01",
        "some & prior",
        "<3>",
        "nuts",
        "±",
    ):
        assert said in words
    assert "a < caption" in words
    assert not {"b", "script", "link"} & {tag for tag, _ in page.tags}
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 7 + energy
    assert all(p["src"].startswith("data:image/png;base64,iVBOR") for p in pictures)
    assert 'an "alt" text' in [p["alt"] for p in pictures]
    assert len([1 for tag, _ in page.tags if tag == "h2"]) == 7
    assert ('role="alert"' in text, "{{" in text) == (True, False)


@pytest.mark.parametrize("plot", [trace_figure, rank_figure, energy_figure])
def test_arviz_draws_figures_that_are_nobodys_to_show(tree, plot):
    open_before = plt.get_fignums()
    figure = plot(tree)
    assert isinstance(figure, Figure)
    drawn = [axis for axis in figure.axes if axis.lines or axis.collections]
    assert len(drawn) >= {trace_figure: 2 * SOURCES, rank_figure: SOURCES, energy_figure: 1}[plot]
    # One line of ArviZ writes names above, the other beside.
    titles = " ".join(axis.get_title() + axis.get_ylabel() for axis in figure.axes)
    if plot is not energy_figure:
        assert all(f"<{i}>" in titles for i in range(SOURCES))
    assert plt.get_fignums() == open_before
