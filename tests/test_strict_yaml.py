"""YAML as recipes have it: what is read is what PyYAML's safe loader reads, and the rest is refused with its place."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from adderkit import strict_yaml
from adderkit.options import OptionsError
from adderkit.train import config_type, load_recipe, to_yaml

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
@settings(deadline=None, max_examples=200)
def test_plain_values_come_back(value):
    # pieces that are equal would be written as aliases
    text = yaml.dump(value, Dumper=type("Plain", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True}))
    assert strict_yaml.load(text) == value


@given(st.text(alphabet="ab:-[]{},&*!|>'\"#?% \n0.1", max_size=40))
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_as_the_safe_loader_reads_it_or_refused(text):
    try:
        found = strict_yaml.load(text)
    except ValueError as error:
        assert str(error)
        return
    assert repr(found) == repr(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x", "line 2, column 4: alias `\\*x`"),
        ("a: 1\nb: {c: 1, c: 2}", "line 2, column 11: the key `c` is given twice"),
        ("a: !!python/name:os.system x", "line 1, column 4: tag `tag:yaml.org,2002:python/name:os.system`"),
        ("a: !!int 3", "tag `tag:yaml.org,2002:int`"),
        ("[" * 11 + "]" * 11, "line 1, column 11: more than 10 levels"),
        ("a: b: c", "mapping values are not allowed"),
        ("a: 2020-02-31", "day"),
    ],
)
def test_what_is_refused_has_its_place(text, message):
    with pytest.raises(ValueError, match=message):
        strict_yaml.load(text)


def test_anchors_that_nothing_names_do_no_harm():
    assert strict_yaml.load("a: &x 1") == {"a": 1}


keys = st.sampled_from([*config_type().model_fields, "epoch", "", "data.name", "pkkd"])
things = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)


@given(st.dictionaries(keys, things | st.dictionaries(st.text(max_size=8), things, max_size=2), max_size=4))
@settings(deadline=None, max_examples=300)
def test_any_mapping_is_a_configuration_or_a_message_that_names_its_keys(mapping):
    try:
        config = config_type()(**mapping)
    except OptionsError as error:
        shown = [repr(key)[1:-1] for key in mapping]
        assert all(problem.key.startswith(tuple(shown)) for problem in error.problems)
        return
    assert all(getattr(config, key) is not None or mapping[key] is None for key in mapping)


@given(st.fixed_dictionaries({}, optional={
    "epochs": st.integers(1, 10**6), "lr": st.floats(0, 1e6), "eta": st.floats(0, 10, exclude_min=True),
    "seed": st.integers(0, 2**63 - 1), "batch_size": st.integers(2, 10**6), "layer": st.sampled_from(["adder", "conv"]),
    "momentum": st.floats(0, 1, exclude_max=True),
}))  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_configurations_survive_their_own_recipe(tmp_path_factory, values):
    config = config_type()(**values)
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(to_yaml(config))
    assert load_recipe(path) == config
