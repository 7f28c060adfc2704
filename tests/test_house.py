"""The house: floors are respected, and the wheel holds every subpackage."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = ["scorepriors", "scorepriors.models", "scorepriors.inference"]


def files_of(root):
    """Source files and their floor (0 is the ground)."""
    for floor, folder in enumerate(("scorepriors", "models", "inference")):
        for path in sorted((root / folder).glob("*.py")):
            yield floor, path


def imports_of(path, floor):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = FLOORS[floor].split(".")
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def climbing(root):
    found = []
    for floor, path in files_of(root):
        for name in imports_of(path, floor):
            higher = [f for f in FLOORS[floor + 1 :] if name == f or name.startswith(f + ".")]
            if higher:
                found.append((path.name, name))
    return found


def test_imports_only_go_down():
    assert len(list(files_of(ROOT))) > 30
    assert climbing(ROOT) == []


def test_an_import_from_above_is_noticed(tmp_path):
    for folder in ("scorepriors", "models", "inference"):
        (tmp_path / folder).mkdir()
    (tmp_path / "scorepriors" / "a.py").write_text("from .models.blend import blend\n")
    (tmp_path / "models" / "b.py").write_text("from scorepriors.inference import fit\n")
    (tmp_path / "inference" / "c.py").write_text("from scorepriors.models import fine\n")
    assert {name for name, _ in climbing(tmp_path)} == {"a.py", "b.py"}


def test_every_subpackage_is_in_the_wheel():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {"scorepriors"} | {
        ".".join(("scorepriors", *init.parent.relative_to(ROOT).parts))
        for top in ("models", "inference")
        for init in (ROOT / top).rglob("__init__.py")
    }
    assert set(config["packages"]) == found
    for package, patterns in config["package-data"].items():
        folder = ROOT / config["package-dir"][package]
        for pattern in patterns:
            assert list(folder.glob(pattern)), (package, pattern)


def test_folders_are_linked():
    for name in ("models", "inference"):
        link = ROOT / "scorepriors" / name
        assert link.is_symlink()
        assert link.resolve() == (ROOT / name).resolve()
