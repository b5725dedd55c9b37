"""Nothing that is read from a wire or a disk can run code: no pickle, no eval, in no room."""

import ast

import pytest

ROOMS = ("protocol", "geometry", "capture_nodes", "models", "fusion_server", "launch")
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
METHODS = {"recv_pyobj", "send_pyobj", "read_pickle", "to_pickle"}


def wrongs(source: str) -> list[str]:
    """What in a file unpickles or evaluates, as ``line: what``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if keywords.get("allow_pickle", "False") != "False":
            found.append(f"{node.lineno}: {called} with allow_pickle")
        if called == "torch.load" and keywords.get("weights_only") != "True":
            found.append(f"{node.lineno}: torch.load without weights_only=True")
        if called in ("eval", "exec", "yaml.load", "yaml.unsafe_load") or called.rpartition(".")[2] in METHODS:
            found.append(f"{node.lineno}: {called}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_reads_nothing_that_could_run_code(root, room):
    files = list((root / room).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(root)): wrongs(path.read_text(encoding="utf-8")) for path in files}
    assert {path: lines for path, lines in wrong.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.hashing",
        "numpy.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "socket.recv_pyobj()",
        "eval(text)",
    ],
)
def test_the_test_sees_them(line):
    assert len(wrongs(line)) == 1


@pytest.mark.parametrize("line", ["np.load(path)", "torch.load(path, weights_only=True)", "network.eval()"])
def test_the_test_lets_others_pass(line):
    assert wrongs(line) == []
