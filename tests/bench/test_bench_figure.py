"""The roofline: that what it shows can be seen."""

from __future__ import annotations

from itertools import pairwise

import pytest

from adderkit.bench import figure, shapes

pytest.importorskip("matplotlib")

LIMITS = {"multiply_add": 220e9, "adder": 110e9, "adder_input_gradient": 80e9, "bytes_per_s": 40e9}
PASSES = {"forward": "adder", "input_gradient": "adder_input_gradient"}


def report(layers, passes, batch, fraction):
    """Each layer at a fraction of its limit, of which the first entry is the first layer's, and so on in turn."""
    rows = [
        {
            "network": layer.network,
            "layer": layer.name,
            "pass_name": name,
            "contestant": contestant,
            "operations_per_byte": (across := layer.operations_per_byte(batch, name == "input_gradient")),
            "operations_per_s": min(LIMITS[kind], across * LIMITS["bytes_per_s"]) * fraction[place % len(fraction)],
        }
        for place, layer in enumerate(layers)
        for name in passes
        for contestant, kind in (("adder2d", PASSES[name]), ("conv2d", "multiply_add"))
    ]
    machine = {
        "processor": "AMD EPYC 9B45 128-Core Processor",
        "threads": 2,
        "kernels": "native avx512",
        "torch": "2.13.0+cpu",
    }
    return {"limits": LIMITS, "rows": rows, "machine": machine, "settings": {"batch": batch}}


@pytest.mark.parametrize("passes", [("forward",), tuple(PASSES)], ids="+".join)
@pytest.mark.parametrize("only", ["all", "resnet20", "3x3 8x8", "16>32 1x1/2"])
@pytest.mark.parametrize("fraction", [(0.6, 0.9, 0.75), (0.02,), (1.2, 1.0)], ids=str)
def test_all_can_be_seen(only, passes, fraction):
    layers = shapes.select(only, "") if only in ("all", "resnet20") else shapes.select("all", only)
    drawn = figure.roofline(report(layers, passes, 128, fraction))
    drawn.canvas.draw()
    assert len(drawn.axes) == len(passes)
    legends = [axes.get_legend().get_window_extent() for axes in drawn.axes]
    for axes, name in zip(drawn.axes, passes, strict=True):
        for legend in legends:
            assert not legend.overlaps(axes.bbox)
            assert drawn.bbox.x0 <= legend.x0 < legend.x1 <= drawn.bbox.x1 and legend.y0 >= 0
        layers_drawn = [line for line in axes.lines if line.get_linestyle() == "None"]
        points = [tuple(point) for line in layers_drawn for point in line.get_xydata()]
        assert len(points) == 2 * len(layers)
        for point in points:
            assert axes.bbox.contains(*axes.transData.transform(point))

        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        roofs = [line for line in axes.lines if line.get_linestyle() != "None"]
        for line, kind in zip(roofs, (PASSES[name], "multiply_add"), strict=True):
            knee = LIMITS[kind] / LIMITS["bytes_per_s"]
            assert tuple(line.get_xydata()[1]) == pytest.approx((knee, LIMITS[kind] * 1e-9))
            assert left <= knee / 4 * 1.001 and knee * 1.5 <= right  # the slope and the flat part
            assert bottom < LIMITS[kind] * 1e-9 / 2 and LIMITS[kind] * 1e-9 < top
        assert sum(left <= tick <= right for tick in axes.get_xticks()) >= 3
        assert sum(bottom <= tick <= top for tick in axes.get_yticks()) >= 3
        labels = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(a.x1 < b.x0 for a, b in pairwise(labels))
    title = drawn._suptitle.get_window_extent()
    assert drawn.bbox.x0 <= title.x0 and title.x1 <= drawn.bbox.x1


def test_a_figure_needs_a_pass_with_a_limit():
    with pytest.raises(ValueError, match="needs the machine's limits"):
        figure.roofline({**report(shapes.resnet20(), ("forward",), 8, (1.0,)), "rows": []})
    with pytest.raises(ValueError, match="needs the machine's limits"):
        figure.roofline({**report(shapes.resnet20(), ("forward",), 8, (1.0,)), "limits": None})
