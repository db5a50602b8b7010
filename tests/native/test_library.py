"""The native library by itself, in a process that never imports torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adderkit import native

if native.library() is None:
    pytest.skip(f"no native library: {native.reason()}", allow_module_level=True)

HEADER = Path(__file__).parents[2] / "native" / "include" / "adderkit.h"

PREAMBLE = """
import ctypes, sys
import numpy as np
from adderkit import native

library = native.library()
int64 = ctypes.c_int64

def shape(x, f, output, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    values = [*x.shape, len(f), *f.shape[2:], *stride, *padding, *dilation, groups]
    for array in (x, f, output):
        values += [step // 4 for step in array.strides]
    return (int64 * len(values))(*values)

def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)

def forward(x, f, output, threads=0, **geometry):
    where = shape(x, f, output, **geometry)
    return library.adderkit_adder2d_f32(where, pointer(x), pointer(f), pointer(output), threads)

def input_grad(g, x, f, grad, threads=0, **geometry):
    where = shape(x, f, g, **geometry)
    steps = (int64 * 4)(*[step // 4 for step in grad.strides])
    return library.adderkit_adder2d_input_grad_f32(
        where, pointer(g), pointer(x), pointer(f), pointer(grad), steps, threads)

rng = np.random.default_rng(0)
draw = lambda *size: rng.standard_normal(size).astype(np.float32)
"""
EPILOGUE = """
assert "torch" not in sys.modules
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script after PREAMBLE in a process of its own."""
    paths = os.pathsep.join(path for path in sys.path if path)
    inherited = {name: value for name, value in os.environ.items() if name != "ADDERKIT_ISA"}
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + script + EPILOGUE],
        env=inherited | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def passes(script: str, **environment: str) -> str:
    result = run(script, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


FORMULA = """
x, f = draw(3, 20, 18, 19), draw(37, 20, 3, 3)
wide = np.lib.stride_tricks.sliding_window_view(x.astype(float), (3, 3), axis=(2, 3))
expected = np.stack([-np.abs(wide - g[:, None, None]).sum((1, 4, 5)) for g in f.astype(float)], 1)
results = []
for threads in (1, 2, 3, 0):
    output = np.full(expected.shape, np.nan, np.float32)
    for repeat in range(5):
        assert forward(x, f, output, threads) == 0
        results.append(output.tobytes())
assert len(set(results)) == 1
assert np.abs(output / expected - 1).max() < 1e-5

g, grads = draw(*expected.shape), []
right = np.zeros(x.shape)
for i in range(3):
    for j in range(3):
        part = right[:, :, i : i + 16, j : j + 17]
        seen = x.astype(float)[:, :, i : i + 16, j : j + 17]
        for o in range(37):
            part += g[:, o, None] * np.clip(f[o, :, i, j, None, None] - seen, -1, 1)
for threads in (1, 2, 3, 0):
    grad = np.full(x.shape, np.nan, np.float32)
    assert input_grad(g, x, f, grad, threads) == 0
    grads.append(grad.tobytes())
assert len(set(grads)) == 1
assert np.abs(grad - right).max() < 1e-3
"""


@pytest.mark.parametrize("isa", [isa.name for isa in native.isas() if not isa.reason])
def test_own_pool_computes_the_formula(isa):
    """Without torch there is no libgomp to share: our own pool runs, and threads change no bit."""
    script = "assert library.adderkit_thread_pool() == b'own pool'\n" + FORMULA
    script += f"assert [i.name for i in native.isas() if i.active] == [{isa!r}]"
    passes(script, ADDERKIT_ISA=isa)


def test_own_pool_survives_callers_in_parallel_and_forks():
    passes("""
import os, threading
x, f = draw(2, 16, 40, 40), draw(16, 16, 3, 3)
right = np.empty((2, 16, 38, 38), np.float32)
assert forward(x, f, right, 2) == 0
wrong = []
def work():
    for _ in range(20):
        output = np.empty_like(right)
        if forward(x, f, output, 3) != 0 or not np.array_equal(output, right):
            wrong.append(1)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not wrong
import warnings
warnings.simplefilter("ignore")  # newer Pythons warn that a process with threads forks; that is the point
child = os.fork()
if child == 0:
    output = np.empty_like(right)
    os._exit(0 if forward(x, f, output, 2) == 0 and np.array_equal(output, right) else 1)
assert os.waitpid(child, 0)[1] == 0
""")


def test_a_call_needs_no_unfolded_copy_of_its_input():
    """Peak memory grows by less than the input itself; unfolding would take nine inputs."""
    growth = int(
        passes("""
import resource
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x, f = draw(48, 64, 56, 56), draw(64, 64, 3, 3)
output, grad = np.zeros((48, 64, 54, 54), np.float32), np.zeros_like(x)
before = peak()
assert forward(x, f, output, 2) == 0
assert input_grad(output, x, f, grad, 2) == 0
print((peak() - before) * 1024 * 100 // x.nbytes)
""")
    )
    assert growth < 30  # per cent of the input


def test_views_in_any_direction():
    """Negative and zero strides, which torch does not have."""
    passes("""
x, f = draw(2, 5, 9, 8), draw(4, 5, 3, 3)
right = np.empty((2, 4, 7, 6), np.float32)
assert forward(np.ascontiguousarray(x[:, ::-1, ::-1, ::-1]), f, right) == 0
output = np.empty((2, 4, 7, 6), np.float32)[:, :, ::-1]
assert forward(x[:, ::-1, ::-1, ::-1], f, output) == 0
assert np.array_equal(output, right)
grad = np.empty_like(x)
assert input_grad(right, np.ascontiguousarray(x[:, ::-1, ::-1, ::-1]), f, grad) == 0
flipped = np.empty_like(x)[..., ::-1]
assert input_grad(right, x[:, ::-1, ::-1, ::-1], f, flipped) == 0
assert np.array_equal(flipped, grad)
""")


def test_bad_calls_are_refused_with_a_sentence():
    passes("""
x, f, y = draw(1, 4, 5, 5), draw(2, 4, 3, 3), np.empty((1, 2, 3, 3), np.float32)
def refused(status, word):
    assert status == 1, status
    assert word in native.error(), native.error()
refused(forward(x, f, y, stride=(0, 1)), "must be from 1 to 2^31 - 1")
refused(forward(x, f, y, dilation=(1, -2)), "must be from 1 to 2^31 - 1")
refused(forward(x, f, y, groups=3), "`groups` must divide")
refused(forward(x, f, y, padding=(-1, 0)), "`padding`")
refused(forward(x, f, y, dilation=(3, 1)), "larger than the padded input")
refused(library.adderkit_adder2d_f32(None, pointer(x), pointer(f), pointer(y), 1), "`shape` is NULL")
refused(library.adderkit_adder2d_f32(shape(x, f, y), None, pointer(f), pointer(y), 1), "is NULL")
refused(library.adderkit_adder2d_input_grad_f32(shape(x, f, y), pointer(y), pointer(x), pointer(f), None, None, 1),
        "is NULL")
try:
    native.check(forward(x, f, y, groups=3))
except ValueError as problem:
    assert "`groups` must divide" in str(problem)
else:
    raise AssertionError
empty = np.empty((0, 4, 5, 5), np.float32)
assert forward(empty, f, np.empty((0, 2, 3, 3), np.float32)) == 0
""")


@pytest.mark.parametrize("name", ["neon9", "AVX2", "sse"])
def test_an_unknown_path_is_refused(name):
    result = run("native.isas()", ADDERKIT_ISA=name)
    assert result.returncode != 0
    names = ", ".join(isa.name for isa in native.isas())
    assert f"ValueError: `ADDERKIT_ISA` (={name}) must be one of: {names}" in result.stderr


def test_forcing_a_path_by_hand():
    passes("""
with native.forced_isa("portable"):
    assert [isa.name for isa in native.isas() if isa.active] == ["portable"]
assert native.isas()[0].active or native.isas()[0].reason
try:
    with native.forced_isa("nothing"): pass
except ValueError as problem:
    assert "(=nothing) must be one of" in str(problem)
else:
    raise AssertionError
""")


def test_the_library_exports_its_interface_and_nothing_else():
    declared = set(re.findall(r"ADDERKIT_API [^;]*?(adderkit_\w+)\(", HEADER.read_text()))
    library = native.library()
    assert library is not None
    assert all(hasattr(library, name) for name in declared)
    listed = subprocess.run(["nm", "-D", "--defined-only", library._name], capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        assert {line.split()[-1] for line in listed.stdout.splitlines()} == declared
    version = re.search(r"#define ADDERKIT_ABI_VERSION (\d+)", HEADER.read_text())
    assert version is not None and int(version[1]) == native.ABI_VERSION


def test_without_a_library_the_reason_is_told():
    script = "assert library is None\nassert 'ADDERKIT_NATIVE=off' in native.reason()\nassert native.isas() == []"
    passes(script, ADDERKIT_NATIVE="off")
    assert "must be 'on' or 'off'" in run("", ADDERKIT_NATIVE="maybe").stderr
