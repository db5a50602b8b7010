"""What only compiled kernels have: arguments of 64 bits, addresses far apart, alignment, what is read and launched."""

from __future__ import annotations

import mmap

import pytest
import torch
from adder_oracle import Geometry
from test_adder2d_values import case
from test_gpu_kernels import PADDED, check, draw, run
from torch import Tensor

from adderkit.ops import gpu, reference


def at_odd_elements(tensor: Tensor) -> Tensor:
    """Contiguous, from the second element of its memory on."""
    memory = torch.full((tensor.numel() + 2,), 7.0, dtype=tensor.dtype)
    return memory[1:-1].view(tensor.shape).copy_(tensor)


def far(tensor: Tensor, axis: int, step: int) -> Tensor:
    """The same values where `axis` takes `step` elements, in memory that is not used between them."""
    strides = list(tensor.contiguous().stride())
    strides[axis] = step
    span = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, strides, strict=True))
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        memory = mmap.mmap(-1, span * tensor.element_size(), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    except OSError as error:
        pytest.skip(f"no address space: {error}")
    return torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, strides).copy_(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_that_start_anywhere(driver, dtype):
    """Nothing is read or written in larger pieces than its alignment allows, which would be a fault."""
    x, f, g = (draw(i, *shape).to(dtype) for i, shape in enumerate([(2, 8, 6, 6), (4, 8, 3, 3), (2, 4, 6, 6)]))
    expected = run(x, f, g, PADDED, torch.device("cpu"))
    output, grad = (at_odd_elements(torch.full_like(t, torch.nan)) for t in (g, x))
    x, f, g = map(at_odd_elements, (x, f, g))
    gpu.forward(x, f, output, *PADDED)
    gpu.input_grad(g, x, f, grad, *PADDED)
    assert torch.equal(output, expected[0])
    assert torch.equal(grad, expected[1])
    assert driver.launches == ["pack_kernel", "forward_kernel", "pack_kernel", "input_grad_kernel"] * 2


@pytest.mark.parametrize(
    ("axis", "step", "groups"),
    [
        (0, 2**30, 1),
        (0, 2**31 + 64, 1),
        (1, 2**27, 1),
        (1, 2**29, 2),
        (1, gpu._LARGEST_CONSTANT, 1),
        (2, 2**30 + 8, 1),
        (3, 2**30 + 8, 1),
    ],
)
def test_addresses_beyond_32_bits(driver, monkeypatch, axis, step, groups):
    """Also of the lanes: their step, where it is compiled in, is multiplied in 32 bits."""
    geometry = Geometry((1, 1), (2, 2), (2, 2), groups)
    x, g = draw(0, 3, 24, 5, 6).half(), draw(1, 3, 24, 5, 6).half()
    f = draw(2, 24, 24 // groups, 3, 3).half()
    expected = run(x, f, g, geometry, torch.device("cpu"))
    monkeypatch.setattr(gpu, "_LARGE", 0)
    monkeypatch.setattr(gpu, "_constants", set())
    output, grad = (far(torch.full_like(t, torch.nan), axis, step) for t in (g, x))
    x, g = far(x, axis, step), far(g, axis, step)
    gpu.forward(x, f, output, *geometry)
    gpu.input_grad(g, x, f, grad, *geometry)
    assert torch.equal(output, expected[0])
    assert torch.equal(grad, expected[1])


def test_filters_far_apart(driver):
    x, f, g = draw(0, 1, 4, 5, 6).half(), draw(1, 6, 4, 3, 3).half(), draw(2, 1, 6, 5, 6).half()
    expected = run(x, f, g, PADDED, torch.device("cpu"))
    for axis, step in ((0, 2**29), (1, 2**30), (2, 2**31)):
        f = far(f, axis, step)
        output, grad = torch.full_like(g, torch.nan), torch.full_like(x, torch.nan)
        gpu.forward(x, f, output, *PADDED)
        gpu.input_grad(g, x, f, grad, *PADDED)
        assert torch.equal(output, expected[0])
        assert torch.equal(grad, expected[1])


@pytest.mark.parametrize(("groups", "channels", "filters"), [(2, 20, 6), (1, 2, 920)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_one_filter_that_is_not_finite_is_found_wherever_it_is(driver, groups, channels, filters, value):
    """In the last block of lanes of the last group, and beyond the flags that are read at once."""
    x, g, f = draw(0, 1, channels, 4, 4), draw(1, 1, filters, 4, 4), draw(2, filters, channels // groups, 3, 3)
    f[-1, -1, 2, 2] = value
    geometry = Geometry(padding=(1, 1), groups=groups)
    expected = torch.empty_like(x, dtype=torch.float64)
    reference.input_grad(g.double(), x.double(), f.double(), expected, *geometry)
    _, grad = run(x, f, g, geometry, torch.device("cpu"))
    torch.testing.assert_close(grad.double(), expected, equal_nan=True, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["forward", "input_grad"])
def test_an_output_that_is_too_large_is_seen(driver, name):
    """The checks themselves: rows that the inputs don't have are read beyond their end."""
    from ptx_driver import Fault

    x, f, g = draw(0, 1, 4, 6, 6), draw(1, 4, 4, 1, 1), draw(2, 1, 4, 6, 6)
    with pytest.raises(Fault, match=rf"{name}_kernel, program .* loads 4 bytes.*{name}.py:\d+"):
        if name == "forward":
            gpu.forward(x, f, torch.empty(1, 4, 7, 6), *Geometry())
        else:
            gpu.input_grad(g[:, :, :-1], torch.empty(1, 4, 7, 6), f, torch.empty(1, 4, 7, 6), *Geometry())


def test_every_program_of_a_large_layer(driver):
    """More than a program of each kind in each direction, with the tiles that are chosen for it."""
    geometry = Geometry((2, 1), (1, 1), groups=2)
    x, f, g, expected = case(9, 2, 20, (25, 22), 24, (3, 3), geometry)
    check(x, f, g, geometry, expected, torch.device("cpu"))


def test_strides_larger_than_the_image(driver):
    """Programs without a row or column divide by nothing."""
    geometry = Geometry((4, 5), (1, 1))
    x, f, g, expected = case(10, 2, 4, (3, 2), 4, (3, 3), geometry)
    check(x, f, g, geometry, expected, torch.device("cpu"))
