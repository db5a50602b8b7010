"""adder3d and adder_transpose2d as torch operations: schema, fakes, gradients' registration, errors in fakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import adderkit.ops  # registers the operations

OPS = torch.ops.adderkit
CALLS = {
    "adder3d": ((2, 4, 5, 6, 7), (6, 2, 3, 2, 3), ((1, 2, 1), (1, 0, 2), (2, 1, 1), 2)),
    "adder_transpose2d": ((2, 4, 5, 6), (4, 3, 3, 4), ((2, 1), (1, 2), (1, 0), (1, 2), 2)),
}


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# torch 2.15 reads .grad of its own copies inside opcheck and hides the warning, too late where warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(("dtype", "is_channels_last"), [(torch.float32, True), (torch.bfloat16, False)])
@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name, dtype, is_channels_last):
    x_shape, f_shape, geometry = CALLS[name]
    x, f = draw(0, *x_shape, dtype=dtype), draw(1, *f_shape, dtype=dtype)
    if is_channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    forward = getattr(OPS, name)
    g = torch.randn_like(forward(x, f, *geometry))
    torch.library.opcheck(getattr(OPS, f"{name}_input_grad").default, (g, x, f, *geometry))
    torch.library.opcheck(getattr(OPS, f"{name}_weight_grad").default, (g, x, f, *geometry))
    torch.library.opcheck(forward.default, (x.requires_grad_(), f.requires_grad_(), *geometry))


@pytest.mark.parametrize("x_last", [False, True])
@pytest.mark.parametrize("f_last", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_the_memory_format_is_that_of_the_convolution(name, x_last, f_last):
    x_shape, f_shape, (*sizes, groups) = CALLS[name]
    x, f = (
        tensor.movedim(1, -1).contiguous().movedim(-1, 1) if is_last else tensor
        for tensor, is_last in ((draw(0, *x_shape), x_last), (draw(1, *f_shape), f_last))
    )
    output = getattr(OPS, name)(x, f, *sizes, groups)
    if name == "adder3d":
        right = torch.nn.functional.conv3d(x, f, None, *sizes, groups)
    else:
        stride, padding, output_padding, dilation = sizes
        right = torch.nn.functional.conv_transpose2d(x, f, None, stride, padding, output_padding, groups, dilation)
    assert output.stride() == right.stride()


INVALID: dict[str, tuple[str, dict[str, Any]]] = {
    "`groups` (=4) must divide the 6 filters": ("adder3d", {"groups": 4}),
    "`stride` (=(1, 2)) must be an integer or three of them": ("adder3d", {"stride": (1, 2)}),
    "`input` width (=2, 2 with padding) must be >= 3": ("adder3d", {"input": torch.zeros(1, 4, 5, 5, 2)}),
    "`input` depth (=0) must be >= 1": ("adder3d", {"input": torch.zeros(1, 4, 0, 5, 5), "padding": 1}),
    "`input` height (=0) must be >= 1": ("adder_transpose2d", {"input": torch.zeros(1, 4, 0, 5)}),
    "`input` length (=0) must be >= 1": ("adder1d", {"input": torch.zeros(1, 4, 0), "padding": 1}),
    "`input` (shape (1, 4, 5)) must have 5 dimensions": (
        "adder3d",
        {"input": torch.zeros(1, 4, 5), "weight": torch.zeros(6, 4, 2, 2, 2), "padding": "same"},
    ),
    "`groups` (=3) must divide the 4 input channels": ("adder_transpose2d", {"groups": 3}),
    "`output_padding` (=1 for the width) must be <= 0": ("adder_transpose2d", {"output_padding": (0, 1)}),
    "`padding` (=9 for the width) must be < 7/2": ("adder_transpose2d", {"padding": (0, 9)}),
}


@pytest.mark.parametrize("message", INVALID)
def test_invalid_arguments_are_named_alike_eagerly_and_in_fakes(message):
    name, change = INVALID[message]
    good = {"input": torch.zeros(1, 4, 5, 5), "weight": torch.zeros(4, 6, 3, 3)}
    if name == "adder1d":
        good = {"input": torch.zeros(1, 4, 5), "weight": torch.zeros(6, 4, 3)}
    if name == "adder3d":
        good = {"input": torch.zeros(1, 4, 5, 5, 5), "weight": torch.zeros(6, 4, 3, 3, 3)}
    arguments, function = good | change, getattr(adderkit, name)
    with pytest.raises(ValueError) as eager:
        function(**arguments)
    assert str(eager.value).startswith(message)
    with FakeTensorMode() as mode, pytest.raises(ValueError) as fake:
        function(**{k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()})
    assert str(fake.value) == str(eager.value)


SHAPES = {
    "adder1d": ((2, 4, 9), (6, 4, 3)),
    "adder2d": ((2, 4, 5, 6), (6, 4, 3, 2)),
    "adder3d": ((2, 4, 4, 5, 6), (6, 4, 2, 3, 2)),
    "adder_transpose2d": ((2, 4, 5, 6), (4, 6, 3, 2)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_forward_mode_is_refused(name):
    """In whatever nesting: torch would give a derivative of zero."""
    function, func = getattr(adderkit, name), torch.func
    x, f = (draw(seed, *shape) for seed, shape in enumerate(SHAPES[name]))
    bias = torch.zeros(6)

    def nested(a: torch.Tensor) -> torch.Tensor:
        return func.jvp(lambda b: function(a, f) * b.sum(), (x,), (x,))[1]

    def dual() -> torch.Tensor:
        with forward_ad.dual_level():
            return function(forward_ad.make_dual(x, x), f)

    for call in (
        lambda: func.jvp(lambda a: function(a, f), (x,), (x,)),
        lambda: func.jvp(lambda a: function(x, a), (f,), (f,)),
        lambda: func.jvp(lambda a: func.vmap(lambda image: function(image, f))(a), (x,), (x,)),
        lambda: func.jvp(nested, (x,), (x,)),
        lambda: func.jacfwd(lambda a: function(a, f).sum())(x),
        dual,
    ):
        with pytest.raises(NotImplementedError, match=f"{name} are surrogates, which have no forward mode"):
            call()
    # what does not differentiate through the operation goes on
    right = function(x, f)
    assert torch.equal(func.jvp(lambda a: function(x, f, a), (bias,), (bias + 1,))[1], torch.ones_like(right))
    with forward_ad.dual_level():
        weight = f.clone().requires_grad_()
        output = function(x, weight)
        output.sum().backward()
    assert torch.equal(output, right)
    assert weight.grad is not None and weight.grad.any()


def test_forward_mode_is_refused_in_compiled_code():
    x, f = (draw(seed, *shape) for seed, shape in enumerate(SHAPES["adder2d"]))
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda a: torch.func.jvp(lambda b: adderkit.adder2d(b, f), (a,), (a,)), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(torch._dynamo.exc.Unsupported, match="no forward mode"):
        compiled(x)


@pytest.mark.parametrize("name", CALLS)
def test_gradients_of_the_wrong_shape_are_refused(name):
    x_shape, f_shape, geometry = CALLS[name]
    x, f = draw(0, *x_shape), draw(1, *f_shape)
    shape = getattr(OPS, name)(x, f, *geometry).shape
    for suffix in ("input_grad", "weight_grad"):
        op = getattr(OPS, f"{name}_{suffix}")
        with pytest.raises(ValueError, match=r"`grad_output` \(shape .*\) must have the shape"):
            op(torch.zeros(*shape[:-1], shape[-1] + 1), x, f, *geometry)
        with pytest.raises(ValueError, match=r"`grad_output` .* must be like `input`"):
            op(torch.zeros(shape).double(), x, f, *geometry)
