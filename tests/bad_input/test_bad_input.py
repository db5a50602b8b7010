"""Bad input of every kind through the command line: exit code, message, and nothing written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import cases_files
import cases_images
import cases_networks
import cases_options
import cases_parquet
import pytest
from bad_case import Case

from adderkit import cli, native

NETWORKS = cases_networks.CASES if native.library() is not None else []  # nothing else reads them
CASES = [*cases_images.CASES, *cases_parquet.CASES, *cases_options.CASES, *cases_files.CASES, *NETWORKS]
NOBODY = 65534
DOCUMENT = Path(__file__).parents[2] / "docs" / "bad-input.md"

# Pillow and torch warn about odd files before they fail; a user sees the warning as well
pytestmark = pytest.mark.filterwarnings("default")


def snapshot(root: Path) -> dict[str, object]:
    """Every path below a folder, with what it holds."""
    found: dict[str, object] = {}
    for parent, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            content = Path(path).read_bytes() if os.path.isfile(path) and not os.path.islink(path) else None
            found[os.path.relpath(path, root)] = (status.st_mode, status.st_ino, content)
    return found


@contextmanager
def without_rights(root: Path) -> Iterator[None]:
    """Root may read anything: another user has to try."""
    if os.geteuid() != 0:
        yield
        return
    for path in (root, *root.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def room(monkeypatch) -> Iterator[Path]:
    """A folder to stand in, that any user may enter."""
    root = Path(tempfile.mkdtemp(prefix="adderkit-bad-"))
    root.chmod(0o755)
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield root
    cases_options.release()
    os.chdir("/")
    shutil.rmtree(root)


def called(arguments: list[str]) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, room: Path, capsys):
    arguments = case.build(room)
    with without_rights(room) if case.nobody else nullcontext():
        before = snapshot(room) if not case.nobody else None
        capsys.readouterr()
        code = called(arguments)
    if before is not None:
        assert snapshot(room) == before, "something was written or changed"
    else:
        assert not [path for path in (room / "run").glob("*")]
    captured = capsys.readouterr()
    assert code == case.code, captured.err
    for fragment in case.fragments:
        assert fragment in captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err) < 3000


def test_names_are_distinct():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 60


def test_the_document_lists_every_case():
    """`write_table.py` writes it."""
    rows = [line.split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    listed = {cells[0].removeprefix("| "): cells[1] for cells in rows}
    assert {case.name: str(case.code) for case in CASES}.items() <= listed.items()
