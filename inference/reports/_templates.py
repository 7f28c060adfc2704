"""Templates, styles and scripts of pages."""

from functools import cache
from importlib.resources import files

import jinja2


def page_text(name: str) -> str:
    """Return a template, style or script of this folder, as text."""
    return (files("scorepriors.inference.reports") / name).read_text(encoding="utf-8")


@cache
def templates() -> jinja2.Environment:
    """Return the templates of this folder: texts are escaped, and every name must be known."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(page_text), autoescape=True, undefined=jinja2.StrictUndefined
    )
