"""adder2d as a torch operation: schema, compilation, autocast, memory format, errors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import adderkit.ops  # registers the operations
from adderkit.ops.shared import convolution_weight_grad

OPS = torch.ops.adderkit
GEOMETRIES = [
    ((1, 1), (1, 1), (1, 1), 1),
    ((2, 1), (0, 2), (1, 2), 2),
]


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# torch 2.15 reads .grad of its own copies inside opcheck and hides the warning, too late where warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(geometry, format, dtype):
    x = draw(0, 2, 4, 7, 8, dtype=dtype).to(memory_format=format)
    f = draw(1, 6, 4 // geometry[3], 3, 3, dtype=dtype)
    g = torch.randn_like(OPS.adder2d(x, f, *geometry))
    torch.library.opcheck(OPS.adder2d_input_grad.default, (g, x, f, *geometry))
    torch.library.opcheck(OPS.adder2d_weight_grad.default, (g, x, f, *geometry))
    torch.library.opcheck(OPS.adder2d.default, (x.requires_grad_(), f.requires_grad_(), *geometry))


class Count(TorchDispatchMode):
    """Counts the operations that reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def layer(x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    return adderkit.adder2d(x, f, stride=2, padding=1).relu() * 2 + x.sum()


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_compiled_forward_and_backward_run_compiled(format):
    """The compiler sees one whole graph with our operations in it, and what it made of it gives the same."""
    graphs: list[list[str]] = []

    def compiler(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=aot_autograd(fw_compiler=compiler))
    x = draw(0, 2, 3, 7, 9).to(memory_format=format).requires_grad_()
    f = draw(1, 4, 3, 3, 3).requires_grad_()
    right = layer(x, f)
    right_grads = torch.autograd.grad(right.sum(), (x, f))
    output = compiled(x, f)
    grads = torch.autograd.grad(output.sum(), (x, f))
    assert len(graphs) == 2  # forward, backward
    assert "adderkit.adder2d.default" in graphs[0]
    assert {"adderkit.adder2d_input_grad.default", "adderkit.adder2d_weight_grad.default"} <= set(graphs[1])
    torch.testing.assert_close((output, *grads), (right, *right_grads))
    compiled(x.detach().clone().requires_grad_(), f)
    assert len(graphs) == 2  # no second compilation


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler")
def test_inductor_hands_over_the_strides_that_it_promised():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(layer, fullgraph=True)
    x = draw(0, 2, 3, 7, 9).to(memory_format=torch.channels_last).requires_grad_()
    f = draw(1, 4, 3, 3, 3).requires_grad_()
    right = layer(x, f)
    output = compiled(x, f)
    torch.testing.assert_close(output, right)
    torch.testing.assert_close(torch.autograd.grad(output.sum(), (x, f)), torch.autograd.grad(right.sum(), (x, f)))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def test_dynamic_shapes_compile_once():
    torch._dynamo.reset()
    frames = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=frames)
    f = draw(1, 4, 3, 3, 3)
    for size in (7, 9, 12):
        x = draw(0, 2, 3, size, size + 1)
        torch.testing.assert_close(compiled(x, f), layer(x, f))
    assert frames.frame_count == 1


def test_export():
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
            return adderkit.adder2d(x, f, padding=1)

    x, f = draw(0, 2, 3, 7, 9), draw(1, 4, 3, 3, 3)
    program = torch.export.export(Net(), (x, f))
    assert "adderkit.adder2d.default" in [str(node.target) for node in program.graph.nodes]
    torch.testing.assert_close(program.module()(x, f), Net()(x, f))


def test_only_wanted_gradients_are_computed():
    for wanted, absent in ((0, "adder2d_weight_grad"), (1, "adder2d_input_grad")):
        tensors = [draw(0, 1, 3, 5, 5), draw(1, 2, 3, 3, 3)]
        tensors[wanted].requires_grad_()
        output = adderkit.adder2d(*tensors)
        with Count() as count:
            output.sum().backward()
        assert not any(absent in name for name in count.names)
        assert any("adder2d_" in name for name in count.names)


class OnGpu(torch.Tensor):
    """A tensor of the processor that says it is on a GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    is_cuda = True


@pytest.fixture
def precision(request):
    """Of cuDNN's convolutions; "ieee" for them alone makes it an error to read `cudnn.allow_tf32`."""
    before, torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.conv.fp32_precision, request.param
    yield request.param
    torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.parametrize("precision", ["tf32", "ieee"], indirect=True)
def test_a_gpu_computes_the_filter_gradient_by_cudnn_without_tf32(monkeypatch, precision):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "deterministic", True)
    seen = []

    class Look(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution_backward.default:
                seen.append((cudnn.enabled, cudnn.deterministic, cudnn.conv.fp32_precision))
            return func(*args, **(kwargs or {}))

    x, f, g = draw(0, 2, 3, 6, 6), draw(1, 4, 3, 3, 3), draw(2, 2, 4, 4, 4)
    with Look():
        convolution_weight_grad(g, x.as_subclass(OnGpu), f, (1, 1), (0, 0), (1, 1), 1)
    assert seen == [(True, True, "ieee")]
    assert cudnn.conv.fp32_precision == precision


def test_double_backward_is_refused():
    x, f = draw(0, 1, 3, 5, 5).requires_grad_(), draw(1, 2, 3, 3, 3).requires_grad_()
    for wanted in (x, f):
        (grad,) = torch.autograd.grad(adderkit.adder2d(x, f).sum(), wanted, create_graph=True)
        with pytest.raises(NotImplementedError, match="surrogates"):
            grad.sum().backward()


def test_autocast_computes_in_float32():
    x, f = draw(0, 1, 3, 5, 5), draw(1, 2, 3, 3, 3).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = adderkit.adder2d(x.bfloat16(), f)
    assert output.dtype == torch.float32
    assert torch.equal(output, adderkit.adder2d(x.bfloat16().float(), f))
    output.sum().backward()
    assert f.grad is not None and f.grad.dtype == torch.float32


@pytest.mark.parametrize("x_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("f_format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_is_that_of_conv2d(x_format, f_format):
    x = draw(0, 2, 3, 7, 8).to(memory_format=x_format).requires_grad_()
    f = draw(1, 4, 3, 3, 3).to(memory_format=f_format)
    output = adderkit.adder2d(x, f, padding=1)
    assert output.stride() == torch.nn.functional.conv2d(x, f, padding=1).stride()
    output.sum().backward()
    assert x.grad is not None and x.grad.stride() == x.stride()


def test_bias_padding_names_and_unbatched():
    x, f, bias = draw(0, 2, 3, 7, 8), draw(1, 4, 3, 2, 3), draw(2, 4).requires_grad_()
    plain = adderkit.adder2d(x, f)
    torch.testing.assert_close(adderkit.adder2d(x, f, bias), plain + bias.view(1, -1, 1, 1))
    adderkit.adder2d(x, f, bias).sum().backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad, torch.full((4,), float(plain[:, 0].numel())))
    assert torch.equal(adderkit.adder2d(x, f, padding="valid"), plain)
    same = adderkit.adder2d(x, f, padding="same")
    assert same.shape == (2, 4, 7, 8)
    torch.testing.assert_close(same[:, :, :6, 1:-1], plain)  # as conv2d: the far side gets the odd row
    torch.testing.assert_close(adderkit.adder2d(x[0], f, padding=1), adderkit.adder2d(x, f, padding=1)[0])


def good() -> dict[str, Any]:
    return {"input": torch.zeros(2, 4, 5, 6), "weight": torch.zeros(6, 4, 3, 3)}


INVALID = {
    "`stride` (=0) must be >= 1": {"stride": 0},
    "`stride` (=(1, 2, 3)) must be an integer or a pair of integers": {"stride": (1, 2, 3)},
    "`stride` (=1.5) must be an integer or a pair of integers": {"stride": 1.5},
    "`padding` (=(0, -1)) must be >= 0": {"padding": (0, -1)},
    "`padding` (='full') must be integers, 'valid' or 'same'": {"padding": "full"},
    "`stride` (=(2, 2)) must be 1 where `padding` is 'same'": {"padding": "same", "stride": 2},
    "`dilation` (=0) must be >= 1": {"dilation": 0},
    "`groups` (=0) must be an integer >= 1": {"groups": 0},
    "`groups` (=4) must divide the 6 filters of `weight`": {"groups": 4},
    "`input` (shape (2, 4, 5, 6)) must have 8 channels": {"groups": 2},
    "`input` height (=5, 5 with padding) must be >= 7": {"dilation": 3},
    "`input` width (=2, 2 with padding) must be >= 3": {"input": torch.zeros(2, 4, 5, 2)},
    "`input` height (=0) must be >= 1": {"input": torch.zeros(2, 4, 0, 6), "padding": 2},
    "`input` width (=0) must be >= 1": {
        "input": torch.zeros(2, 4, 5, 0).double(),
        "weight": torch.ones(6, 4, 1, 1).double(),
    },
    "`input` (shape (4, 5)) must have 4 dimensions": {"input": torch.zeros(4, 5)},
    "`input` (shape (2, 4, 5, 6, 7)) must have 4 dimensions": {
        "input": torch.zeros(2, 4, 5, 6, 7),
        "weight": torch.zeros(6, 4, 2, 2),
        "padding": "same",
    },
    "`input` (shape (2, 3, 5, 6)) must have 4 channels": {
        "input": torch.zeros(2, 3, 5, 6),
        "weight": torch.zeros(6, 4, 2, 2),
        "padding": "same",
    },
    "`groups` (=1.5) must be an integer >= 1": {"groups": 1.5},
    "`groups` (=True) must be an integer >= 1": {"groups": True},
    "`stride` (=True) must be an integer or a pair": {"stride": True},
    "`stride` (='12') must be an integer or a pair": {"stride": "12"},
    "`padding` (=()) must be an integer or a pair": {"padding": ()},
    "`weight` (shape (6, 4, 3)) must have 4 dimensions": {"weight": torch.zeros(6, 4, 3)},
    "`weight` (shape (0, 4, 3, 3)) must have no empty dimension": {"weight": torch.zeros(0, 4, 3, 3)},
    "`input` (dtype torch.int64) must be float32": {"input": torch.zeros(2, 4, 5, 6, dtype=torch.int64)},
    "`weight` (dtype torch.float64) must have the dtype of `input`": {"weight": torch.zeros(6, 4, 3, 3).double()},
    "`bias` (shape (5,)) must have the shape (6,)": {"bias": torch.zeros(5)},
    "`bias` (dtype torch.float64) must have the dtype of `input`": {"bias": torch.zeros(6).double()},
}


@pytest.mark.parametrize("message", INVALID)
def test_invalid_arguments_are_named_alike_eagerly_and_in_fakes(message):
    arguments = good() | INVALID[message]
    with pytest.raises(ValueError) as eager:
        adderkit.adder2d(**arguments)
    assert str(eager.value).startswith(message)
    with FakeTensorMode() as mode, pytest.raises(ValueError) as fake:
        adderkit.adder2d(**{k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()})
    assert str(fake.value) == str(eager.value)


def test_no_row_is_made_of_an_empty_input():
    """An even filter pads "same" on one side: that must not turn a height of 0 into one of 1."""
    with pytest.raises(ValueError, match=r"`input` height \(=0\) must be >= 1"):
        adderkit.adder2d(torch.zeros(2, 4, 0, 6), torch.zeros(6, 4, 2, 2), padding="same")


@pytest.mark.parametrize("number", [np.int64, np.int32, np.uint8])
def test_integers_of_numpy_are_integers(number):
    x, f = draw(0, 2, 4, 7, 8), draw(1, 6, 2, 3, 3)
    output = adderkit.adder2d(x, f, None, number(2), (number(1), number(0)), [number(2)], number(2))
    assert torch.equal(output, adderkit.adder2d(x, f, None, 2, (1, 0), 2, 2))
    with pytest.raises(ValueError, match=r"`stride`.* must be >= 1"):
        adderkit.adder2d(x, f, stride=number(0))
    with pytest.raises(ValueError, match=r"`stride`.* must be an integer or a pair"):
        adderkit.adder2d(x, f, stride=np.bool_(True))


def test_gradients_of_the_wrong_shape_are_refused():
    x, f = good()["input"], good()["weight"]
    for op in (OPS.adder2d_input_grad, OPS.adder2d_weight_grad):
        with pytest.raises(ValueError, match=r"`grad_output` \(shape \(2, 6, 9, 9\)\) must have the shape"):
            op(torch.zeros(2, 6, 9, 9), x, f, (1, 1), (0, 0), (1, 1), 1)
        with pytest.raises(ValueError, match=r"`grad_output` .* must be like `input`"):
            op(torch.zeros(2, 6, 3, 4).double(), x, f, (1, 1), (0, 0), (1, 1), 1)
