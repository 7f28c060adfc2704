"""Imports only go down and never in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = {"scorepriors": "scorepriors", "models": "scorepriors.models"}
FLOORS |= {"inference": "scorepriors.inference"}


def modules_of(root):
    """Module names and their files; the links inside scorepriors/ are not followed."""
    modules = {}
    for folder, package in FLOORS.items():
        for path in sorted((root / folder).rglob("*.py")):
            inside = path.relative_to(root / folder).with_suffix("").parts
            if folder == "scorepriors" and inside[0] in ("models", "inference"):
                continue
            inside = inside[:-1] if inside[-1] == "__init__" else inside
            modules[".".join((package, *inside))] = path
    return modules


def floor_of(name):
    if name.startswith("scorepriors.__main__"):
        return len(FLOORS) - 1  # what `python -m scorepriors` runs: the door of the command line
    for floor, package in enumerate(reversed(FLOORS.values())):
        if f"{name}.".startswith(f"{package}."):
            return len(FLOORS) - 1 - floor
    return None


def at_module_level(tree):
    """Nodes that run when a module is imported: not those inside functions."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def imports_of(name, path, nodes):
    """Full names of everything imported, relative imports resolved."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            package = parts if path.name == "__init__.py" else parts[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def climbing(root):
    """Pairs (module, what it imports from a higher floor), inside functions too."""
    return {
        (name, imported)
        for name, path in modules_of(root).items()
        for imported in imports_of(name, path, ast.walk(ast.parse(path.read_text())))
        if (floor_of(imported) or 0) > floor_of(name)
    }


def import_graph(root):
    """Modules that each module imports when it is imported itself."""
    modules = modules_of(root)
    graph = {}
    for name, path in modules.items():
        found = set(imports_of(name, path, at_module_level(ast.parse(path.read_text()))))
        # `from .b import c` names b and b.c; a submodule c leaves only itself.
        submodules = {one for one in found & set(modules) if one != name}
        parents = {one.rpartition(".")[0] for one in found if one in modules}
        used = {one.rpartition(".")[0] for one in found if one not in modules}
        graph[name] = submodules - (parents - used)
    return graph


def circle(graph):
    """Some circle of imports, as a list of modules, or None."""
    done = set()

    def visit(name, trail):
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return None
        for other in sorted(graph.get(name, ())):
            found = visit(other, [*trail, name])
            if found:
                return found
        done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := visit(name, []))), None)


def tree(root, files):
    for folder in FLOORS:
        (root / folder).mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)


def test_every_floor_is_looked_at():
    modules = modules_of(ROOT)
    assert {floor_of(name) for name in modules} == {0, 1, 2}
    assert len(modules) > 30
    assert sum(map(len, import_graph(ROOT).values())) > 50


def test_imports_only_go_down():
    assert climbing(ROOT) == set()


def test_there_are_no_circles():
    assert circle(import_graph(ROOT)) is None


def test_imports_from_above_are_noticed(tmp_path):
    tree(
        tmp_path,
        {
            "scorepriors/a.py": "from .models import blend\n",
            "scorepriors/b.py": "from . import inference\n",
            "scorepriors/c.py": "def f():\n    import scorepriors.models.scene._blend as blend\n",
            "scorepriors/d.py": "from scorepriors import modelsish\nfrom .networks import score\n",
            "models/e.py": "from scorepriors.inference import fit\n",
            "models/f.py": "from ..inference.lbfgs import fit\n",
            "models/deep/__init__.py": "from ...inference import fit\n",
            "models/g.py": "from scorepriors import models\nfrom .e import x\n",
            "inference/h.py": "from scorepriors.models import blend\nimport scorepriors\n",
        },
    )
    found = {name.removeprefix("scorepriors.") for name, _ in climbing(tmp_path)}
    assert found == {"a", "b", "c", "models.e", "models.f", "models.deep"}


def test_circles_are_noticed(tmp_path):
    tree(
        tmp_path,
        {
            "scorepriors/__init__.py": "from .a import x\n",
            "scorepriors/a.py": "from .b import x\n",
            "scorepriors/b.py": "if True:\n    from scorepriors import c\n",
            "scorepriors/c.py": "from .d import x\n",
            "scorepriors/d.py": "def f():\n    from .a import x\n",
        },
    )
    assert circle(import_graph(tmp_path)) is None  # the last one happens inside a function
    (tmp_path / "scorepriors" / "d.py").write_text("from .a import x\n")
    names = ["a", "b", "c", "d", "a"]
    assert circle(import_graph(tmp_path)) == [f"scorepriors.{name}" for name in names]


def test_importing_the_ground_floor_loads_nothing_above_it():
    code = (
        "import sys, pkgutil, importlib, scorepriors\n"
        "for module in pkgutil.iter_modules(scorepriors.__path__):\n"
        "    if not module.ispkg: importlib.import_module(f'scorepriors.{module.name}')\n"
        "above = ('scorepriors.models', 'scorepriors.inference')\n"
        "print(sorted(name for name in sys.modules if name.startswith(above)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def looking_inside(root):
    """Modules above the ground floor that reach for what a prior is made of, and for what."""
    found = set()
    for name, path in modules_of(root).items():
        if not floor_of(name):
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        inside = ("scorepriors.energies", "scorepriors._stretch")
        found |= {(name, one) for one in imports_of(name, path, nodes) if one.startswith(inside)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and node.attr in ("energy", "params", "static"):
                owner = node.value
                said = getattr(owner, "id", getattr(owner, "attr", ""))
                found |= {(name, f"{said}.{node.attr}")} if said.endswith("prior") else set()
    return found


def test_nothing_above_knows_what_a_prior_is_made_of():
    assert looking_inside(ROOT) == set()


def test_a_look_inside_a_prior_is_noticed(tmp_path):
    tree(
        tmp_path,
        {
            "scorepriors/a.py": "from .energies._wiener import WienerEnergy\n",
            "models/b.py": "def f(prior):\n    return prior.energy(prior.sigma)\n",
            "models/c.py": "def f(group):\n    return group.prior.energy\n",
            "inference/d.py": "from scorepriors.energies._wiener import WienerEnergy\n",
            "inference/e.py": "def f(info):\n    return info.energy, info.prior.sigma\n",
        },
    )
    found = {name.removeprefix("scorepriors.") for name, _ in looking_inside(tmp_path)}
    assert found == {"models.b", "models.c", "inference.d"}


#: Rooms of `scorepriors.inference` that serve any NumPyro model; the others know of scenes.
LOWER = {
    "_posterior",
    "_checked",
    "_constants",
    "_masks",
    "_enumeration",
    "_status",
    "_moved",
    "_reads",
    "_containers",
    "_tracing",
    "_lanczos",
    "fitting",
    "curvature",
    "sampling",
}


def room_of(name):
    """The folder a module is in; a module that lies beside the folders is a room of its own."""
    parts = name.split(".")
    return ".".join(parts[: 3 if parts[1:2] in (["models"], ["inference"]) else 2])


def room_graph(root):
    """Rooms that each room imports from, inside functions too."""
    modules, graph = modules_of(root), {}
    for name, path in modules.items():
        nodes = ast.walk(ast.parse(path.read_text()))
        rooms = {room_of(one) for one in imports_of(name, path, nodes) if one in modules}
        graph.setdefault(room_of(name), set()).update(rooms - {room_of(name)})
    return graph


def test_rooms_import_in_one_direction():
    assert circle(room_graph(ROOT)) is None


def test_the_lower_half_of_inference_knows_of_no_scene():
    graph = room_graph(ROOT)
    for room in LOWER:
        above = {one for one in graph[f"scorepriors.inference.{room}"] if (floor_of(one) or 0)}
        assert above <= {f"scorepriors.inference.{one}" for one in LOWER}
