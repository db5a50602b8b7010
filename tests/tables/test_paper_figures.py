"""The shipped tables hold the paper's figures, and each row's recipe states its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adderkit import tables

# Copied from the paper by hand, apart from the recipes: (top-1, top-5) in per cent.
TABLE_1 = {
    "PKKD": 92.96,
    "ANN + dropout": 92.20,
    "Snapshot-KD": 92.33,
    "SP-KD": 92.38,
    "Gift-KD (FSP)": 92.22,
    "AT": 92.27,
}
PLAIN = {"ANN": 92.02, "CNN": 92.93}
TABLE_2 = {"ResNet-18": (69.8, 89.1), "PKKD": (73.1, 91.3), "Vanilla KD": (72.5, 90.9)}
TABLE_3 = {
    "CNN": (76.2, 92.9),
    "ANN": (74.9, 91.7),
    "K + P (PKKD)": (76.8, 93.3),
    "K + P, as in the paper": (76.8, 93.3),
    "NK + P": (75.9, 92.6),
    "K + NP": (75.6, 92.2),
    "NK + NP": (75.2, 92.0),
}
CIFAR = {  # CNN, ANN, PKKD
    "VGG-small, CIFAR-10": (94.25, 93.72, 95.03),
    "ResNet-20, CIFAR-10": (92.93, 92.02, 92.96),
    "ResNet-32, CIFAR-10": (93.59, 93.01, 93.62),
    "VGG-small, CIFAR-100": (75.96, 74.58, 76.94),
    "ResNet-20, CIFAR-100": (68.75, 67.60, 69.93),
    "ResNet-32, CIFAR-100": (70.46, 69.17, 72.41),
}
IMAGENET = {
    "ResNet-18 CNN": (69.8, 89.1),
    "ResNet-18 ANN": (67.0, 87.6),
    "ResNet-18 PKKD": (68.8, 88.6),
    "ResNet-50 CNN": (76.2, 92.9),
    "ResNet-50 ANN": (74.9, 91.7),
    "ResNet-50 PKKD": (76.8, 93.3),
}


def alone(figures):
    return {name: (top1, None) for name, top1 in figures.items()}


def of_cifar():
    return {
        f"{net} {kind}, {data}": (top1, None)
        for key, figures in CIFAR.items()
        for net, data in [key.split(", ")]
        for kind, top1 in zip(("CNN", "ANN", "PKKD"), figures, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("table1", alone(TABLE_1 | PLAIN | {"PKKD, as in the paper": 92.96, "KD, first 0.3": None})),
        ("table2", TABLE_2),
        ("table3", TABLE_3),
        ("cifar", of_cifar()),
        ("imagenet", IMAGENET),
    ],
)
def test_figures_of_the_paper(name, expected):
    assert {row.name: (row.top1, row.top5) for row in tables.load_table(name).rows} == expected


@pytest.mark.parametrize("name", tables.table_names())
def test_a_recipe_states_the_figure_of_its_row(name):
    for row in tables.load_table(name).rows:
        head = "".join(line for line in Path(row.recipe).read_text().splitlines() if line.startswith("#"))
        figures = {float(figure) for figure in re.findall(r"(\d\d\.\d+) %", head)}
        assert {figure for figure in (row.top1, row.top5) if figure is not None} <= figures, row.recipe
