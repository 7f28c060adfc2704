"""Configuration of the documentation.

The build needs no network::

    sphinx-build -W -b html docs docs/_build/html

Links into the documentation of other projects need their inventories.  They are
fetched only if the environment variable ``SCOREPRIORS_DOCS_ONLINE`` is set to ``1``;
without it the same names stand as plain text.  Formulas are typeset in the reader's
browser by MathJax, which is copied into the pages: they need no network either.
"""

import os
import re
import sys
from pathlib import Path

from scorepriors import __version__
from scorepriors.inference import Keep

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from _generated import write_pages  # noqa: E402

# ---- the project -------------------------------------------------------------------

project = "scorepriors"
author = "The scorepriors developers"
copyright = author
release = version = __version__

# ---- pages -------------------------------------------------------------------------

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "Thumbs.db", ".DS_Store", "recipes"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath"]
myst_heading_anchors = 3

# ---- executed pages ----------------------------------------------------------------

# Pages that are notebooks run once per change of their code.  A change of the package
# is invisible to the cache: SCOREPRIORS_DOCS_RERUN=1 runs every page again.
nb_execution_mode = "force" if os.environ.get("SCOREPRIORS_DOCS_RERUN") == "1" else "cache"
nb_execution_cache_path = str(HERE / "_build" / ".jupyter_cache")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

# ---- reference ---------------------------------------------------------------------

autosummary_generate = True
autodoc_typehints = "signature"  # shapes and units stand in the texts of the docstrings
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
default_role = "autolink"  # single backquotes in docstrings: a link if the name is known

# ---- links to other projects -------------------------------------------------------

intersphinx_timeout = 5
if os.environ.get("SCOREPRIORS_DOCS_ONLINE") == "1":
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "astropy": ("https://docs.astropy.org/en/stable", None),
        "jax": ("https://docs.jax.dev/en/latest", None),
        "numpyro": ("https://num.pyro.ai/en/stable", None),
        "optax": ("https://optax.readthedocs.io/en/latest", None),
    }
else:
    intersphinx_mapping = {}

# ---- look --------------------------------------------------------------------------

html_theme = "furo"
html_title = f"scorepriors {release}"
html_static_path = ["_static"]
html_css_files = ["scorepriors.css"]
html_show_sphinx = False


# ---- signatures --------------------------------------------------------------------


def shorten_types(app, what, name, obj, options, signature, returns):
    """Write arrays of JAX and modules by name, and values that `Keep` has by its own."""
    del app, what, name, obj, options

    def short(text):
        if text is None:
            return None
        text = re.sub(r"<module '([\w.]+)' from '[^']*'>", r"\1", text)
        text = text.replace("jaxlib._jax.Array", "Array")
        return text.replace(f"= {tuple(Keep())!r}", "= Keep()")

    return (short(signature), short(returns)) if signature else None


def skip_fields(app, what, name, obj, skip, options):
    """Leave out fields of named tuples: the docstring of the class has told of them."""
    del app, what, name, options
    return True if type(obj).__name__ == "_tuplegetter" else skip


def setup(app) -> None:
    """Tie the generated pages and the types of signatures to the build."""
    app.connect("autodoc-process-signature", shorten_types)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("builder-inited", write_pages)
