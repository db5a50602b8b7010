"""What only a GPU can show: the operators find the kernels, and stay within torch's streams, graphs and devices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import adderkit
from adderkit import ops
from adderkit.ops import gpu, reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).cuda()


@pytest.fixture
def no_reference(monkeypatch):
    """On the GPU; on the processor it still says what is expected."""
    for name in ("forward", "input_grad"):
        original = getattr(reference, name)

        def refuse(*arguments, original=original):
            assert not arguments[0].is_cuda, "the reference was called"
            original(*arguments)

        monkeypatch.setattr(reference, name, refuse)


def test_the_kernels_run_here():
    assert gpu.problem() == ""
    row = next(row for row in ops.backends() if row.isa == "cuda")
    assert row.active


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_last", [False, True])
def test_adder2d_and_its_gradients(no_reference, dtype, is_last):
    format = torch.channels_last if is_last else torch.contiguous_format
    x, f = draw(0, 2, 8, 9, 9).to(dtype, memory_format=format).requires_grad_(), draw(1, 6, 8, 3, 3).to(dtype)
    f.requires_grad_()
    output = adderkit.adder2d(x, f, padding=1, stride=2)
    assert output.is_contiguous(memory_format=format)
    output.float().square().sum().backward()
    wide_x, wide_f = (tensor.detach().double().cpu().requires_grad_() for tensor in (x, f))
    expected = adderkit.adder2d(wide_x, wide_f, padding=1, stride=2)
    expected.square().sum().backward()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 3e-3}[dtype]
    for actual, wanted in ((output, expected), (x.grad, wide_x.grad), (f.grad, wide_f.grad)):
        assert actual is not None and wanted is not None
        assert ((actual.double().cpu() - wanted).abs().max() / wanted.abs().max()) < tolerance


def test_float64_goes_to_the_reference():
    x, f = draw(0, 1, 3, 5, 5).double(), draw(1, 2, 3, 3, 3).double()
    torch.testing.assert_close(adderkit.adder2d(x, f).cpu(), adderkit.adder2d(x.cpu(), f.cpu()))


@pytest.mark.parametrize("name", ["adder2d", "adder2d_input_grad"])
def test_operators_pass_opcheck(name):
    x, f, g = draw(0, 2, 4, 6, 7), draw(1, 5, 4, 3, 3), draw(2, 2, 5, 6, 7)
    tensors = (x, f) if name == "adder2d" else (g, x, f)
    torch.library.opcheck(getattr(torch.ops.adderkit, name).default, (*tensors, (1, 1), (1, 1), (1, 1), 1))


def test_a_captured_graph_computes_anew():
    """No synchronisation, and memory of torch's allocator alone."""
    layer = adderkit.nn.Adder2d(4, 6, 3, padding=1).cuda()
    x = draw(0, 2, 4, 8, 8).requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        output = layer(x)
        return output, torch.autograd.grad(output.sum(), x)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(draw(1, 2, 4, 8, 8))
    graph.replay()
    for actual, expected in zip(captured, step(), strict=True):
        assert torch.equal(actual, expected)


def test_compiled_without_a_break():
    x, f = draw(0, 2, 4, 6, 6), draw(1, 5, 4, 3, 3)
    compiled = torch.compile(lambda x, f: adderkit.adder2d(x, f, padding=1) + 1, fullgraph=True)
    torch.testing.assert_close(compiled(x, f), adderkit.adder2d(x, f, padding=1) + 1)


def test_autocast_computes_in_float32(no_reference):
    x, f = draw(0, 2, 4, 6, 6), draw(1, 5, 4, 3, 3)
    with torch.autocast("cuda", torch.bfloat16):
        assert adderkit.adder2d(x.bfloat16(), f).dtype == torch.float32


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_the_device_of_the_tensors():
    x, f = draw(0, 2, 4, 6, 6), draw(1, 5, 4, 3, 3)
    assert torch.equal(adderkit.adder2d(x.to("cuda:1"), f.to("cuda:1")).cpu(), adderkit.adder2d(x, f).cpu())


@pytest.mark.skipif(torch.cuda.mem_get_info()[1] < 40e9 if torch.cuda.is_available() else True, reason="needs 40 GB")
def test_more_than_two_billion_elements(no_reference):
    """Offsets of 64 bits: the last image must come out as it does alone."""
    x, f = torch.zeros(2**11 + 1, 4, 512, 512, device="cuda"), draw(1, 2, 4, 3, 3)
    x[-1] = draw(0, 4, 512, 512)
    assert torch.equal(adderkit.adder2d(x, f, padding=1)[-1:], adderkit.adder2d(x[-1:], f, padding=1))
    g = torch.zeros(2**11 + 1, 2, 512, 512, device="cuda")
    g[-1] = draw(2, 2, 512, 512)
    grad = torch.ops.adderkit.adder2d_input_grad(g, x, f, (1, 1), (1, 1), (1, 1), 1)
    alone = torch.ops.adderkit.adder2d_input_grad(g[-1:], x[-1:], f, (1, 1), (1, 1), (1, 1), 1)
    assert torch.equal(grad[-1:], alone)
