"""The rooms import each other in one direction only (docs/architecture.md), and optional parts stay optional."""

import ast
from pathlib import Path

import pytest

MAY_IMPORT = {
    "protocol": set(),
    "geometry": {"protocol"},
    "capture_nodes": {"protocol"},
    "models": {"protocol", "geometry"},
    "fusion_server": {"protocol", "geometry", "models"},
    "launch": {"protocol", "geometry", "capture_nodes", "models", "fusion_server"},
}
NOT_IN_PROTOCOL = {"torch", "cv2"}
OPTIONAL = {"tensorrt", "tensorrt_rtx", "pycuda", "nvdiffrast", "torchcodec", "pypylon", "pxr", "ray", "anny"}


def imports(path: Path, module_level_only: bool) -> set[str]:
    """Top-level names that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    nodes = tree.body if module_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_lies_below_it(root, room):
    files = list((root / room).rglob("*.py"))
    assert files
    for path in files:
        ours = imports(path, module_level_only=False) & MAY_IMPORT.keys() - {room}
        assert ours <= MAY_IMPORT[room], f"{path.relative_to(root)} imports {sorted(ours - MAY_IMPORT[room])}"


def test_the_protocol_needs_neither_torch_nor_opencv(root):
    for path in (root / "protocol").rglob("*.py"):
        assert not imports(path, module_level_only=False) & NOT_IN_PROTOCOL, path


def test_optional_parts_are_imported_late_or_in_a_module_of_their_own(root):
    """A module that imports an optional part at its top must itself be imported late: by no other module's top."""
    heavy = {}
    for room in MAY_IMPORT:
        for path in (root / room).rglob("*.py"):
            if imports(path, module_level_only=True) & OPTIONAL:
                heavy[".".join(path.relative_to(root).with_suffix("").parts)] = path
    for room in MAY_IMPORT:
        for path in (root / room).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ImportFrom):
                    names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                    clash = names & heavy.keys()
                    assert path in heavy.values() or not clash, f"{path} imports {clash} at its top"
