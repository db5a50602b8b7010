"""The machine that runs PTX, from kernels of a few lines, against NumPy, torch and the instructions' definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ptx_parse import PtxError
from torch import Tensor

NAN, INF = float("nan"), float("inf")
# Thread i of program p has number 128 p + i in %r1. Its value of each input of 32 bits is in %r2 to %r4, what it leaves
# in %r0 (of 64 bits: %rd0) is its output.
HEAD = """
.version 8.8
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry snippet(
    .param .u64 .ptr .global .align 1 p0,
    .param .u64 .ptr .global .align 1 p1,
    .param .u64 .ptr .global .align 1 p2,
    .param .u64 .ptr .global .align 1 p3
)
.reqntid 128
{
    .reg .pred %p<9>;
    .reg .b16 %rs<9>;
    .reg .b32 %r<19>;
    .reg .b64 %rd<19>;
    mov.u32 %r9, %tid.x;
    mov.u32 %r10, %ctaid.x;
    mad.lo.s32 %r1, %r10, 128, %r9;
"""


@pytest.fixture
def run(c_compiler, tmp_path):
    """Runs a snippet for all values of its inputs; the type of the output is the type of `output`'s values."""
    pytest.importorskip("triton")
    from ptx_driver import Program, elements

    def run_snippet(
        body: str, inputs: list[Tensor], output: torch.dtype = torch.int32, is_stored: bool = True
    ) -> Tensor:
        count = len(inputs[0])
        padded = [torch.cat([values, values[:1].expand(-count % 128)]) for values in inputs]
        result = torch.full((len(padded[0]),), 77, dtype=output)
        text = HEAD
        for i in range(len(inputs)):
            text += f"ld.param.b64 %rd{10 + i}, [p{i}];\nmad.wide.s32 %rd{10 + i}, %r1, 4, %rd{10 + i};\n"
            text += f"ld.global.b32 {{ %r{2 + i} }}, [ %rd{10 + i} + 0 ];\n"
        bits = 8 * result.element_size()
        register = {16: "%rs0", 32: "%r0", 64: "%rd0"}[bits]
        text += f"ld.param.b64 %rd13, [p3];\nmad.wide.s32 %rd13, %r1, {bits // 8}, %rd13;\n{body}\n"
        text += f"st.global.b{bits} [ %rd13 + 0 ], {{ {register} }};\nret;\n}}\n" if is_stored else "ret;\n}\n"
        tensors = [*(elements(f"in{i}", t, False) for i, t in enumerate(padded)), elements("out", result, True)]
        addresses = [t.data_ptr() for t in padded] + [0] * (3 - len(padded)) + [result.data_ptr()]
        Program(text, tmp_path, c_compiler).run((len(result) // 128,), addresses, tensors, shared=1024)
        return result[:count]

    return run_snippet


def floats(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def integers(*values: int) -> Tensor:
    return torch.tensor([value - (1 << 32) if value >= 1 << 31 else value for value in values], dtype=torch.int32)


def pairs(values: Tensor) -> list[Tensor]:
    return [part.contiguous() for part in torch.cartesian_prod(values, values).unbind(1)]


def same(actual: Tensor, expected: Tensor) -> None:
    """Bits, but those of a NaN."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    if actual.is_floating_point():
        numbers = ~expected.isnan()
        assert torch.equal(actual.signbit()[numbers], expected.signbit()[numbers])


VALUES = floats(0.0, -0.0, 1.0, -1.0, 0.25, 1.5, 1e-40, 3e38, -3e38, INF, -INF, NAN)


def test_saturation_turns_nan_into_zero(run):
    a, b = pairs(VALUES)
    actual = run("sub.sat.f32 %r0, %r2, %r3;", [a, b], torch.float32)
    same(actual, torch.where((a - b).isnan() | (a - b <= 0), torch.zeros(()), (a - b).clamp(max=1)))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("add", torch.add),
        ("sub", torch.sub),
        ("mul", torch.mul),
        ("max.NaN", torch.maximum),
        ("min.NaN", torch.minimum),
    ],
)
def test_arithmetic_of_floats(run, name, function):
    a, b = pairs(VALUES)
    expected = function(a, b)
    if "NaN" in name:  # 0 is more than -0, on which torch does not insist
        is_zero = (a == 0) & (b == 0)
        sign = (a.signbit() & b.signbit()) if name == "max.NaN" else (a.signbit() | b.signbit())
        expected = torch.where(is_zero, torch.where(sign, floats(-0.0), floats(0.0)), expected)
    same(run(f"{name}.f32 %r0, %r2, %r3;", [a, b], torch.float32), expected)


def test_one_rounding_of_fma_and_two_of_its_parts(run):
    a, c = floats(1 + 2.0**-12), floats(-(1 + 2.0**-11))
    same(run("fma.rn.f32 %r0, %r2, %r2, %r3;", [a, c], torch.float32), floats(2.0**-24))
    same(run("mul.f32 %r0, %r2, %r2; add.f32 %r0, %r0, %r3;", [a, c], torch.float32), floats(0.0))


def test_constants_absolute_values_and_signs(run):
    same(run("abs.f32 %r0, %r2;", [VALUES], torch.float32), VALUES.abs())
    same(run("neg.f32 %r0, %r2;", [VALUES], torch.float32), -VALUES)
    same(run("mov.b32 %r0, 0f3FC00000;", [VALUES], torch.float32), torch.full_like(VALUES, 1.5))


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_halves(run, name, dtype):
    patterns = torch.arange(1 << 16, dtype=torch.int32)
    all_halves = patterns.to(torch.int16).view(dtype)
    wide = run(f"cvt.u16.u32 %rs1, %r2; cvt.f32.{name} %r0, %rs1;", [patterns], torch.float32)
    same(wide, all_halves.float())
    # All halves, what is midway between them, and its neighbours: ties and their like.
    midway = (wide.double() + torch.nextafter(all_halves, torch.tensor(INF, dtype=dtype)).double()) / 2
    midway = midway.float()
    cases = [wide, midway, *(torch.nextafter(midway, torch.tensor(end)) for end in (INF, -INF))]
    cases = torch.cat([*cases, floats(65519.99, 65520.0, 1e-8, 3.4e38, NAN, -INF)])
    same(run(f"cvt.rn.{name}.f32 %rs0, %r2;", [cases], dtype), cases.to(dtype))


def test_the_first_of_a_pair_is_the_higher_half(run):
    a, b = floats(1.0, 2.5), floats(-3.0, 1e9)
    for kind, dtype in (("bf16x2", torch.bfloat16), ("f16x2", torch.float16)):
        both = run(f"cvt.rn.{kind}.f32 %r0, %r2, %r3;", [a, b]).view(dtype).view(-1, 2)
        same(both, torch.stack([b, a], 1).to(dtype))
    assert run("cvt.u16.u32 %rs1, %r2; mov.b32 %r0, {%rs1, 7};", [integers(0x12345)]).tolist() == [0x72345]
    assert run("mov.b32 {_, %rs0}, %r2;", [integers(0x12345)], torch.int16).tolist() == [1]


INTEGERS = integers(0, 1, 2, 7, 31, 32, 40, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF9, 0x12345678)


@pytest.mark.parametrize("order", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons(run, order):
    compare = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater}
    compare["ge"] = np.greater_equal
    a, b = pairs(INTEGERS)
    for kind, dtype in (("s32", np.int32), ("u32", np.uint32)):
        actual = run(f"setp.{order}.{kind} %p1, %r2, %r3; selp.b32 %r0, 5, -6, %p1;", [a, b])
        assert (actual.numpy() == np.where(compare[order](a.numpy().view(dtype), b.numpy().view(dtype)), 5, -6)).all()
    a, b = pairs(VALUES)
    is_nan = (a.isnan() | b.isnan()).numpy()
    for suffix, with_nan in (("", False), ("u", True)):
        actual = run(f"setp.{order}{suffix}.f32 %p1, %r2, %r3; selp.b32 %r0, 1, 0, %p1;", [a, b])
        assert (actual.numpy() == np.where(is_nan, with_nan, compare[order](a.numpy(), b.numpy()))).all()


def test_what_is_nan(run):
    assert run("setp.nan.f32 %p1, %r2, %r2; selp.b32 %r0, 1, 0, %p1;", [floats(NAN, INF)]).tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["s32", "u32"])
def test_arithmetic_of_integers(run, kind):
    a, b = pairs(INTEGERS)
    signed = [[int(value) for value in (part if kind == "s32" else part.numpy().view(np.uint32))] for part in (a, b)]
    by_pair = list(zip(*signed, strict=True))
    wide = run(f"mul.wide.{kind} %rd0, %r2, %r3;", [a, b], torch.int64)
    assert [value % 2**64 for value in wide.tolist()] == [x * y % 2**64 for x, y in by_pair]
    wide = run(f"mul.wide.{kind} %rd1, %r2, 3; mad.wide.{kind} %rd0, %r2, %r3, %rd1;", [a, b], torch.int64)
    assert [value % 2**64 for value in wide.tolist()] == [(x * y + 3 * x) % 2**64 for x, y in by_pair]
    low = run("mul.lo.s32 %r5, %r2, %r3; sub.s32 %r0, %r5, 9;", [a, b])
    assert [value % 2**32 for value in low.tolist()] == [(x * y - 9) % 2**32 for x, y in by_pair]
    shifted = run(f"shr.{kind} %r0, %r2, %r3;", [a, b]).tolist()
    assert [value % 2**32 for value in shifted] == [(x >> min(y % 2**32, 32)) % 2**32 for x, y in by_pair]
    widened = run(f"cvt.{kind[0]}64.{kind} %rd0, %r2;", [a], torch.int64)
    assert widened.tolist() == signed[0]
    for name, choose in (("min", min), ("max", max)):
        chosen = run(f"{name}.{kind} %r0, %r2, %r3;", [a, b]).tolist()
        assert [value % 2**32 for value in chosen] == [choose(pair) % 2**32 for pair in by_pair]

    b = b.where(b != 0, b + 3)
    truncated = [int(abs(x) // abs(y or 3)) * (-1 if (x < 0) != ((y or 3) < 0) else 1) for x, y in by_pair]
    divided = run(f"div.{kind} %r0, %r2, %r3;", [a, b]).tolist()
    assert [value % 2**32 for value in divided] == [value % 2**32 for value in truncated]
    rest = run(f"rem.{kind} %r0, %r2, %r3;", [a, b]).tolist()
    expected = [(x - q * (y or 3)) % 2**32 for (x, y), q in zip(by_pair, truncated, strict=True)]
    assert [value % 2**32 for value in rest] == expected


def test_bits(run):
    value = integers(0x89ABCDEF)
    for body, expected in (
        ("shl.b32 %r0, %r2, 4;", 0x9ABCDEF0),
        ("shl.b32 %r0, %r2, 32;", 0),
        ("bfe.u32 %r0, %r2, 4, 8;", 0xDE),
        ("bfe.s32 %r0, %r2, 4, 8;", 0xFFFFFFDE),
        ("bfe.u32 %r0, %r2, 28, 8;", 0x8),
        ("and.b32 %r5, %r2, 255; xor.b32 %r5, %r5, -1; or.b32 %r0, %r5, 3;", 0xFFFFFF13),
        ("cvt.u64.u32 %rd1, %r2; shl.b64 %rd1, %rd1, 8; shr.u64 %rd1, %rd1, 32; cvt.u32.u64 %r0, %rd1;", 0x89),
        ("setp.eq.b32 %p1, %r2, 0; not.pred %p2, %p1; selp.b32 %r0, 1, 0, %p2;", 1),
        ("mov.pred %p1, 0; mov.pred %p2, -1; or.pred %p3, %p1, %p2; selp.b32 %r0, 1, 0, %p3;", 1),
    ):
        assert run(body, [value]).item() % 2**32 == expected, body


def test_what_is_masked_is_not_read(run):
    """At addresses of no tensor: the value from before stays."""
    body = "setp.lt.s32 %p1, %r2, 0; mov.u32 %r0, 0x9; mov.b64 %rd1, 64; selp.b64 %rd1, %rd1, %rd10, %p1;"
    assert run(body + "@!%p1 ld.global.b32 { %r0 }, [ %rd1 + 0 ];", [integers(4, 0xFFFFFFFF)]).tolist() == [4, 9]


def test_loops(run):
    body = "mov.b32 %r0, 0; mov.b32 %r5, 0;\n$L0:\nadd.s32 %r0, %r0, %r5; add.s32 %r5, %r5, 1;"
    assert run(f"{body} setp.le.s32 %p1, %r5, %r2; @%p1 bra $L0;", [integers(0, 4, 100)]).tolist() == [0, 10, 5050]


def test_warps_together(run):
    values = torch.randint(-(2**31), 2**31 - 1, (256,), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    warps = values.view(-1, 32)
    assert torch.equal(
        run("shfl.sync.bfly.b32 %r0, %r2, 5, 31, -1;", [values]).view(-1, 32), warps[:, np.arange(32) ^ 5]
    )
    assert torch.equal(run("shfl.sync.idx.b32 %r0, %r2, 3, 31, -1;", [values]).view(-1, 32), warps[:, [3] * 32])
    actual = run("mov.b32 %r5, -1; redux.sync.max.s32 %r0, %r2, %r5;", [values])
    assert torch.equal(actual.view(-1, 32), warps.max(1, keepdim=True).values.expand(-1, 32))


def test_shared_memory(run):
    """Each block turns its values around."""
    values = torch.arange(256, dtype=torch.int32)
    body = "shl.b32 %r5, %r9, 2; mov.b32 %r6, global_smem; add.s32 %r7, %r5, %r6; st.shared.b32 [ %r7 + 0 ], %r2;"
    body += "bar.sync 0; sub.s32 %r8, 508, %r5; ld.shared.b32 %r0, [%r8];"
    assert torch.equal(run(body, [values]).view(2, 128), values.view(2, 128).flip(1))


def test_matrices_in_shared_memory(run):
    """Four matrices of 8 x 8 halves, stored by rows or columns, loaded by rows or columns."""
    values = torch.arange(128, dtype=torch.int32) * 3 + 1
    row = (
        "and.b32 %r5, %r9, 31; shl.b32 %r5, %r5, 4; mov.b32 %r0, 0;"  # all warps use the same memory, the last one last
    )
    parts = "shl.b32 %r6, %r2, 16; mov.b32 %r7, 0; xor.b32 %r8, %r6, %r2;"
    move = "stmatrix.sync.aligned.m8n8.x4{}.shared.b16 [%r5], {{%r2, %r6, %r7, %r8}};"
    move += "ldmatrix.sync.aligned.m8n8.x4{}.shared.b16 {{%r11, %r12, %r13, %r14}}, [%r5]; mov.b32 %r0, %r{};"
    lanes = values.view(4, 8, 4)[-1]  # the halves of lane 4 i + j are in row i, columns 2 j and 2 j + 1
    none = torch.zeros_like(lanes)
    halves = [(lanes, none), (none, lanes), (none, none), (lanes, lanes)]
    for i, matrix in enumerate(torch.stack(pair, -1).view(8, 8) for pair in halves):
        for kinds, expected in ((("", ""), matrix), (("", ".trans"), matrix.mT), ((".trans", ""), matrix.mT)):
            actual = run(row + parts + move.format(*kinds, 11 + i), [values])[-32:]
            assert torch.equal(actual.view(torch.int16).view(8, 8).int(), expected)


def test_a_register_that_was_never_written_shows(run):
    assert run("add.f32 %r0, %r15, 0f3F800000;", [floats(1.0)], torch.float32).isnan().all()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "ld.global.b32 { %r0 }, [ %rd10 + 4 ];",
            r"program \(1, 0, 0\), thread 127: loads 4 bytes.* at in0 \+1024 bytes",
        ),
        ("ld.global.b32 { %r0 }, [ %rd10 + -4 ];", r"thread 0: loads 4 bytes.* at in0 -4 bytes of 1024"),
        ("ld.global.v2.b32 { %r0, %r5 }, [ %rd10 + 0 ];", r"thread 1: uses an address that is no multiple of 8"),
        ("ld.global.b16 { %rs1 }, [ %rd10 + 1 ];", "no multiple of 2"),
        ("mov.b32 %r0, 0; st.global.b32 [ %rd10 + 0 ], { %r0 };", "stores 4 bytes, which are not all of an output"),
        ("ld.param.b64 %rd1, [p3]; st.global.b32 [ %rd1 + 0 ], { %r2 };", r"stores out\[0\] 255 times"),
        ("st.global.b32 [ %rd13 + 0 ], { %r2 };", r"stores out\[0\] 2 times"),
        ("mov.b32 %r5, 1024; ld.shared.b32 %r0, [%r5];", "uses shared memory beyond its end"),
        ("mov.b32 %r5, 0; div.s32 %r0, %r2, %r5;", "divides by zero"),
        ("setp.lt.s32 %p1, %r9, 64; @%p1 bra $L0; bar.sync 0;\n$L0:\nmov.b32 %r0, 1;", "waits for threads"),
        ("shfl.sync.bfly.b32 %r0, %r2, 1, 31, 255;", "does not name all threads"),
        ("\n$L0:\nbra.uni $L0;", "does not end"),
    ],
)
def test_faults(run, body, message):
    from ptx_driver import Fault

    with pytest.raises(Fault, match=message):
        run(body, [torch.arange(256, dtype=torch.int32)])


def test_an_element_that_is_not_stored_is_a_fault(run):
    from ptx_driver import Fault

    with pytest.raises(Fault, match=r"snippet stores out\[0\] 0 times"):
        run("", [integers(1)], is_stored=False)


def test_gaps_in_a_view_belong_to_others():
    pytest.importorskip("triton")
    from ptx_driver import elements

    view = torch.zeros(4, 6)[1:3, 1:4]
    assert elements("view", view, False).inside.tolist() == [1, 1, 1, 0, 0, 0, 1, 1, 1]
    assert elements("view", view[:, :1].expand(-1, 5), False).inside.tolist() == [1, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    "body",
    [
        "ex2.approx.f32 %r0, %r2;",
        "add.ftz.f32 %r0, %r2, %r2;",
        "add.f32 %r0, %r2;",
        "add.f32 %rd0, %rd1, %rd2;",
        "setp.lt.and.s32 %p1, %r2, %r2, %p2;",
        "ld.local.b32 %r0, [%rd1];",
        "atom.global.add.u32 %r0, [%rd10], %r2;",
        "mov.u32 %r0, %laneid;",
        "cvt.rz.f16.f32 %rs1, %r2;",
        "{ .reg .b32 %t; }",
    ],
)
def test_what_is_unknown_is_refused(run, body):
    with pytest.raises(PtxError) as refusal:
        run(body, [integers(1)])
    assert body.split()[0] in str(refusal.value)
