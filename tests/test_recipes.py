"""Every shipped recipe is valid and says what to expect of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adderkit.train import config_type, load_recipe, to_yaml

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads_and_round_trips(path, tmp_path):
    config = load_recipe(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(config))
    assert load_recipe(copy) == config
    assert path.read_text().startswith("# ")


def test_there_are_recipes():
    assert len(RECIPES) >= 5


def test_an_empty_recipe_is_the_default(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert load_recipe(tmp_path / "empty.yaml") == config_type()()
