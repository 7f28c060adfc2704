"""The built package contains the source tree, and requires what it imports."""

import ast
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import scorepriors

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = CONFIG["tool"]["setuptools"]
FLOORS = {
    "scorepriors": ROOT / "scorepriors",
    "scorepriors.models": ROOT / "models",
    "scorepriors.inference": ROOT / "inference",
}


def files(pattern):
    """Files of the three real folders with the package of their floor; links not followed."""
    for package, folder in FLOORS.items():
        for path in sorted(folder.rglob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                inside = path.relative_to(folder).parts
                if not (package == "scorepriors" and inside[0] in ("models", "inference")):
                    yield package, folder, path


def package_of(package, folder, path):
    return ".".join((package, *path.parent.relative_to(folder).parts))


def test_every_subpackage_is_listed_once():
    found = {package_of(*found) for found in files("__init__.py")}
    assert len(SETUPTOOLS["packages"]) == len(set(SETUPTOOLS["packages"]))
    assert set(SETUPTOOLS["packages"]) == found


def test_every_module_lies_in_a_listed_package():
    outside = [
        str(path)
        for package, folder, path in files("*.py")
        if package_of(package, folder, path) not in SETUPTOOLS["packages"]
    ]
    assert outside == []


def folder_of(package):
    """Folder of a package: setuptools looks up the longest mapped parent and appends the rest."""
    directories = SETUPTOOLS["package-dir"]
    parent = max((p for p in directories if f"{package}.".startswith(f"{p}.")), key=len)
    return ROOT / directories[parent] / package[len(parent) :].strip(".").replace(".", "/")


def test_every_package_has_its_folder():
    directories = SETUPTOOLS["package-dir"]
    assert {name: ROOT / folder for name, folder in directories.items()} == FLOORS
    for package in SETUPTOOLS["packages"]:
        assert (folder_of(package) / "__init__.py").is_file(), package


def test_every_data_file_is_packed_and_every_pattern_matches():
    packed = set()
    for package, patterns in SETUPTOOLS["package-data"].items():
        for pattern in patterns:
            matches = set(folder_of(package).glob(pattern))
            assert matches, (package, pattern)
            packed |= matches
    data = {path for *_, path in files("*") if path.suffix not in (".py", ".pyc")}
    assert data == packed


@pytest.mark.parametrize("name", ["models", "inference"])
def test_upper_floors_are_linked_into_the_ground_floor(name):
    link = ROOT / "scorepriors" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"  # relative, so that a clone has it too
    assert link.resolve() == (ROOT / name).resolve()
    module = importlib.import_module(f"scorepriors.{name}")
    assert Path(module.__file__).samefile(ROOT / name / "__init__.py")


def test_version_is_the_same_everywhere():
    # One place: the build reads it from the source, without importing what is not installed yet.
    assert "version" not in CONFIG["project"]
    assert CONFIG["project"]["dynamic"] == ["version"]
    assert SETUPTOOLS["dynamic"] == {"version": {"attr": "scorepriors.__version__"}}
    source = ast.parse((ROOT / "scorepriors" / "__init__.py").read_text())
    (found,) = (
        node.value
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    )
    assert ast.literal_eval(found) == scorepriors.__version__
    # It can't be read from elsewhere here.
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == scorepriors.__version__
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == scorepriors.__version__


def test_archives_get_what_is_to_be_cited():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    archived = json.loads((ROOT / ".zenodo.json").read_text())
    assert archived["title"] == cited["title"]
    assert archived["description"] == cited["abstract"].strip()
    assert archived["license"] == cited["license"] == CONFIG["project"]["license"]
    assert archived["keywords"] == cited["keywords"]
    assert archived["creators"] == cited["authors"] == CONFIG["project"]["authors"]
    assert "version" not in archived  # it is the tag's
    (paper,) = cited["references"]
    (said,) = archived["references"]
    names = [one["family-names"] for one in paper["authors"]]
    for word in (
        *names,
        paper["title"],
        paper["journal"],
        str(paper["volume"]),
        str(paper["year"]),
    ):
        assert word in said


def test_scripts_can_be_loaded():
    for target in CONFIG["project"]["scripts"].values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))


#: Modules that are imported only where their extra is asked for.
OF_EXTRAS = {"inference/fields/_dask.py"}


def requirements(lines):
    return {re.match(r"[\w.-]+", line)[0].lower() for line in lines}


def test_everything_imported_is_a_dependency():
    project = CONFIG["project"]
    required = requirements(project["dependencies"])
    optional = requirements(
        line
        for name in ("cluster", "parquet", "peers", "piff", "simulation", "validation")
        for line in project["optional-dependencies"][name]
    )
    distributions = importlib.metadata.packages_distributions()

    def imported(nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.split(".")[0]

    def asked_for(names):
        third = set(names) - sys.stdlib_module_names - {"scorepriors"}
        # A name that several distributions share counts as the one that is asked for.
        options = [{d.lower() for d in distributions.get(name, [name])} for name in third]
        return {min(some & (required | optional) or some) for some in options}

    everywhere, at_import = set(), set()
    for *_, path in files("*.py"):
        tree = ast.parse(path.read_text())
        everywhere |= set(imported(ast.walk(tree)))
        if path.relative_to(ROOT).as_posix() not in OF_EXTRAS:
            at_import |= set(imported(tree.body))
    assert asked_for(at_import) <= required
    assert asked_for(everywhere) <= required | optional
    assert not asked_for({"requests"}) <= required | optional  # negative control


@pytest.mark.parametrize(
    ("tag", "published"), [("v" + scorepriors.__version__, True), ("v9", False)]
)
def test_a_release_needs_a_tag_of_the_version(tag, published):
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    steps = workflow["jobs"]["build"]["steps"]
    (check,) = [step["run"] for step in steps if step.get("name") == "The tag is the version"]
    ended = subprocess.run(
        ["sh", "-euc", check], cwd=ROOT, env={**os.environ, "GITHUB_REF_NAME": tag}, check=False
    )
    assert (ended.returncode == 0) is published
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert workflow["jobs"]["publish"]["needs"] == "build"
    assert workflow["jobs"]["build"]["needs"] == "test"
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": ".ci/run"}


def test_the_job_beside_peers_has_what_its_tests_ask_for():
    """Tests of what cannot be imported are skipped, so the job must fail before."""
    job = (ROOT / ".ci" / "peers").read_text()
    imported = set(re.search(r'python" -c "import ([^"]+)"', job)[1].split(", "))
    asked = set()
    for line in re.findall(r"-m pytest .*", job):
        for name in re.findall(r"tests/\S+\.py", line):
            asked |= set(re.findall(r'importorskip\("([^"]+)"\)', (ROOT / name).read_text()))
    assert len(asked) == 3
    assert asked == imported
    page = (ROOT / "docs" / "coming-from-scarlet.md").read_text()
    assert re.findall(r"galaxygrad==(\S+)", job) == re.findall(
        r"^galaxygrad (\d\S*\d);", page, re.M
    )
