"""YAML as recipes need it: mappings, lists and plain values, each written out once.

On top of `yaml.safe_load`, which builds no objects and calls nothing, this refuses what a recipe has no use for and a
hostile or mistaken file has: aliases (nine lines of them name a billion values), a key given twice (the first would
be lost in silence), tags, and deep nesting (which ends in Python's recursion limit).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

_DEEPEST = 10  # a recipe has 3 levels


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"{_at(event.start_mark)}: alias `*{event.anchor}`: write the value itself")
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":  # "!" alone says: text
            raise yaml.YAMLError(f"{_at(event.start_mark)}: tag `{tag}`: only plain values are read")
        if self.depth == _DEEPEST:
            raise yaml.YAMLError(f"{_at(event.start_mark)}: more than {_DEEPEST} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.YAMLError(f"{_at(key.start_mark)}: the key `{key.value}` is given twice")
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def load(text: str) -> Any:
    """The value that `text` describes.

    Raises:
        ValueError: no YAML, or more than plain mappings, lists and values; the message has line and column.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not
        raise ValueError(str(error)) from None


def _at(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
