"""The public names: exported, documented, and enough for every tutorial."""

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FACES = ("scorepriors", "scorepriors.models", "scorepriors.inference")
REFERENCE = {
    "scorepriors": "docs/api/priors.md",
    "scorepriors.models": "docs/api/models.md",
    "scorepriors.inference": "docs/api/inference.md",
}
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "surveys").glob("*.md")),
    ROOT / "README.md",
]


def public(face):
    return [name for name in importlib.import_module(face).__all__ if name != "__version__"]


NAMES = [(face, name) for face in FACES for name in public(face)]


def documented(face):
    text = (ROOT / REFERENCE[face]).read_text()
    return re.findall(rf"^\.\. auto(?:class|function|data|exception):: {face}\.(\w+)$", text, re.M)


@pytest.mark.parametrize("face", FACES)
def test_every_name_stands_once_in_the_reference(face):
    found = documented(face)
    assert len(found) == len(set(found))
    assert set(found) == set(public(face))


@pytest.mark.parametrize("face", FACES)
def test_every_name_can_be_imported(face):
    module = importlib.import_module(face)
    for name in public(face):
        assert getattr(module, name) is not None
    assert set(public(face)) <= set(dir(module))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        importlib.import_module("scorepriors.models").no_such_name  # noqa: B018


def imports(page):
    """Modules of this package that the code of a page imports from."""
    for block in re.findall(r"^```[^\n]*python[^\n]*\n(.*?)^```", page.read_text(), re.M | re.S):
        lines = [line for line in block.splitlines() if not line.startswith((":", "%", "---"))]
        code = "\n".join(re.sub(r"^(>>> |\.\.\. )", "", line) for line in lines)
        code = re.sub(r"^---\n.*?^---\n", "", code, flags=re.M | re.S)
        found = re.findall(
            r"^\s*(?:from (scorepriors[\w.]*) import|import (scorepriors[\w.]*))", code, re.M
        )
        yield from (one or other for one, other in found)
    for block in re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", page.read_text(), re.M | re.S):
        yield from re.findall(r"^\s*from (scorepriors[\w.]*) import", block, re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_import_from_faces_alone(page):
    assert set(imports(page)) <= set(FACES)


def test_pages_import_something():
    assert sum(len(list(imports(page))) for page in PAGES) > 20


#: Files in whose sentences names of this package may stand; the changelog has those of earlier versions.
PROSE = [
    path
    for folder in ("docs", "models", "inference", "scorepriors", "benchmarks")
    for ending in ("*.md", "*.py")
    for path in sorted((ROOT / folder).rglob(ending))
    if "_build" not in path.parts
] + [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def dotted(text):
    """Return the dotted names of this package in a text, but for names of files."""
    found = re.findall(r"(?<![\w./-])scorepriors(?:\.[A-Za-z_]\w*)+", text)
    return {one for one in found if not one.endswith((".css", ".pyi"))}


@functools.cache
def exists(name):
    """Return whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for number in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:number]))
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("scorepriors"):
                raise
            continue
        for part in parts[number:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


def test_names_in_sentences_exist():
    unknown = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in PROSE
        for name in dotted(path.read_text(encoding="utf-8"))
        if not exists(name)
    }
    assert not unknown
    assert sum(len(dotted(path.read_text(encoding="utf-8"))) for path in PROSE) > 500


def test_names_that_do_not_exist_are_found():
    assert dotted("See `scorepriors.models.blend_sets`, scorepriors.css, ~/.scorepriors.x") == {
        "scorepriors.models.blend_sets"
    }
    assert not exists("scorepriors.models.blend_sets")
    assert exists("scorepriors.models.Observation.read")


FUNCTIONS = [
    pytest.param(thing, id=f"{face}.{name}")
    for face, name in NAMES
    if inspect.isfunction(thing := getattr(importlib.import_module(face), name))
]


@pytest.mark.parametrize(("face", "name"), NAMES)
def test_every_name_has_a_docstring_of_its_own(face, name):
    thing = getattr(importlib.import_module(face), name)
    if inspect.isclass(thing) or callable(thing):
        assert thing.__doc__
        assert len(thing.__doc__.splitlines()[0]) > 10
        parents = thing.__mro__[1:] if inspect.isclass(thing) else ()
        assert all(thing.__doc__ is not parent.__doc__ for parent in parents)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_have_types_and_say_what_their_parameters_are(function):
    signature = inspect.signature(function)
    doc = inspect.getdoc(function)
    for name, parameter in signature.parameters.items():
        if name == "key":  # typed keys have no type of their own
            continue
        assert parameter.annotation is not inspect.Parameter.empty, name
        stars = {parameter.VAR_POSITIONAL: r"\*", parameter.VAR_KEYWORD: r"\*\*"}
        pattern = rf"^(?:.*, )?{stars.get(parameter.kind, '')}{name}(?:,.*)?$"
        if len(signature.parameters) > 1:
            assert re.search(pattern, doc, re.M), f"{name} is not documented"
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_say_what_they_raise(function):
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function)))
    raised = {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }
    doc = inspect.getdoc(function)
    for error in raised - {"KeyboardInterrupt"}:
        assert re.search(rf"Raises?\b[\s\S]*{error}|Raise `?{error}", doc), error
