"""The source holds no call that SECURITY.md says it does not: searched, so that a new one has to come past here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "adderkit"

# Where a call may stand; nowhere else. None: nowhere at all.
ALLOWED: dict[str, set[str]] = {
    "torch.load": {"plain_load.py"},
    "yaml.load": {"strict_yaml.py"},
    "Image.open": {"data/image.py"},
    "subprocess.run": {"train/environment.py", "bench/memory.py"},
    "subprocess.Popen": {"bench/busy.py", "tables/grid.py"},
}
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "joblib.load"),
    *("np.load", "numpy.load", "np.fromregex", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.unsafe_load_all"),
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.startfile"),
    *("tarfile.open", "shutil.unpack_archive", "urllib.request.urlopen", "urllib.request.urlretrieve"),
    *("extractall", "extract"),
}


def calls() -> list[tuple[str, str, ast.Call]]:
    """Every call in the source: file, dotted name as written, node."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found.append((path.relative_to(SOURCE).as_posix(), ast.unparse(node.func), node))
    return found


def test_no_forbidden_call():
    wrong = [
        (file, name, node.lineno)
        for file, name, node in calls()
        if name in FORBIDDEN or name.rpartition(".")[2] in {"extractall", "extract", "unpack_archive", "urlopen"}
    ]
    assert not wrong


@pytest.mark.parametrize("name", ALLOWED)
def test_calls_stand_where_they_may(name):
    assert {file for file, found, _ in calls() if found == name} == ALLOWED[name]


def test_names_are_not_hidden_behind_others():
    """`from pickle import load` would pass the search above."""
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in {"pickle", "marshal", "yaml", "subprocess", "os"}:
                wrong += [(path.name, alias.name) for alias in node.names if alias.name != "PathLike"]
            if isinstance(node, ast.ImportFrom) and node.module in {"torch", "PIL.Image"}:
                wrong += [(path.name, alias.name) for alias in node.names if alias.name in {"load", "open"}]
    assert not wrong


def test_torch_load_reads_weights_only():
    (node,) = [node for _, name, node in calls() if name == "torch.load"]
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    assert options["weights_only"] == "True"


def test_nothing_goes_through_a_shell():
    for _, name, node in calls():
        if name.startswith("subprocess."):
            assert not any(keyword.arg == "shell" for keyword in node.keywords)
