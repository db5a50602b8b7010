"""What docs/runtime.md shows is what works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from network_file import drawn, encode
from PIL import Image

from adderkit import cli, native
from adderkit.runtime import binding

if native.library() is None:
    pytest.skip(f"no native library: {native.reason()}", allow_module_level=True)

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "runtime.md").read_text()
COMPILER = shutil.which("cc")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.adk").write_bytes(encode(*drawn(1)))
    return tmp_path


def test_python(room):
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", block("python")],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"<Net 'drawn' of 'noise': .*> \['class \d', .*\]\n", done.stdout)


def built(source: Path, program: Path) -> list[str]:
    """Compiles a C program against the header of the source and the library that Python has loaded."""
    library = native.library()
    assert library is not None and COMPILER is not None
    folder = str(Path(library._name).parent)
    include = str(ROOT / "native" / "include")
    options = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    links = ["-L", folder, "-ladderkit", "-lm", f"-Wl,-rpath,{folder}"]
    done = subprocess.run(
        [COMPILER, *options, str(source), "-I", include, *links, "-o", str(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [str(program)]


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_c(room):
    (room / "first.c").write_text(block("c"))
    program = built(room / "first.c", room / "first")
    done = subprocess.run([*program, "net.adk"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "images of 9 x 7 x 3, first class class 0\n")
    done = subprocess.run([*program, "gone.adk"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "`gone.adk` can't be read: No such file or directory\n")


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_the_example_says_what_predict_says(room, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("picture.ppm")
    done = subprocess.run(
        [*built(ROOT / "native" / "examples" / "classify.c", room / "classify"), "net.adk", "picture.ppm"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert cli.main(["predict", "net.adk", "picture.ppm"]) == 0
    rows = [line.strip("│").split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    shown = [(row[1].strip(), row[2].strip()) for row in rows]
    assert [(line[10:], line[:8].strip()) for line in done.stdout.splitlines()] == shown


def test_every_function_of_the_header_is_bound():
    header = (ROOT / "native" / "include" / "adderkit.h").read_text()
    declared = set(re.findall(r"adderkit_net_(\w+)\(", header))
    assert declared == set(binding._SIGNATURES)
    kinds = re.findall(r"ADDERKIT_([UI]\d+) = (\d)", header)
    assert [name.replace("U", "uint").replace("I", "int") for name, _ in kinds] == [
        kind.__name__
        for kind in binding.DTYPES  # type: ignore[union-attr]
    ]
    assert [int(number) for _, number in kinds] == list(range(len(kinds)))
