"""The rules of docs/architecture.md that can be read off the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "clipself_d2"

# What a subpackage may import of the others; `errors`, `files` and `command_line` are everybody's.
CORE = {"clip"}
VOCABULARY = CORE | {"vocabulary"}
REGIONS = VOCABULARY | {"regions"}
SHARED = REGIONS | {"backbones", "data", "evaluation", "engine"}
MAY_IMPORT = {
    "clip": CORE,
    "vocabulary": VOCABULARY,
    "regions": REGIONS,
    "backbones": REGIONS | {"backbones"},
    "data": REGIONS | {"data"},
    "evaluation": REGIONS | {"data", "evaluation"},
    "engine": REGIONS | {"engine"},
    "visualization": SHARED | {"visualization"},
    "distillation": SHARED | {"distillation"},
    "detection": SHARED | {"detection"},
    "panoptic": SHARED | {"panoptic"},
    "semantic": SHARED | {"semantic"},
    # The laboratory shows every application at work.
    "miniature": SHARED | {"visualization", "distillation", "panoptic", "miniature"},
    # The command: nothing imports it.
    "cli": SHARED | {"visualization", "distillation", "detection", "panoptic", "semantic", "miniature", "cli"},
}
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = [path for folder in ("tools", "configs", "datasets", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
SOURCES = FILES + sorted(SCRIPTS)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, anywhere in it, as absolute names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*path.relative_to(ROOT).parts[: -node.level], *filter(None, [base])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", [path for path in FILES if path.parent != PACKAGE], ids=name)
def test_imports_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0]
    assert room in MAY_IMPORT, f"say in this test what {room} may import"
    rooms = {child.name for child in PACKAGE.iterdir() if child.is_dir()}
    split = (module.split(".") for module in imported(path))
    wanted = {parts[1] for parts in split if parts[0] == "clipself_d2" and len(parts) > 1}
    assert wanted & rooms <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", [path for path in FILES if path.parent == PACKAGE], ids=name)
def test_the_package_itself_imports_no_room(path):
    allowed = {"errors", "files"} | ({"cli"} if path.name == "__main__.py" else set())
    assert not {module.split(".")[1] for module in imported(path) if module.startswith("clipself_d2.")} - allowed


def public(node: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public classes and functions of a module, and the public methods of public classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not child.name.startswith("_"):
            yield f"{inside}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{inside}{child.name}.")


def has_the_docstring_of_another(node: ast.AST) -> bool:
    """A property's setter, and a method that overrides a documented one."""
    return any(ast.unparse(d).endswith((".setter", "override")) for d in getattr(node, "decorator_list", []))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    undocumented = [(title, node) for title, node in public(tree) if not ast.get_docstring(node)]
    assert not [title for title, node in undocumented if not has_the_docstring_of_another(node)]
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_file_is_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


EXTRAS = {
    "faster_coco_eval",
    "gradio",
    "lvis",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "panopticapi",
    "supervision",
    "transformers",
}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_packages_of_extras_are_imported_where_they_are_used(path):
    """Not at the top of a module: what does not use them runs without."""
    nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes]
    assert not {module.split(".")[0] for module in found} & EXTRAS


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_is_unpickled(path):
    """`torch.load` only with weights_only=True, and no pickle, joblib or unsafe yaml."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "torch.load":
            flags = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert flags.get("weights_only") == "True", f"line {node.lineno}"
        forbidden = {"pickle.load", "pickle.loads", "torch.jit.load", "joblib.load", "yaml.unsafe_load"}
        assert called not in forbidden, f"line {node.lineno}"
        if called == "np.load":
            assert not any(k.arg == "allow_pickle" and ast.unparse(k.value) == "True" for k in node.keywords)
