"""All adder layers beside their counterparts in torch: geometry, copies, export, compilation, autocast, repeats."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.nn.functional import pad

import adderkit
from adderkit.nn import (
    Adder1d,
    Adder2d,
    Adder3d,
    AdderLayer,
    AdderLinear,
    AdderTranspose2d,
    adder_parameters,
    unnormalised,
)
from adderkit.train import AdaptiveLocalRate


class Kind(NamedTuple):
    build: Callable[..., AdderLayer]
    theirs: Callable[..., nn.Module]
    norm: Callable[[], nn.Module]
    shape: tuple[int, ...]


# Strides that leave a remainder, groups, dilation: each layer in a form that uses what it has.
KINDS = {
    "linear": Kind(lambda **o: AdderLinear(4, 6, **o), lambda **o: nn.Linear(4, 6, **o), lambda: nn.LayerNorm(6), (4,)),
    "1d": Kind(
        lambda **o: Adder1d(4, 6, 3, 2, 1, 2, 2, **o),
        lambda **o: nn.Conv1d(4, 6, 3, 2, 1, 2, 2, **o),
        lambda: nn.BatchNorm1d(6),
        (4, 12),
    ),
    "2d": Kind(
        lambda **o: Adder2d(4, 6, (3, 2), 2, 1, 1, 2, **o),
        lambda **o: nn.Conv2d(4, 6, (3, 2), 2, 1, 1, 2, **o),
        lambda: nn.BatchNorm2d(6),
        (4, 6, 7),
    ),
    "3d": Kind(
        lambda **o: Adder3d(4, 6, (2, 3, 1), (1, 2, 1), (1, 1, 0), 1, 2, **o),
        lambda **o: nn.Conv3d(4, 6, (2, 3, 1), (1, 2, 1), (1, 1, 0), 1, 2, **o),
        lambda: nn.BatchNorm3d(6),
        (4, 3, 5, 6),
    ),
    "transpose": Kind(
        lambda **o: AdderTranspose2d(4, 6, (3, 4), 2, 1, 1, 2, dilation=(1, 2), **o),
        lambda **o: nn.ConvTranspose2d(4, 6, (3, 4), 2, 1, 1, 2, dilation=(1, 2), **o),
        lambda: nn.BatchNorm2d(6),
        (4, 4, 5),
    ),
}
CONVOLUTIONS = [kind for kind in KINDS if kind != "linear"]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def net(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(KINDS[kind].build(bias=True), KINDS[kind].norm(), nn.ReLU())


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_attributes_and_state_are_those_of_torch(kind):
    _, _, _, shape = KINDS[kind]
    ours, theirs = KINDS[kind].build(bias=True), KINDS[kind].theirs(bias=True)
    x = draw(0, 2, *shape)
    assert ours(x).shape == theirs(x).shape
    assert ours(x[0]).shape == theirs(x[0]).shape
    torch.testing.assert_close(ours(x[0]), ours(x)[0])
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    if kind == "transpose":
        names.append("output_padding")
    if kind != "linear":
        assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.weight, theirs.weight)
    assert KINDS[kind].build().bias is None


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same", "valid"])
@pytest.mark.parametrize("kind", ["1d", "2d", "3d"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own
def test_padding_modes_and_names(kind, padding, mode):
    """Padding first, by torch, and no padding in the layer gives the same; shapes are those of torch."""
    ours, theirs = {"1d": (Adder1d, nn.Conv1d), "2d": (Adder2d, nn.Conv2d), "3d": (Adder3d, nn.Conv3d)}[kind]
    dims = int(kind[0])
    x = draw(0, 2, 3, *(5, 4, 6)[:dims])
    for kernel in (3, 4):
        layer = ours(3, 5, kernel, padding=padding, padding_mode=mode)
        sides = {"same": ((kernel - 1) // 2, kernel // 2), "valid": (0, 0), 2: (2, 2)}[padding]
        padded = pad(x, sides * dims, mode="constant" if mode == "zeros" else mode)
        bare = ours(3, 5, kernel)
        bare.load_state_dict(layer.state_dict())
        torch.testing.assert_close(layer(x), bare(padded))
        assert layer(x).shape == theirs(3, 5, kernel, padding=padding, padding_mode=mode)(x).shape
        assert torch.equal(layer(x[0]), layer(x)[0])


def test_output_size_chooses_the_output_padding():
    layer, theirs = AdderTranspose2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(3, 4, 3, 2, 1)
    x = draw(0, 2, 3, 5, 6)
    for size in ([9, 11], [10, 11], [9, 12], [10, 12], [2, 4, 10, 12]):
        assert layer(x, size).shape == theirs(x, size).shape
    bigger = AdderTranspose2d(3, 4, 3, 2, 1, (1, 0))
    bigger.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x, (10, 11)), bigger(x))
    assert torch.equal(layer(x[0], output_size=(10, 11)), bigger(x)[0])


def test_functional_forms_are_exported():
    x, f = draw(0, 2, 3, 9), draw(1, 4, 3, 3)
    assert torch.equal(adderkit.adder1d(x, f), adderkit.adder2d(x[:, :, None], f[:, :, None])[:, :, 0])
    f3 = draw(2, 4, 3, 1, 3, 3)
    x3 = draw(3, 2, 3, 2, 5, 5)
    frames = torch.stack([adderkit.adder2d(x3[:, :, frame], f3[:, :, 0]) for frame in range(2)], 2)
    torch.testing.assert_close(adderkit.adder3d(x3, f3), frames)
    up = adderkit.adder_transpose2d(x3[:, :, 0], draw(4, 3, 4, 2, 2), stride=2)
    assert up.shape == (2, 4, 10, 10)


@pytest.mark.parametrize("kind", ["1d", "2d", "3d", "transpose"])
def test_channels_last_stays(kind):
    """Also where torch has no name for it: sequences."""
    layer, shape = KINDS[kind].build(), KINDS[kind].shape
    x = draw(0, 2, *shape).movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
    output = layer(x)
    assert output.movedim(1, -1).is_contiguous()
    output.sum().backward()
    assert x.grad is not None and x.grad.stride() == x.stride()
    torch.testing.assert_close(output, layer(x.detach().contiguous()))


@pytest.mark.parametrize("kind", KINDS)
def test_copies_survive_the_first_training_step(kind):
    """Nothing that watches the first step hangs on to the layer."""
    model, x = net(kind), draw(0, 4, *KINDS[kind].shape)
    for _ in range(2):
        model.eval()
        expected = model(x)
        saved = io.BytesIO()
        torch.save(model, saved)
        saved.seek(0)
        fresh = net(kind)
        nn.init.normal_(fresh[0].weight)
        fresh.load_state_dict(model.state_dict())
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False)]
        for other in (*copies, fresh.eval()):
            assert torch.equal(other(x), expected)
            assert repr(other) == repr(model)
            with torch.no_grad():
                other[0].weight.zero_()
        assert torch.equal(model(x), expected)
        model.train()
        output = model(x)
        copy.deepcopy(model), pickle.dumps(model)  # between forward and backward, while the hooks are there
        output.square().sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_is_known_as_an_adder_layer(kind):
    model, x = net(kind), draw(0, 4, *KINDS[kind].shape)
    assert [id(weight) for weight in adder_parameters(model)] == [id(model[0].weight)]
    assert unnormalised(model, x) == []
    assert unnormalised(nn.Sequential(model[0], nn.ReLU()), x) == ["0"]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    AdaptiveLocalRate(model, eta=0.25).attach(optimizer)
    before = model[0].weight.detach().clone()
    model(x).square().sum().backward()
    optimizer.step()
    step = (model[0].weight.detach() - before).square().mean().sqrt()
    assert abs(step.item() - 0.25) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("consumer", ["activation", "adder"])
def test_the_first_step_warns_where_no_normalisation_follows(kind, consumer):
    layer = KINDS[kind].build()
    x = draw(0, 2, *KINDS[kind].shape)
    follower: nn.Module = nn.ReLU()
    if consumer == "adder":  # of another class than the layer
        with torch.no_grad():
            size = layer(x).shape
        follower = AdderLinear(size[-1], 2) if kind != "linear" else Adder1d(1, 2, 1)
        x = x if kind != "linear" else x[:, None]
    with pytest.warns(UserWarning, match="directly; outputs of adder layers"):
        nn.Sequential(layer, follower)(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_layers_train(kind, dtype):
    layer = KINDS[kind].build(bias=True, dtype=dtype)
    x = draw(0, 2, *KINDS[kind].shape).to(dtype).requires_grad_()
    output = layer(x)
    output.sum().backward()
    assert output.dtype == dtype
    assert x.grad is not None and x.grad.dtype == dtype
    assert all(p.grad is not None and p.grad.dtype == dtype for p in layer.parameters())
    wide = copy.deepcopy(layer).float()(x.detach().float())
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(output.float(), wide, rtol=2 * step, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_computes_and_answers_in_float32(kind):
    """Whatever the layer before it answered in; gradients come back in the type of what was given."""
    layer, x = KINDS[kind].build(bias=True), draw(0, 2, *KINDS[kind].shape).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
        output.sum().backward()
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, layer(x.detach().float()), rtol=0, atol=0)
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


class Everything(nn.Module):
    """A net with each layer of the family."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(Adder2d(3, 4, 3, 2, 1, padding_mode="reflect"), nn.BatchNorm2d(4), nn.ReLU())
        self.up = nn.Sequential(AdderTranspose2d(4, 4, 4, 2, 1, bias=True), nn.BatchNorm2d(4), nn.ReLU())
        self.volume = nn.Sequential(Adder3d(2, 4, 3, padding="same"), nn.BatchNorm3d(4), nn.ReLU())
        self.sequence = nn.Sequential(Adder1d(4, 6, 2, padding="same", groups=2), nn.BatchNorm1d(6), nn.ReLU())
        self.vector = nn.Sequential(AdderLinear(6, 5), nn.BatchNorm1d(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.image(x))
        x = self.volume(x.unflatten(1, (2, 2)))
        x = self.sequence(x.mean((2, 3)))
        return self.vector(x.mean(2))


def everything() -> tuple[Everything, Tensor]:
    torch.manual_seed(0)
    return Everything(), draw(1, 4, 3, 8, 8)


NODES = ("adder2d", "adder3d", "adder_transpose2d")


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch 2.11's load
@pytest.mark.parametrize("is_dynamic", [False, True])
@pytest.mark.parametrize("is_strict", [False, True])
def test_export(is_dynamic, is_strict):
    model, x = everything()
    model.eval()
    shapes = {"x": {0: torch.export.Dim("batch", min=2)}} if is_dynamic else None
    program = torch.export.export(model, (x,), dynamic_shapes=shapes, strict=is_strict)
    targets = {str(node.target) for node in program.graph.nodes}
    assert {f"adderkit.{name}.default" for name in NODES} <= targets
    torch.testing.assert_close(program.module()(x), model(x))
    if is_dynamic:
        more = draw(2, 7, 3, 8, 8)
        torch.testing.assert_close(program.module()(more), model(more))
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    torch.testing.assert_close(torch.export.load(saved).module()(x), model(x))


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_size_can_be_dynamic_in_export(kind, is_strict):
    """Batch and all positions; channels are the filters' and fixed. 5 positions leave 2 outputs or more."""
    model, x = net(kind).eval(), draw(0, 3, *([4, 7, 6, 8][: len(KINDS[kind].shape)]))
    if kind == "linear":
        model, x = model[0], draw(0, 3, 6, 4)
    free = [axis for axis in range(x.dim()) if axis != (x.dim() - 1 if kind == "linear" else 1)]
    shapes = {axis: torch.export.Dim(f"size{axis}", min=5 if axis else 2) for axis in free}
    program = torch.export.export(model, (x,), dynamic_shapes={"input": shapes}, strict=is_strict)
    for more in (0, 1, 4):
        other = draw(1, *(size + more * (axis in free) for axis, size in enumerate(x.shape)))
        torch.testing.assert_close(program.module()(other), model(other))


@pytest.mark.parametrize("is_dynamic", [False, True])
def test_one_graph_compiles_and_trains(is_dynamic):
    torch._dynamo.reset()
    model, x = everything()
    twin = copy.deepcopy(model)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=is_dynamic)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = compiled(x), twin(x)
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad)
    if is_dynamic:
        before = counter.frame_count
        compiled(draw(2, 6, 3, 8, 8))
        assert counter.frame_count == before  # no second compilation


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_number_of_threads_gives_the_same_bits(two_threads, kind, is_strict):
    """Forward, every gradient; also where torch refuses what is not deterministic."""
    layer = {
        "linear": lambda: AdderLinear(33, 40, bias=True),
        "1d": lambda: Adder1d(33, 40, 5, bias=True),
        "2d": lambda: Adder2d(33, 40, 3, 2, 1, bias=True),
        "3d": lambda: Adder3d(17, 20, 3, padding=1, bias=True),
        "transpose": lambda: AdderTranspose2d(33, 20, 3, 2, 1, 1, bias=True),
    }[kind]()
    shape = {"linear": (900, 33), "1d": (4, 33, 300), "3d": (2, 17, 6, 9, 10)}.get(kind, (4, 33, 15, 16))
    x, results = draw(0, *shape).requires_grad_(), []
    torch.use_deterministic_algorithms(is_strict)
    try:
        for _ in range(3):
            output = layer(x)
            g = draw(1, *output.shape)
            results.append((output, *torch.autograd.grad(output, (x, *layer.parameters()), g)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_repr_names_what_differs_from_the_defaults():
    assert repr(Adder1d(3, 8, 3, padding="same")) == "Adder1d(3, 8, kernel_size=(3,), stride=(1,), padding='same')"
    assert repr(Adder3d(3, 8, 3)) == "Adder3d(3, 8, kernel_size=(3, 3, 3), stride=(1, 1, 1))"
    text = repr(AdderTranspose2d(4, 8, 4, 2, 1, groups=2, bias=True))
    assert text == ("AdderTranspose2d(4, 8, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1), groups=2, bias=True)")


@pytest.mark.parametrize("kind", KINDS)
def test_integers_of_numpy_are_kept_as_plain_ones(kind):
    layer, shape = KINDS[kind].build(), KINDS[kind].shape
    arguments = inspect.signature(type(layer)).parameters
    options = {name: vars(layer)[name] for name in arguments if isinstance(vars(layer).get(name), (int, tuple))}
    assert len(options) == {"linear": 2, "transpose": 8}.get(kind, 7)
    as_numpy = {
        name: tuple(map(np.int64, value)) if isinstance(value, tuple) else np.int64(value)
        for name, value in options.items()
    }
    other = type(layer)(**as_numpy)
    assert repr(other) == repr(layer)
    for name, value in options.items():
        found = getattr(other, name)
        assert found == value
        assert {type(number) for number in (found if isinstance(found, tuple) else (found,))} == {int}
    assert other(draw(0, 2, *shape)).shape == layer(draw(0, 2, *shape)).shape


INVALID: list[tuple[Callable[[], Any], str]] = [
    (lambda: Adder1d(3, 4, (3, 3)), "`kernel_size` (=(3, 3)) must be an integer or a sequence of one"),
    (lambda: Adder1d(3, 4, 3, stride=2, padding="same"), "`stride` (=2) must be 1 where `padding` is 'same'"),
    (lambda: Adder3d(3, 4, (3, 3)), "`kernel_size` (=(3, 3)) must be an integer or three of them"),
    (lambda: Adder3d(3, 4, 3, padding="full"), "`padding` (='full') must be integers, 'valid' or 'same'"),
    (lambda: AdderTranspose2d(3, 4, 3, padding_mode="reflect"), "`padding_mode` (='reflect') must be zeros"),
    (lambda: AdderTranspose2d(3, 4, 3, groups=3), "`out_channels` (=4) must be divisible by `groups` (=3)"),
    (lambda: AdderTranspose2d(3, 4, 3, padding="same"), "`padding` (='same') must be an integer or a pair"),
    (lambda: Adder1d(3, 4, 3)(torch.zeros(2, 4, 9)), "`input` (shape (2, 4, 9)) must have 3 channels"),
    (lambda: Adder1d(3, 4, 3)(torch.zeros(2, 3, 9, 9)), "`input` (shape (2, 3, 9, 9)) must have 3 dimensions (N, C_in"),
    (lambda: Adder1d(3, 4, 3)(torch.zeros(2, 3, 2)), "`input` length (=2, 2 with padding) must be >= 3"),
    (lambda: Adder1d(3, 4, 3)(torch.zeros(2, 3, 9).int()), "`input` (dtype torch.int32) must be float32"),
    (lambda: Adder1d(3, 4, 3, padding=1, padding_mode="circular")(torch.zeros(9)), "`input` (shape (9,)) must have 3"),
    (lambda: Adder3d(3, 4, 3)(torch.zeros(2, 3, 2, 5, 5)), "`input` depth (=2, 2 with padding) must be >= 3"),
    (lambda: Adder3d(3, 4, 3)(torch.zeros(2, 3)), "`input` (shape (2, 3)) must have 5 dimensions (N, C_in, D, H, W)"),
    (lambda: Adder3d(3, 4, 1)(torch.zeros(2, 3, 2, 2, 2).double()), "`weight` (dtype torch.float32) must have"),
    (lambda: AdderTranspose2d(3, 4, 3)(torch.zeros(2, 4, 5, 5)), "`input` (shape (2, 4, 5, 5)) must have 3 channels"),
    (lambda: AdderTranspose2d(3, 4, 3, 2, 0, 2)(torch.zeros(2, 3, 5, 5)), "`output_padding` (=2 for the height)"),
    (lambda: AdderTranspose2d(3, 4, 3, 1, 3)(torch.zeros(2, 3, 4, 5)), "`padding` (=3 for the height) must be < 6/2"),
    (lambda: Adder1d(3, 4, 3, padding=1)(torch.zeros(2, 3, 0)), "`input` length (=0) must be >= 1"),
    (lambda: Adder3d(3, 4, 3, padding=1)(torch.zeros(2, 3, 0, 5, 5)), "`input` depth (=0) must be >= 1"),
    (lambda: Adder2d(3, True, 3), "`out_channels` (=True) must be an integer >= 1"),
    (lambda: AdderTranspose2d(3, 4, 3)(torch.zeros(2, 3, 0, 5)), "`input` height (=0) must be >= 1"),
    (lambda: AdderTranspose2d(3, 4, 3, 2)(torch.zeros(2, 3, 5, 5), (13, 11)), "`output_size` (=(13, 11)) must end in"),
    (lambda: AdderTranspose2d(3, 4, 3, 2)(torch.zeros(2, 3, 5, 5), (13,)), "`output_size` (=(13,)) must be 2 sizes"),
    (
        lambda: adderkit.adder_transpose2d(torch.zeros(1, 3, 4, 4), torch.zeros(3, 2, 3)),
        "`weight` (shape (3, 2, 3)) must have 4 dimensions (C_in, C_out / groups, K_h, K_w)",
    ),
    (
        lambda: adderkit.adder1d(torch.zeros(1, 3, 4), torch.zeros(2, 3, 3), torch.zeros(3)),
        "`bias` (shape (3,)) must have the shape (2,)",
    ),
]


@pytest.mark.parametrize(("call", "message"), INVALID, ids=[message[:50] for _, message in INVALID])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_double_backward_is_refused(kind):
    layer, x = KINDS[kind].build(), draw(0, 2, *KINDS[kind].shape).requires_grad_()
    for wanted in (x, layer.weight):
        (grad,) = torch.autograd.grad(layer(x).sum(), wanted, create_graph=True)
        with pytest.raises(NotImplementedError, match="surrogates"):
            grad.sum().backward()
