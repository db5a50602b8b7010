"""Options models as command-line options: the same names, help and defaults, checked by the model at the end.

tyro parses into plain dataclasses that mirror the models, so nothing is validated before the recipe has been read, and
the model's own errors name their keys in full.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import tyro
from pydantic_core import PydanticUndefined

from adderkit.options import Options

_METAVARS = {bool: "{True,False}", int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


def parse(
    prog: str, description: str, groups: Options, own: Sequence[tuple[str, Any, Any]], arguments: list[str]
) -> Any:
    """Parses a command line.

    Args:
        prog: the command, for messages.
        description: of the command, for `--help`.
        groups: an instance of a model, whose values are the defaults.
        own: (name, annotated type, default) of the command's own options.
        arguments: the words of the command line.

    Returns:
        An object with an attribute per field of `groups` and of `own`. Exits with code 2 and a message where an option
        is unknown, or is no value of its type.
    """
    fields = [(name, kind, dataclasses.field(default=default)) for name, kind, default in own]
    mirror = dataclasses.make_dataclass("Options", [*fields, *_fields(groups)], kw_only=True)
    mirror.__doc__ = description
    return tyro.cli(mirror, args=arguments, prog=prog, description=description, use_underscores=True)


def values(parsed: Any, model: type[Options]) -> dict[str, Any]:
    """What `parse` found for the fields of `model`, as plain values for its constructor."""
    return {name: _plain(getattr(parsed, name)) for name in model.model_fields}


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _fields(options: Options) -> list[tuple[str, Any, Any]]:
    fields: list[tuple[str, Any, Any]] = []
    for name, info in type(options).model_fields.items():
        value = getattr(options, name)
        if isinstance(value, Options):
            mirror = dataclasses.make_dataclass(name, _fields(value), kw_only=True)
            mirror.__doc__ = info.description or type(value).__doc__ or ""
            fields.append((name, mirror, dataclasses.field(default_factory=mirror)))
        else:
            annotation = Annotated[info.annotation, _argument(info.annotation, info.description, value)]
            default = tyro.MISSING if value is PydanticUndefined else value
            fields.append((name, annotation, dataclasses.field(default=default)))
    return fields


def _argument(annotation: Any, description: str | None, value: Any) -> Any:
    """Help in words: an optional value is written as its type alone, and a default of None goes without saying."""
    metavar = None
    if get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        metavar = _METAVARS.get(kinds[0]) if len(kinds) == 1 else None
    hint = "" if value is None else None
    return tyro.conf.arg(help=description, metavar=metavar, help_behavior_hint=hint)
