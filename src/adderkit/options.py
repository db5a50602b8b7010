"""The base of every group of options: typed, frozen, strict, with errors that a user can act on."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

_LONGEST = 200


class Problem(NamedTuple):
    """What is wrong with one key, which has a dot per level, or with the group as a whole (`key` empty)."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.before}`{self.key}`{self.after}" if self.key else self.after


class OptionsError(ValueError):
    """Options that cannot be: one line per culprit, with its key, its value and what is allowed."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Options(BaseModel):
    """A frozen group of options.

    Raises:
        OptionsError: on unknown keys, wrong types and impossible values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        """`epochs: true` is a slip, not one epoch."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = set(get_args(annotation)) or {annotation}
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError("must be a number")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """A NUL or a lone surrogate (of an argument that is no UTF-8) would fail at the first file that holds it."""
        if isinstance(value, (str, Path)) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in str(value)):
            raise ValueError("must be text that UTF-8 can write, without NUL")
        return value

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = [problem for item in error.errors() for problem in _problems(type(self), item)]
            raise OptionsError(_merged(problems)) from None


def _problems(model: type[BaseModel], item: Any) -> list[Problem]:
    # pydantic names the branches of a union, as in taps.literal['stages']: no key of ours has a bracket
    key = ".".join(str(part) for part in item["loc"] if "[" not in str(part))
    cause = item.get("ctx", {}).get("error")
    value = f" (={brief(item['input'])})"
    if isinstance(cause, OptionsError):  # a nested group: its keys gain our prefix
        return [
            problem._replace(key=f"{key}.{problem.key}")
            if problem.key
            else Problem(key, "", f"{value}: {problem.after}")
            for problem in cause.problems
        ]
    if cause is not None:  # raised by a validator of the group itself
        return [Problem(key, "", f"{value}: {cause}" if key else str(cause))]
    if item["type"] == "extra_forbidden":
        near = _near(model, key)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        group, _, inner = key.partition(".")
        if inner and group in model.model_fields:
            hint = f"; write `{group}: {{{inner}: ...}}`."
        return [Problem(brief(key)[1:-1], "unknown key ", f"{value}{hint} Allowed: {', '.join(model.model_fields)}")]
    if item["type"] == "missing":
        return [Problem(key, "", " is required")]
    if item["type"] in ("model_type", "model_attributes_type"):
        return [Problem(key, "", f"{value} must be a group of options: a mapping of keys to values")]
    message = item["msg"].replace("Input should be", "must be", 1)
    return [Problem(key, "", f"{value} {message}")]


def _near(model: type[BaseModel], key: str) -> list[str]:
    """Keys that may have been meant: of nearly this name, or of this very name within a group."""
    near = get_close_matches(key, list(model.model_fields))
    groups = {name: field.annotation for name, field in model.model_fields.items()}
    inner = [
        f"{name}.{key}"
        for name, group in groups.items()
        if isinstance(group, type) and issubclass(group, BaseModel) and key in group.model_fields
    ]
    return [*inner, *near]


def brief(value: Any) -> str:
    """A value as messages show it: in Python's notation, and never longer than a line."""
    try:
        text = repr(str(value) if isinstance(value, Path) else value)
    except ValueError:  # an integer of thousands of digits
        text = f"a value of the type {type(value).__name__} that is too long to show"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _merged(problems: list[Problem]) -> list[Problem]:
    """One problem per key: the branches of a union fail one by one."""
    merged: dict[str, Problem] = {}
    for problem in problems:
        known = merged.get(problem.key)
        if known is not None:
            problem = known._replace(after=f"{known.after}, or{problem.after.partition(')')[2]}")
        merged[problem.key] = problem
    return list(merged.values())
