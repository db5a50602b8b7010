"""Loaded networks: what they compute, what they refuse, how they live and end."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from network_file import Builder, drawn, encode, evaluated, tangled

from adderkit import native, runtime

if native.library() is None:
    pytest.skip(f"no native library: {native.reason()}", allow_module_level=True)

ISAS = [isa.name for isa in native.isas() if not isa.reason]
NETWORK, ARRAYS = drawn(1)


def images(net: runtime.Net, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *net.shape)).astype(np.uint8)


def right(network, arrays, pixels) -> np.ndarray:
    """Logits (N, classes) of the oracle."""
    fixed = np.stack([evaluated(network, arrays, image)[-1][0, 0] for image in pixels])
    return (fixed / 2.0 ** network["logit_shift"]).astype(np.float32)


@pytest.fixture
def net() -> runtime.Net:
    return runtime.parse(encode(NETWORK, ARRAYS))


@pytest.fixture
def grey() -> runtime.Net:
    build = Builder(0, channels=1)
    build.classifier(4, build.weighted("adder", 3, 0))
    return runtime.parse(encode(build.network(), build.arrays))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("seed", range(6))
def test_logits_and_every_tensor_are_the_formulas(isa, seed):
    network, arrays = drawn(seed, height=11 + seed, width=8, channels=1 + seed % 4, bits=(8, 6, 4)[seed % 3])
    with native.forced_isa(isa):
        net = runtime.parse(encode(network, arrays))
        pixels = images(net, 7, seed)
        expected = right(network, arrays, pixels)
        assert len(np.unique(expected)) > 10
        for threads in (0, 1, 2, 3, 16):
            for count in (1, 2, 7):
                logits = net(pixels[:count], threads)
                assert logits.dtype == np.float32
                np.testing.assert_array_equal(logits, expected[:count])
        tensors = evaluated(network, arrays, pixels[0])
        dtypes = {"average_pool": np.uint16, "classifier": np.int32}
        for index, layer in enumerate(network["layers"]):
            output = net.layer_output(pixels[0], index)
            assert output.dtype == dtypes.get(layer["op"], np.uint8)
            np.testing.assert_array_equal(output, tensors[index + 1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("seed", range(10))
def test_tensors_with_several_readers(isa, seed):
    network, arrays = tangled(seed)
    with native.forced_isa(isa):
        net = runtime.parse(encode(network, arrays))
        pixels = images(net, 3, seed)
        expected = right(network, arrays, pixels)
        for threads in (1, 3):
            np.testing.assert_array_equal(net(pixels, threads), expected)
            np.testing.assert_array_equal(net(pixels[:1], threads), expected[:1])
        for index, tensor in enumerate(evaluated(network, arrays, pixels[0])[1:]):
            np.testing.assert_array_equal(net.layer_output(pixels[0], index), tensor)


def test_logits_saturate_where_float32_is_exact():
    build = Builder(0)
    build.classifier(3, 0)
    arrays = build.arrays | {"0.offset": np.array([2**61, -(2**61), 0])}
    network = build.network(logit_shift=0)
    net = runtime.parse(encode(network, arrays))
    pixels = images(net, 2)
    logits = net(pixels)
    assert set(logits[:, 0]) == {2.0**24 - 1} and set(logits[:, 1]) == {1 - 2.0**24}
    np.testing.assert_array_equal(logits, right(network, arrays, pixels))


def test_what_a_net_says_of_itself(tmp_path):
    classes = ["Käse", "日本😀", "a\nb", "", "a"]
    path = tmp_path / "né.adk"
    path.write_bytes(encode(NETWORK | {"classes": classes, "source": {"commit": "abc"}}, ARRAYS))
    for given in (path, str(path)):
        net = runtime.load(given)
        assert net.classes == tuple(classes)
        assert (net.name, net.dataset) == ("drawn", "noise")
        assert (net.height, net.width, net.channels) == net.shape == (9, 7, 3)
        assert net.header["source"] == {"commit": "abc"} and net.header["layers"] == NETWORK["layers"]
        assert repr(net) == "<Net 'drawn' of 'noise': uint8 9x7x3, 5 classes>"


def test_arrays_are_copies_of_the_files(net):
    found = net.arrays()
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        found[name][...] = 1
    np.testing.assert_array_equal(net.arrays()["0.weight"], ARRAYS["0.weight"])


def test_empty_batch(net):
    logits = net(np.empty((0, 9, 7, 3), np.uint8))
    assert logits.shape == (0, 5) and logits.dtype == np.float32


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::-1],
        lambda x: x[:, ::-1, ::-1, ::-1],
        lambda x: np.asfortranarray(x),
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x.transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1),
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].reshape(x.shape),
        lambda x: x.tolist() and np.array(x.tolist(), np.uint8),
    ],
)
def test_views_of_any_strides(net, view):
    pixels = view(images(net, 4))
    before = pixels.copy()
    np.testing.assert_array_equal(net(pixels), right(NETWORK, ARRAYS, before))
    np.testing.assert_array_equal(pixels, before)


def test_grey_images_need_no_axis_for_their_channel(grey):
    pixels = images(grey, 3)
    np.testing.assert_array_equal(grey(pixels[..., 0]), grey(pixels))
    np.testing.assert_array_equal(grey.layer_output(pixels[0, ..., 0], 0), grey.layer_output(pixels[0], 0))
    assert grey(pixels[..., 0], np.int64(2)).shape == (3, 4)


GOOD = np.zeros((2, 9, 7, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (GOOD.astype(np.float32), r"`images` has the dtype float32; it must be uint8"),
        (GOOD.astype(np.int8), r"dtype int8"),
        (GOOD.astype(bool), r"dtype bool"),
        (GOOD.tolist(), r"dtype int64"),
        (GOOD[0], r"`images` has the shape \(9, 7, 3\); it must be \(N, 9, 7, 3\)$"),
        (GOOD[..., :1], r"shape \(2, 9, 7, 1\)"),
        (GOOD[..., 0], r"shape \(2, 9, 7\)"),
        (GOOD.transpose(0, 3, 1, 2), r"shape \(2, 3, 9, 7\)"),
        (GOOD.transpose(0, 2, 1, 3), r"shape \(2, 7, 9, 3\)"),
        (GOOD[None], r"shape \(1, 2, 9, 7, 3\)"),
        (np.uint8(3), r"shape \(\)"),
    ],
)
def test_images_that_do_not_fit(net, given, expected):
    with pytest.raises(ValueError, match=expected):
        net(given)


def test_grey_images_that_do_not_fit(grey):
    with pytest.raises(ValueError, match=r"`images` has the shape \(9, 7\); it must be \(N, 9, 7, 1\) or \(N, 9, 7\)"):
        grey(np.zeros((9, 7), np.uint8))
    with pytest.raises(ValueError, match=r"`image` has the shape \(3, 9, 7\); it must be \(9, 7, 1\) or \(9, 7\)"):
        grey.layer_output(np.zeros((3, 9, 7), np.uint8), 0)


@pytest.mark.parametrize("threads", [-1, 4097, 2**32, 1.0, "2", None, True])
def test_threads_that_can_not_be(net, threads):
    with pytest.raises(ValueError, match=rf"`threads` \(={threads!r}\) must be a whole number from 0 to 4096"):
        net(GOOD, threads)


LAST = len(NETWORK["layers"]) - 1


@pytest.mark.parametrize("layer", [-1, LAST + 1, 2**32, "fc"])
def test_layers_that_are_not_there(net, layer):
    with pytest.raises(ValueError, match=rf"`layer` \(={layer!r}\) must be a whole number from 0 to {LAST}"):
        net.layer_output(GOOD[0], layer)


def test_the_last_layers_output(net):
    assert net.layer_output(GOOD[0], LAST).shape == (1, 1, 5)


def test_files_that_can_not_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as large:
        large.truncate(2**30 + 1)
    (tmp_path / "foreign").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    for name, expected in (
        ("none", "none` can't be read: No such file or directory"),
        ("", "can't be read: it is a folder"),
        ("pipe", "pipe` can't be read: it is no regular file"),
        ("large", "large` has 1073741825 bytes; allowed are 2^30 (1 GiB)"),
        ("foreign", "foreign` is no integer network of adderkit"),
        ("a\n\x1b[2J\udcff", r"a\x0a\x1b[2J\xff` can't be read"),
    ):
        with pytest.raises(ValueError) as refused:
            runtime.load(tmp_path / name)
        assert str(tmp_path) in str(refused.value) and expected in str(refused.value)
    with pytest.raises(ValueError, match="without NUL"):
        runtime.load("a\0b")
    with pytest.raises(ValueError, match="`data` must be bytes, is memoryview"):
        runtime.parse(memoryview(b"x"))  # type: ignore[arg-type]


def test_a_closed_net(net):
    with net as same:
        assert same is net and len(net(GOOD)) == 2
    assert repr(net).endswith("classes, closed>")
    for call in (lambda: net(GOOD), lambda: net.layer_output(GOOD[0], 0), net.arrays):
        with pytest.raises(ValueError, match="this Net is closed"):
            call()
    net.close()
    assert net.classes and net.header


def test_a_net_can_not_be_pickled_or_copied(net):
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="send its path and load it there"):
            way(net)


def test_threads_share_a_net_that_another_closes(net):
    """Nothing is freed while a call runs."""
    pixels = images(net, 9)
    expected = net(pixels, 1)
    begun, wrong = threading.Barrier(5), []

    def work(threads: int) -> None:
        begun.wait()
        try:
            for _ in range(500):
                if not np.array_equal(net(pixels, threads), expected):
                    wrong.append(threads)
        except ValueError as error:
            if "closed" not in str(error):
                wrong.append(str(error))

    callers = [threading.Thread(target=work, args=(threads,)) for threads in (0, 1, 2, 3)]
    for caller in callers:
        caller.start()
    begun.wait()
    time.sleep(0.02)
    net.close()
    for caller in callers:
        caller.join()
    assert not wrong


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script in a fresh interpreter, whose folder has the tests' files of networks."""
    paths = os.pathsep.join([str(Path(__file__).parent), *(path for path in sys.path if path)])
    return subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


ALONE = """
import sys
allowed = set(sys.stdlib_module_names) | {"numpy", "adderkit", "network_file"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Blocker())
try:
    import torch
except ImportError:
    pass
else:
    raise AssertionError("torch is there")
import numpy as np
import adderkit
from network_file import drawn, encode, evaluated
"""


def test_numpy_is_the_only_package_that_it_needs():
    script = """
network, arrays = drawn(1)
net = adderkit.runtime.parse(encode(network, arrays))
image = np.random.default_rng(0).integers(0, 256, net.shape).astype(np.uint8)
logits = net(image[None])
assert np.array_equal(logits[0], (evaluated(network, arrays, image)[-1][0, 0] / 2**14).astype(np.float32))
loaded = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(sorted(name for name in loaded if not name.startswith(("_", "cython_runtime"))))  # NumPy's own
print(sorted(name for name in sys.modules if name.startswith("adderkit")))
"""
    done = run(ALONE + script)
    assert done.returncode == 0, done.stderr
    packages, modules = done.stdout.splitlines()
    assert packages == "['adderkit', 'network_file', 'numpy']"
    names = ["adderkit", "adderkit.native", *(f"adderkit.runtime{part}" for part in ("", ".binding", ".net"))]
    assert modules == str(names)


def test_without_the_native_library_the_error_says_what_to_do():
    script = """
from adderkit import runtime
for call in (lambda: runtime.load("net.adk"), lambda: runtime.parse(b"")):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    done = run(script, ADDERKIT_NATIVE="off")
    line = "integer networks run on the native library alone: ADDERKIT_NATIVE=off; unset it to use the native kernels\n"
    assert done.stdout == 2 * line, done.stderr


def test_a_path_that_can_not_run_here_is_named():
    done = run(
        ALONE + "adderkit.runtime.parse(encode(*drawn()))(np.zeros((1, 9, 7, 3), np.uint8))", ADDERKIT_ISA="abacus"
    )
    assert "ValueError: `ADDERKIT_ISA` (=abacus) must be one of" in done.stderr


@pytest.mark.parametrize("pool", ["own pool", "libgomp"])
def test_a_forked_process_goes_on_with_the_net(pool):
    """With torch's libgomp too, whose threads the child has not."""
    start = ALONE
    if pool == "libgomp":
        pytest.importorskip("torch")
        if (library := native.library()) is None or library.adderkit_thread_pool() != b"libgomp":
            pytest.skip("this torch brings no libgomp")
        start = "import torch, numpy as np, adderkit.runtime\nfrom network_file import drawn, encode\n"
    script = f"""
from adderkit import native
assert native.library().adderkit_thread_pool() == {pool.encode()!r}
import os, warnings
warnings.simplefilter("ignore")  # newer Pythons warn that a process with threads forks; that is the point
network, arrays = drawn(1)
net = adderkit.runtime.parse(encode(network, arrays))
images = np.random.default_rng(0).integers(0, 256, (9, *net.shape)).astype(np.uint8)
right = net(images, 3)
child = os.fork()
if child == 0:
    import signal
    signal.alarm(60)
    ok = np.array_equal(net(images, 3), right) and np.array_equal(net(images[:1], 2), right[:1])
    ok = ok and native.library().adderkit_thread_pool() == b"own pool"
    del net
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(net(images, 3), right)
"""
    done = run(start + script)
    assert done.returncode == 0, done.stderr


def test_memory_is_given_back():
    """Of 60 networks of 1.8 MB, run and dropped, or refused at the end, little stays."""
    script = """
import resource
from network_file import Builder
build = Builder(0, height=2, width=2)
build.classifier(2, build.weighted("adder", 40000, 0))
good = encode(build.network(), build.arrays)
bad = encode(build.network(classes=["a"]), build.arrays)
image = np.zeros((1, 2, 2, 3), np.uint8)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for k in range(60):
    if k == 10:
        before = peak()
    net = adderkit.runtime.parse(good)
    net(image)
    try:
        adderkit.runtime.parse(bad)
    except ValueError:
        pass
print(len(good) / 2**20, peak() - before)
"""
    done = run(ALONE + script)
    assert done.returncode == 0, done.stderr
    size, growth = map(float, done.stdout.split())
    assert size > 1.5
    assert growth < 20 * size
