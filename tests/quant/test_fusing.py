"""Fused layers compute what the network computes, for every adder model; what can't be fused is named."""

from __future__ import annotations

import nets
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adderkit import models
from adderkit.nn import Adder2d, AdderLinear
from adderkit.quant import fuse
from adderkit.quant.fusing import _ALLOWED

SIZES = {"vgg_small": 32, "resnet18": 32, "resnet50": 32, "resnet152": 32}


def run(fused, x):
    """The fused layers in float64, by torch's own operations and unfolded differences."""
    tensors = [x.double()]
    for layer in fused.layers:
        x = tensors[layer.input]
        if layer.op == "max_pool":
            y = F.max_pool2d(x, layer.kernel, layer.stride, layer.padding)
        elif layer.op == "average_pool":
            y = x.mean((2, 3), keepdim=True)
        else:
            if layer.op == "adder":
                columns = F.unfold(x, layer.kernel, padding=layer.padding, stride=layer.stride)
                flat = -torch.cdist(columns.transpose(1, 2), layer.weight.flatten(1), p=1).transpose(1, 2)
                y = flat.unflatten(2, layer.shape[1:])
            else:
                y = F.conv2d(x, layer.weight, None, layer.stride, layer.padding)
            y = y * layer.scale[:, None, None] + layer.bias[:, None, None]
            if layer.residual >= 0:
                y = y + tensors[layer.residual]
        tensors.append(y.relu() if layer.relu else y)
        assert tensors[-1].shape[1:] == layer.shape
    return tensors[-1].flatten(1)


@pytest.mark.parametrize("name", [name for name in models.names() if name != "resnet152"])
def test_every_adder_model(name):
    size = SIZES.get(name, 8)
    network = nets.settled(name, size)
    fused = fuse(network, size, size)
    x = nets.normalised(nets.images(2, size, 3, seed=1))
    with torch.no_grad():
        expected = network(x)
    found = run(fused, x)
    assert (found - expected).abs().max() < 2e-3 * expected.std()
    assert [layer.op for layer in fused.layers].count("classifier") == 1 and fused.layers[-1].op == "classifier"
    assert {layer.name for layer in fused.layers if layer.weight is not None} == {
        path for path, module in network.named_modules() if isinstance(module, (Adder2d, nn.Conv2d, nn.Linear))
    }
    assert not network.training


def test_resnet20_is_fused_completely():
    fused = fuse(models.create("resnet20").eval(), 32, 32)
    assert len(fused.layers) == 1 + 18 + 2 + 1 + 1
    shortcuts = [layer for layer in fused.layers if layer.op == "adder" and not layer.relu]
    assert [layer.name for layer in shortcuts] == ["layer2.0.downsample.0", "layer3.0.downsample.0"]
    assert sum(layer.residual >= 0 for layer in fused.layers) == 9


@pytest.mark.parametrize("size", [8, 16])
def test_an_average_to_a_larger_map_goes_into_the_classifier(size):
    network = nets.settled("vgg_small", size)  # averages its 1x1 or 2x2 map to 4x4
    x = nets.normalised(nets.images(2, size, 3, seed=1))
    with torch.no_grad():
        expected = network(x)
    fused = fuse(network, size, size)
    assert fused.layers[-1].kernel == (size // 8, size // 8)
    assert (run(fused, x) - expected).abs().max() < 2e-3 * expected.std()


class Made(models.Network):
    """A network of given parts, in which a test replaces one."""

    stem_path, classifier_path, stage_paths = "stem", "fc", ()

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.body = Adder2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.fc = nn.Linear(4, 5)
        for name, part in parts.items():
            setattr(self, name, part)
        self.name, self.layer, self.num_classes, self.in_channels = "made", "adder", 5, 3

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.relu(self.norm(self.body(x)))
        return self.fc(self.flat(self.pool(x)))


class Functional(Made):
    def forward(self, x):
        n, c, h, w = x.shape
        assert c == 3 and h == w
        x = F.relu(self.stem(x))
        y = torch.relu(self.norm(self.body(x)).add(x))
        y = F.dropout(y.mean((2, 3)), training=self.training)
        return self.fc(y.view(n, -1))


class Twice(Made):
    """The same filters twice, an in-place ReLU on a tensor that is used again afterwards."""

    def forward(self, x):
        x = self.stem(x)
        F.relu_(x)
        y = self.norm(self.body(x))
        y += x
        y = y.relu_()
        y = self.relu(self.norm(self.body(y)) + y)
        return self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Renamed(Made):
    """Nothing is read twice: BatchNorm and an in-place ReLU join the layer through other names."""

    def forward(self, x):
        x = F.relu_(self.norm(self.body(self.relu(self.stem(x)))).clone().contiguous())
        y = F.dropout(self.body(x), training=self.training)
        return self.fc(self.flat(self.pool(F.relu_(F.dropout(self.norm(y) + x, training=False)))))


@pytest.mark.parametrize("kind", [Made, Functional, Twice, Renamed])
def test_other_ways_to_write_a_network(kind):
    torch.manual_seed(0)
    network = kind().eval()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        expected = network(x)
    torch.testing.assert_close(run(fuse(network, 6, 6), x).float(), expected, rtol=1e-4, atol=1e-4)


def forward_of(function):
    return type("Other", (Made,), {"forward": function})()


def alias_read_twice(join):
    """`join` changes the body's output under another name, while the body's output is read elsewhere too."""

    def forward(s, x):
        y = s.body(s.relu(s.stem(x)))
        z = join(s, y)
        return s.fc(s.flat(s.pool(s.relu(s.other(y)) + z)))

    return type("Other", (Made,), {"forward": forward})(
        other=Adder2d(4, 4, 1), drop=nn.Dropout(0.1), same=nn.Identity()
    )


def relu_in_place_of_a_copied(s, x):
    y = s.body(s.relu(s.stem(x)))
    z = y.clone()
    y = F.relu_(y)
    return s.fc(s.flat(s.pool(s.body(y) + z)))


TWICE = "follows a tensor that is used elsewhere too"
REFUSED = {
    "a norm of an alias": (lambda: alias_read_twice(lambda s, y: s.relu(s.norm(s.drop(y)))), f"`norm` {TWICE}"),
    "a ReLU of an alias": (lambda: alias_read_twice(lambda s, y: s.relu(s.same(s.drop(y)))), f"`relu` {TWICE}"),
    "a tensor added to its alias": (lambda: alias_read_twice(lambda s, y: s.same(y) + y), TWICE),
    "a ReLU in place of an alias": (lambda: alias_read_twice(lambda s, y: F.relu_(s.same(y))), TWICE),
    "a ReLU in place of what was copied": (lambda: forward_of(relu_in_place_of_a_copied), "has two names"),
    "a module without a counterpart": (lambda: Made(relu=nn.Hardtanh()), "module `relu` is a Hardtanh"),
    "dilation": (lambda: Made(body=Adder2d(4, 4, 3, padding=1, dilation=2)), "`body` has `dilation`"),
    "groups": (lambda: Made(body=Adder2d(4, 4, 3, padding=1, groups=2)), "`body` has `groups`"),
    "padding mode": (lambda: Made(body=Adder2d(4, 4, 3, padding=1, padding_mode="reflect")), "`padding_mode`"),
    "an adder stem": (lambda: Made(stem=Adder2d(3, 4, 3)), "`stem` is an adder layer that reads the images"),
    "an adder classifier": (lambda: Made(fc=AdderLinear(4, 5)), "module `fc` is a AdderLinear"),
    "no statistics": (lambda: Made(norm=nn.BatchNorm2d(4, track_running_stats=False)), "`norm` has no running"),
    "another norm": (lambda: Made(norm=nn.GroupNorm(2, 4)), "module `norm` is a GroupNorm"),
    "a local average": (
        lambda: Made(pool=nn.AvgPool2d(3), fc=nn.Linear(16, 5)),
        "`pool` is an average pool that is not global",
    ),
    "softmax": (lambda: forward_of(lambda s, x: Made.forward(s, x).softmax(1)), "calls `.softmax()`"),
    "a product": (lambda: forward_of(lambda s, x: Made.forward(s, x * 2)), "calls `mul`"),
    "a ReLU on logits": (lambda: forward_of(lambda s, x: s.relu(Made.forward(s, x))), "its output is not that of a"),
    "a wide output": (lambda: forward_of(lambda s, x: s.stem(x)), "does not return logits"),
    "a decision on values": (
        lambda: forward_of(lambda s, x: Made.forward(s, x) if x.sum() > 0 else s.fc(x)),
        "it decides by the values of a tensor",
    ),
    "a pool of the images": (
        lambda: type("Other", (Made,), {"forward": lambda s, x: Made.forward(s, s.first(x))})(first=nn.MaxPool2d(1)),
        "`first` takes the images themselves",
    ),
    "a max pool that is no module": (
        lambda: forward_of(lambda s, x: Made.forward(s, F.max_pool2d(x, 1))),
        "calls `max_pool2d`",
    ),
    "no adder layer": (lambda: models.create("resnet8", "conv", 5), "has no adder layer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, message = REFUSED[case]
    network = make().eval()
    with pytest.raises(ValueError, match="network `") as caught:
        fuse(network, 6, 6)
    assert message in str(caught.value)
    assert "allowed" in str(caught.value) or _ALLOWED not in str(caught.value)
