"""Every kind of file that is refused, with the sentence that says so."""

from __future__ import annotations

import copy
import json
import re

import network_file
import numpy as np
import pytest
from network_file import drawn, encode, repaired, sealed, table

from adderkit import native, runtime

if native.library() is None:
    pytest.skip(f"no native library: {native.reason()}", allow_module_level=True)

NETWORK, ARRAYS = drawn(0)
GOOD = encode(NETWORK, ARRAYS)
# layers: 0 convolution; 1 and 2 adder, 2 with a residual; 3 projection; 4 adder; 5 adder 3x1 with a residual;
# 6 max pool; 7 classifier


def message(data: bytes) -> str:
    with pytest.raises(ValueError) as refused:
        runtime.parse(data)
    text = str(refused.value)
    assert text.isprintable()
    return text


def changed(path: str, value: object) -> dict:
    """NETWORK with one value replaced, or a key left out (...)."""
    network = copy.deepcopy(NETWORK)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = network
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return network


def test_the_file_to_spoil_is_good():
    assert runtime.parse(GOOD).classes == tuple(NETWORK["classes"])
    assert repaired(GOOD) == GOOD


WHOLE = r"must be a whole number from {} to {}"
REFUSED_VALUES = [
    ("channels", 0, r"`channels` \(=0\) " + WHOLE.format(1, 1048576)),
    ("channels", 4, r"`0\.weight` \(=I8 \[6,3,3,3\]\) must be I8 \[6,3,3,4\]"),
    ("height", 65537, r"`height` \(=65537\) " + WHOLE.format(1, 65536)),
    ("width", 3.0, r"`width` \(=3\.0\) must be a whole number"),
    ("width", "7", r"`width` \(=7\) must be a whole number"),
    ("width", None, r"`width` \(=null\) must be"),
    ("width", True, r"`width` \(=true\) must be"),
    ("width", 2**63, r"`width` \(=9223372036854775808\) must be"),
    ("bits", 1, r"`bits` \(=1\) " + WHOLE.format(2, 8)),
    ("bits", 9, r"`bits` \(=9\) " + WHOLE.format(2, 8)),
    ("bits", 7, r"must be at most 127: `bits` is 7"),
    ("multiplier_free", 1, r"`multiplier_free` \(=1\) must be true or false"),
    ("multiplier_free", True, r"`0\.multiplier` \(=-?\d+ for output 0\) must be a power of two or its negative"),
    ("logit_shift", 25, r"`logit_shift` \(=25\) " + WHOLE.format(0, 24)),
    ("logit_shift", -1, r"`logit_shift` \(=-1\) must be"),
    ("name", ..., r"`name` is missing"),
    ("name", 3, r"`name` \(=3\) must be a text"),
    ("dataset", "a\0b", r"`dataset` \(=a\\x00b\) must be a text without NUL"),
    ("classes", {}, r"`classes` \(=\{\}\) must be an array"),
    ("classes", ["a"] * 4, r"`classes` has 4 names, but the classifier 5 outputs"),
    ("classes.1", 3, r"`classes\[1\]` \(=3\) must be a text"),
    ("layers", [], r"`layers` must hold one layer or more"),
    ("layers", 3, r"`layers` \(=3\) must be an array"),
    ("layers.3", 7, r"`layers\[3\]` \(=7\) must be an object"),
    ("layers.1.op", "conv", r"`layers\[1\]\.op` \(=conv\) must be one of adder, convolution, max_pool, average_pool"),
    ("layers.1.op", "\x1b[2J", r"`layers\[1\]\.op` \(=\\x1b\[2J\) must be one of"),
    ("layers.1.op", "classifier", r"`layers\[1\]\.op` \(=classifier\) must not be classifier: the last layer alone"),
    ("layers.7.op", "adder", r"`layers\[7\]\.op` \(=adder\) must be classifier: the last layer is"),
    ("layers.1.op", "convolution", r"the array `1\.weight` \(=U8 \[6,3,3,6\]\) must be I8 \[6,3,3,6\]"),
    ("layers.1.scale", 0.5, r"`layers\[1\]\.scale` is unknown"),
    ("layers.1.input", ..., r"`layers\[1\]\.input` is missing"),
    ("layers.1.input", 2, r"`layers\[1\]\.input` \(=2\) " + WHOLE.format(0, 1)),
    ("layers.1.input", -1, r"`layers\[1\]\.input` \(=-1\) must be"),
    ("layers.2.residual", -2, r"`layers\[2\]\.residual` \(=-2\) " + WHOLE.format(-1, 2)),
    ("layers.2.residual", 3, r"`layers\[2\]\.residual` \(=3\) must be"),
    ("layers.2.residual", 0, r"`layers\[2\]\.residual` \(=0\) is 9x7x3, but the layer makes 9x7x6"),
    ("layers.2.residual_multiplier", 2**31, r"`layers\[2\]\.residual_multiplier` \(=2147483648\) must be"),
    ("layers.1.residual_multiplier", 3, r"`layers\[1\]\.residual_multiplier` \(=3\) " + WHOLE.format(0, 0)),
    ("layers.6.residual", 1, r"`layers\[6\]\.residual` \(=1\) " + WHOLE.format(-1, -1)),
    ("layers.1.out_channels", 0, r"`layers\[1\]\.out_channels` \(=0\) must be"),
    ("layers.1.out_channels", 7, r"must be U8 \[7,3,3,6\]"),
    ("layers.6.out_channels", 3, r"`layers\[6\]\.out_channels` \(=3\) " + WHOLE.format(9, 9)),
    ("layers.1.kernel", [3], r"`layers\[1\]\.kernel` \(=\[3\]\) must be two whole numbers from 1 to 65536"),
    ("layers.1.kernel", [0, 3], r"`layers\[1\]\.kernel` \(=\[0, 3\]\) must be two"),
    ("layers.1.kernel", 3, r"`layers\[1\]\.kernel` \(=3\) must be an array"),
    ("layers.0.kernel", [12, 3], r"`layers\[0\]\.kernel` \(=12\) must fit into the padded input \(11\)"),
    ("layers.6.kernel", [9, 2], r"`layers\[6\]\.kernel` \(=9\) must fit into the padded input \(7\)"),
    ("layers.1.stride", [1, 0], r"`layers\[1\]\.stride` \(=\[1, 0\]\) must be two"),
    ("layers.1.padding", [1, 3], r"`layers\[1\]\.padding` \(=3\) must be smaller than the kernel \(3\)"),
    ("layers.1.padding", [-1, 1], r"`layers\[1\]\.padding` \(=\[-1, 1\]\) must be two"),
    ("layers.1.shift", 63, r"`layers\[1\]\.shift` \(=63\) " + WHOLE.format(0, 62)),
    ("layers.6.shift", 1, r"`layers\[6\]\.shift` \(=1\) " + WHOLE.format(0, 0)),
    ("layers.1.low", 255, r"`layers\[1\]\.low` \(=255\) " + WHOLE.format(0, 254)),
    ("layers.1.high", 256, r"`layers\[1\]\.high` \(=256\) must be a whole number from \d to 255"),
    ("layers.1.high", 0, r"`layers\[1\]\.high` \(=0\) must be a whole number from [1-9]"),
    ("layers.7.high", 9, r"`layers\[7\]\.high` \(=9\) " + WHOLE.format(255, 255)),
    ("layers.7.kernel", [1, 2], r"`layers\[7\]\.kernel` \(=\[1, 2\]\) must be two"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "expected"), REFUSED_VALUES, ids=lambda part: str(part)[:30])
def test_values_that_can_not_be(path, value, expected):
    assert re.search(expected, message(encode(changed(path, value), ARRAYS)))


def replaced(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """ARRAYS with some replaced, added or, by None, left out; `_` in a name is its dot."""
    arrays = ARRAYS | {name.replace("_", "", 1).replace("_", "."): array for name, array in changes.items()}
    return {name: array for name, array in arrays.items() if array is not None}


REFUSED_ARRAYS = [
    ({"_1_weight": None}, r"the array `1\.weight` is missing; `layers\[1\]` needs it as U8 \[6,3,3,6\]"),
    ({"_1_pad": None}, r"the array `1\.pad` is missing"),
    ({"_1_offset": np.zeros(6, np.int32)}, r"`1\.offset` \(=I32 \[6\]\) must be I64 \[6\]"),
    ({"_1_offset": np.zeros((6, 1), np.int64)}, r"`1\.offset` \(=I64 \[6,1\]\) must be I64 \[6\]"),
    ({"_1_pad": np.zeros(7, np.uint8)}, r"`1\.pad` \(=U8 \[7\]\) must be U8 \[6\]"),
    ({"_1_scale": np.zeros(6, np.int32)}, r"the array `1\.scale` belongs to no layer"),
    ({"_6_multiplier": np.zeros(1, np.int32)}, r"the array `6\.multiplier` belongs to no layer"),
    ({"_7_pad": np.zeros(9, np.uint8)}, r"the array `7\.pad` belongs to no layer"),
    ({"_8_weight": np.zeros(9, np.uint8)}, r"the array `8\.weight` belongs to no layer"),
    ({"_01_pad": np.zeros(9, np.uint8)}, r"the array `01\.pad` belongs to no layer"),
    ({"_3_pad": np.ones(6, np.uint8), "_3_weight": ARRAYS["3.weight"]}, None),  # without padding it counts for nothing
    ({"_4_pad": ARRAYS["4.pad"] ^ np.arange(6, dtype=np.uint8)}, None),
    ({"_1_offset": np.full(6, 2**62)}, r"`layers\[1\]`: multiplier .* and offset \(=4611686018427387904\) of output 0"),
    ({"_1_offset": np.full(6, -(2**63))}, r"of output 0 are too large"),
    ({"_7_multiplier": np.full(5, -(2**31), np.int32)}, None),
    ({"_1_weight": np.full((6, 3, 3, 6), 255, np.uint8)}, None),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), REFUSED_ARRAYS, ids=lambda part: str(list(part or [])[:1]))
def test_arrays_that_do_not_fit(changes, expected):
    data = encode(NETWORK, replaced(**changes))
    if expected is None:
        runtime.parse(data)
    else:
        assert re.search(expected, message(data))


def test_readers_of_one_tensor_agree_on_its_border():
    build = network_file.Builder(0)
    x = build.weighted("convolution", 4, 0)
    y = build.weighted("adder", 4, x)
    z = build.weighted("adder", 4, x, residual=y)
    build.classifier(2, z)
    arrays = build.arrays
    runtime.parse(encode(build.network(), arrays))
    arrays["2.pad"] = arrays["2.pad"] + np.array([0, 0, 1, 0], np.uint8)
    a, b = arrays["2.pad"][2], arrays["1.pad"][2]
    expected = rf"`2\.pad` \(={a} for channel 2\) must be what `1\.pad` is \({b}\): both layers read tensor 1"
    assert re.search(expected, message(encode(build.network(), arrays)))


@pytest.mark.parametrize("bits", [5, 8])
def test_the_bound_of_results_is_exact(bits):
    """With few bits the border's values are the largest of the input, with 8 some filters' are; the residual counts."""
    build = network_file.Builder(0, bits=bits)
    x = build.weighted("convolution", 4, 0)
    y = build.weighted("adder", 4, x, residual=x)
    build.classifier(2, y)
    arrays = build.arrays
    arrays["1.pad"] = np.array([0, 200, 7, 0], np.uint8)
    weight = arrays["1.weight"].astype(np.int64)
    sums = np.maximum(weight, max(200, 2**bits - 1) - weight).sum((1, 2, 3))
    left = 2**62 - np.abs(arrays["1.multiplier"].astype(np.int64)) * sums - 255 * build.layers[1]["residual_multiplier"]
    for sign in (1, -1):
        arrays["1.offset"] = sign * (left - 1)
        runtime.parse(encode(build.network(), arrays))
        arrays["1.offset"][2] += sign
        expected = rf"`layers\[1\]`: .* of output 2 are too large: with a sum of up to {sums[2]} the"
        assert re.search(expected, message(encode(build.network(), arrays)))


def test_multiplier_free_holds_for_every_multiplier():
    arrays = dict(ARRAYS)
    for name in ARRAYS:
        if name.endswith("multiplier"):
            arrays[name] = (np.sign(ARRAYS[name]) * 2 ** np.arange(len(ARRAYS[name]))).astype(np.int32)
    arrays["1.multiplier"][:2] = 0, -(2**31)
    network = changed("multiplier_free", True)
    for layer in network["layers"]:
        layer |= {"residual_multiplier": -64} if layer.get("residual", -1) >= 0 else {}
    runtime.parse(encode(network, arrays))
    network["layers"][2]["residual_multiplier"] = 65
    expected = r"`layers\[2\].residual_multiplier` \(=65\) must be a power of two or its negative: `multiplier_free`"
    assert re.search(expected, message(encode(network, arrays)))


def test_few_bits_hold_for_what_adder_layers_read():
    build = network_file.Builder(0, bits=4)
    build.classifier(2, build.weighted("adder", 3, build.weighted("convolution", 4, 0)))
    runtime.parse(encode(build.network(), build.arrays))
    build.layers[0]["high"] = 16
    expected = r"`layers\[1\].input` \(=1\) has values up to 16; an adder layer's must end at 15 where `bits` is 4"
    assert re.search(expected, message(encode(build.network(), build.arrays)))


def test_a_layer_that_nobody_reads():
    build = network_file.Builder(0)
    x = build.weighted("convolution", 4, 0)
    build.weighted("adder", 4, x)
    build.classifier(2, x)
    assert re.search(
        r"`layers\[1\]` makes tensor 2, which no layer reads", message(encode(build.network(), build.arrays))
    )


def test_an_average_pool_is_read_by_the_classifier_alone():
    build = network_file.Builder(0)
    x = build.average_pool(0)
    y = build.weighted("adder", 4, 0, kernel=(9, 7), padding=(0, 0))
    arrays = build.arrays | {"2.weight": np.zeros((3, 1, 1, 4), np.uint8), "2.pad": np.zeros(4, np.uint8)}
    arrays |= {"2.multiplier": np.zeros(3, np.int32), "2.offset": np.zeros(3, np.int64)}
    third = build.layers[1] | {"input": y, "out_channels": 3, "kernel": [1, 1], "residual": x}
    build._append(third, (1, 1, 3), 255)
    build.classifier(2, 3)
    arrays |= {name: array for name, array in build.arrays.items() if name[0] == "3"}
    assert re.search(
        r"`layers\[2\]\.residual` \(=1\) is what an average_pool makes", message(encode(build.network(), arrays))
    )
    build.layers[2] = third | {"input": x, "residual": -1}
    arrays["2.weight"], arrays["2.pad"] = np.zeros((3, 1, 1, 3), np.uint8), np.zeros(3, np.uint8)
    assert re.search(r"`layers\[2\]\.input` \(=1\) is what an average_pool", message(encode(build.network(), arrays)))


def wide(channels: int, kernel: int, stride: int = 1, **facts: int) -> bytes:
    """One adder layer on an image of many pixels."""
    rng = np.random.default_rng(0)
    arrays = {
        "0.weight": rng.integers(0, 2, (1, kernel, kernel, channels)).astype(np.uint8),
        "0.pad": np.zeros(channels, np.uint8),
        "0.multiplier": np.ones(1, np.int32),
        "0.offset": np.zeros(1, np.int64),
        "1.multiplier": np.ones(1, np.int32),
        "1.offset": np.zeros(1, np.int64),
        "2.weight": np.ones((1, 1, 1, 1), np.int8),
        "2.multiplier": np.ones(1, np.int32),
        "2.offset": np.zeros(1, np.int64),
    }
    layer = {"op": "adder", "name": "a", "input": 0, "residual": -1, "out_channels": 1, "kernel": [kernel, kernel]}
    layer |= {"stride": [stride, stride], "padding": [0, 0], "shift": 0, "low": 0, "high": 255}
    pool = {"op": "average_pool", "name": "b", "input": 1, "shift": 0, "low": 0, "high": 32767}
    last = {"op": "classifier", "name": "c", "input": 2, "out_channels": 1, "shift": 0}
    network = {"name": "", "dataset": "", "classes": ["x"], "channels": channels, "height": 2000, "width": 2000}
    network |= {"bits": 8, "multiplier_free": True, "logit_shift": 0, "layers": [layer, pool, last]}
    return encode(network | facts, arrays)


def test_what_a_small_file_may_ask_for():
    runtime.parse(wide(1, 1))
    assert "its tensors need more than 2^30 bytes for one image" in message(
        wide(1, 1, stride=30000, height=60000, width=60000)
    )
    assert "more than 2^40 operations for one image" in message(wide(1, 1000, width=3000))
    assert re.search(
        r"`layers\[0\]`: the sum of output 0 can reach \d+; it must stay below 2\^31", message(wide(40, 500))
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is no integer network of adderkit: it has 0 bytes"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "its first 8 bytes give a header of 727905341920923785 bytes"),
        (b"\x10\0\0\0\0\0\0\0" + b"[" * 16, "the header is no JSON that is read here: byte 16: it ends too early"),
        (b"\x10\0\0\0\0\0\0\0" + b"[" * 9, "it has 17 bytes, and its first 8 give a header of 16"),
        (b"\x08\0\0\0\0\0\0\0" + b"[]      ", "its header has no object `__metadata__`"),
        (b"\x09\0\0\0\0\0\0\0" + b"{}       ", "must be a multiple of 8"),
        (encode(NETWORK, ARRAYS, format=None), "has no text `format`"),
        (encode(NETWORK, ARRAYS, format="pt"), "`format` (=pt) must be adderkit-integer-network"),
        (encode(NETWORK, ARRAYS, format=3), "`format` of `__metadata__` in the header must be a text, is a number"),
        (encode(NETWORK, ARRAYS, version="2"), "has `version` 2 of the format, and this library reads version 1"),
        (encode(NETWORK, ARRAYS, version="1.0"), "has the `version` 1.0 of the format, which is none"),
        (encode(NETWORK, ARRAYS, version=None), "has no text `version`"),
        (encode(NETWORK, ARRAYS, sha256=None), "has no text `sha256`"),
        (encode(NETWORK, ARRAYS, sha256="0" * 63), "`sha256` (=" + "0" * 63 + ") must be 64 digits"),
        (encode(NETWORK, ARRAYS, network=None), "has no text `network`"),
        (encode(NETWORK, ARRAYS, note=[1]), "`note` of `__metadata__` in the header must be a text, is an array"),
        (encode("{", ARRAYS), "`network` in the header is no JSON"),
        (encode("[]", ARRAYS), "`network` (=[]) must be an object"),
        (encode('{"name":"a","na\\u006de":"b"}', ARRAYS), "the key `name` stands twice"),
        (encode('{"name":"\\ud800"}', ARRAYS), "half a pair of surrogates"),
        (encode('{"name":"\\udc00\\ud800"}', ARRAYS), "half a pair of surrogates"),
        (encode('{"name":"\\ud800\\u0041"}', ARRAYS), "half a pair of surrogates"),
        (encode('{"note":' + "[" * 40 + "]" * 40 + "}", ARRAYS), "more than 32 levels"),
        (encode('{"note":[' + "0," * 1000000 + "0]}", ARRAYS), "more than 1,000,000 values"),
        (encode('{"note":' + "9" * 101 + "}", ARRAYS), "a number of more than 100 characters"),
        (encode('{"note":01}', ARRAYS), "neither a comma nor the end of an object"),
        (encode('{"note":NaN}', ARRAYS), "no value"),
        (encode('{"note":1.}', ARRAYS), "no digit where a number needs one"),
        (encode('{"note":"\\x"}', ARRAYS), "an unknown escape"),
        (encode('{"note":"a\nb"}', ARRAYS), "a control character in a text"),
        (encode('{"note":1} 2', ARRAYS), "something after the end"),
        (encode('{"note" 1}', ARRAYS), "no colon after a key"),
        (encode("{'note':1}", ARRAYS), "no key"),
        (encode(json.dumps(NETWORK)[:-1] + ',"x\x7fy":1,"x\x7fy":1}', ARRAYS), "the key `x\\x7fy` stands twice"),
    ],
    ids=lambda part: str(part)[:40] if isinstance(part, str) else "",
)  # fmt: skip
def test_files_that_hold_something_else(data, expected):
    assert expected in message(data)


def forged(**entries: object) -> bytes:
    """A right checksum over a header whose entries of some arrays are changed."""
    known, data = table(ARRAYS)
    facts = {"format": "adderkit-integer-network", "version": "1", "sha256": "0" * 64, "network": json.dumps(NETWORK)}
    for name, entry in entries.items():
        name = name.replace("_", "", 1).replace("_", ".")
        if isinstance(entry, dict):
            whole = known.get(name, {}) | entry
            entry = {key: value for key, value in whole.items() if value is not ...}
        known[name] = entry
    return sealed(json.dumps({"__metadata__": facts} | known).encode(), data)


FIRST = table(ARRAYS)[0]["0.offset"]["data_offsets"]  # [0, 48]
SIZE = len(table(ARRAYS)[1])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"dtype": "F32"}, "`dtype` (=F32) must be one of U8, I8, I32, I64"),
        ({"dtype": 3}, "`dtype` (=3) must be one of"),
        ({"dtype": "U8"}, "must span the bytes of its shape and dtype"),
        ({"dtype": ...}, "the array `0.offset` lacks `dtype` in the header"),
        ({"shape": ...}, "the array `0.offset` lacks `shape`"),
        ({"data_offsets": ...}, "the array `0.offset` lacks `data_offsets`"),
        ({"shape": []}, "`shape` (=[]) must have 1 to 4 axes"),
        ({"shape": [6, 1, 1, 1, 1]}, "must have 1 to 4 axes"),
        ({"shape": [0]}, "`shape` (=0) must be a whole number from 1 to"),
        ({"shape": [-6]}, "`shape` (=-6) must be"),
        ({"shape": 6}, "`shape` must be an array, is a number"),
        ({"shape": [2**30, 2**30, 2**30, 2**30]}, "must span"),
        ({"shape": [2**61]}, "`shape` (=2305843009213693952) must be"),
        ({"data_offsets": [0]}, "`data_offsets` (=[0]) must be two numbers"),
        ({"data_offsets": [0, 40]}, "must span"),
        ({"data_offsets": [48, 0]}, "`data_offsets` (=0) must be a whole number from 48 to"),
        ({"data_offsets": [0, 2**62]}, "`data_offsets` (=4611686018427387904) must be"),
        ({"data_offsets": [-8, 40]}, "`data_offsets` (=-8) must be"),
        ({"data_offsets": [8, 56]}, "must begin at 0, where the one before ends"),
        ({"data_offsets": [4, 52]}, "must begin at a multiple of 8, the size of I64"),
        ({"scale": 1}, "`scale` is unknown; allowed: dtype, shape, data_offsets"),
        (3, "must be an object in the header, is a number"),
    ],
    ids=str,
)
def test_entries_of_arrays_that_can_not_be(entry, expected):
    text = message(forged(_0_offset=entry))
    assert expected in text and "`0.offset`" in text


def test_the_data_are_covered_once():
    assert FIRST == [0, 48]
    assert "has 8 bytes that belong to no array" in message(repaired(GOOD + bytes(8)))
    over = forged(_1_offset={"data_offsets": FIRST})
    assert "`data_offsets` (=[0,48]) must begin at 48" in message(over)
    assert message(forged(_9_x={"dtype": "U8", "shape": [1], "data_offsets": [SIZE, SIZE + 1]}))


def test_damage_without_a_new_checksum():
    assert "is damaged or was altered: its SHA-256 is" in message(GOOD[:-1] + bytes([GOOD[-1] ^ 1]))
    assert re.search(rf"is damaged: it is cut short, to {SIZE - 5} of {SIZE} bytes of arrays", message(GOOD[:-5]))
    assert "is damaged or was altered" in message(GOOD + b"\0")
    at = GOOD.find(b'"sha256": "') + 11
    upper = GOOD[: at + 64].replace(GOOD[at : at + 64], GOOD[at : at + 64].upper()) + GOOD[at + 64 :]
    assert upper != GOOD and "must be 64 digits 0-9 and a-f" in message(upper)
    escaped = GOOD[:at] + b"\\u00" + GOOD[at + 4 :]
    assert message(escaped)


def test_any_changed_byte_and_any_length_is_refused():
    for at in range(0, len(GOOD), 7):
        message(GOOD[:at] + bytes([GOOD[at] ^ (1 << at % 8)]) + GOOD[at + 1 :])
        message(GOOD[:at])
