"""Imports go one way, and heavy packages stay where the house puts them; reads the sources, runs nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module imports from the layers above its own in this list, and inside its own only what SAME_LAYER names.
LAYERS = (
    {"errors"},
    {"contract", "shipped", "cores", "extras", "files", "redact", "sequences"},
    {"pixels", "classes", "metrics", "skip_head", "size_text", "_native"},
    {"dataset", "street", "model"},
    {"training", "runtime"},
    {"export"},
    {"benchmarks"},
    {"demo", "doctor", "arguments", "exit_code", "training_bar"},
    {"build_command", "stream_command"},
    {"cli"},
    {"__main__"},
)
SAME_LAYER = {("skip_head", "_native")}

# Package -> places that may import it, as prefixes of the module's name.
ALLOWED = {
    "torch": ("model.", "training.", "export.to_onnx", "export.verify", "export.facts", "benchmarks."),
    "cv2": ("pixels",),
    "openvino": ("runtime.engine_openvino",),
    "tensorrt": ("runtime.tensorrt_library",),
    "tensorrt_rtx": ("runtime.tensorrt_library",),
    "pycuda": ("runtime.gpu",),
    "onnxruntime": ("export.onnx_runtime", "benchmarks.skip_head"),
    "starlette": ("runtime.sink_page",),
    "uvicorn": ("runtime.sink_page",),
    "matplotlib": ("training.plots", "benchmarks.report"),
}
BASE = {"numpy", "msgspec", "rich"}
LENGTH_LIMIT = 400


def modules() -> dict[str, Path]:
    """Name inside fcn_edge -> file."""
    found = {}
    for folder, prefix in (("fcn_edge", ""), ("export", "export."), ("benchmarks", "benchmarks.")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = prefix + ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
            found[name.removesuffix(".__init__") if name != "__init__" else ""] = path
    return found


def imports(name: str, path: Path) -> Iterator[tuple[str, bool]]:
    """Absolute names that a module imports, and whether only a type checker sees the import."""
    package = ["fcn_edge", *name.split(".")] if name else ["fcn_edge"]
    if path.name != "__init__.py":
        package = package[:-1]
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            yield from ((".".join([*stem, alias.name]), id(node) in typing_only) for alias in node.names)


def loaded(path: Path) -> set[str]:
    """Names that a file gives to ``import_module``: constants, and those in ``PACKAGES`` where it is given a variable.

    What is not installed everywhere is loaded so, as type checkers would miss it.
    """
    tree = ast.parse(path.read_text())
    given = [
        node.args[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
        == "import_module"
    ]
    found = {argument.value for argument in given if isinstance(argument, ast.Constant)}
    if all(isinstance(argument, ast.Constant) for argument in given):
        return found
    bound = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    packages = bound.get("PACKAGES")
    assert isinstance(packages, ast.Tuple), f"{path} loads what no test can know; name it in PACKAGES"
    named = [bound[entry.id] if isinstance(entry, ast.Name) else entry for entry in packages.elts]
    return found | {entry.value for entry in named if isinstance(entry, ast.Constant)}


def layer(part: str) -> int:
    return next(index for index, parts in enumerate(LAYERS) if part in parts)


@pytest.mark.parametrize("name", [name for name in modules() if name])
def test_imports_go_one_way(name: str) -> None:
    own = name.split(".")[0]
    for target, _ in imports(name, modules()[name]):
        parts = target.split(".")
        if parts[0] != "fcn_edge" or len(parts) < 2 or parts[1] in {own, "__version__"}:
            continue
        if (own, parts[1]) not in SAME_LAYER:
            assert layer(parts[1]) < layer(own), f"{name} imports {target}, which stands beside or below it"


def test_training_and_runtime_never_meet() -> None:
    for name, path in modules().items():
        targets = [target for target, _ in imports(name, path)]
        if name.startswith("training"):
            assert not any(target.startswith("fcn_edge.runtime") for target in targets), name
        if name.startswith("runtime"):
            assert not any(target.startswith(("fcn_edge.training", "fcn_edge.model")) for target in targets), name


def users_of(package: str) -> set[str]:
    """Modules that import a package, in a statement or through ``import_module``."""
    return {
        name
        for name, path in modules().items()
        if package in {target.split(".")[0] for target, typing_only in imports(name, path) if not typing_only}
        or package in {target.split(".")[0] for target in loaded(path)}
    }


@pytest.mark.parametrize("package", ALLOWED)
def test_heavy_packages_stay_in_their_place(package: str) -> None:
    users = users_of(package)
    assert users, f"nothing imports {package}, so this test would see nothing"
    assert not {name for name in users if not name.startswith(ALLOWED[package])}
    assert all(any(name.startswith(place) for name in users) for place in ALLOWED[package]), "a place is stale"


def test_every_file_says_what_it_holds_and_is_short() -> None:
    for name, path in modules().items():
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), f"{name} opens without a sentence"
        assert text.count("\n") <= LENGTH_LIMIT, f"{name} has more than {LENGTH_LIMIT} lines; it is two files"


def test_no_catch_all_files() -> None:
    parts = {part for name in modules() for part in name.split(".")}
    assert not parts & {"utils", "util", "helpers", "common", "misc"}


def test_every_module_is_installed_where_the_tree_says() -> None:
    import importlib.util

    for name in modules():
        assert importlib.util.find_spec(f"fcn_edge.{name}" if name else "fcn_edge"), name
