"""Options: what is refused, and that the message names key, value and what is allowed."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator, model_validator

from adderkit.options import Options, OptionsError


class Inner(Options):
    width: float = Field(1.0, gt=0)
    mode: str = "a"

    @field_validator("mode")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in ("a", "b"):
            raise ValueError("must be one of a, b")
        return value


class Outer(Options):
    epochs: int = Field(3, ge=1)
    inner: Inner = Inner()
    taps: Literal["all", "last"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all"
    flag: bool | None = None


@pytest.mark.parametrize(
    ("values", "fragments"),
    [
        ({"epochs": 0}, ["`epochs` (=0)", "greater than or equal to 1"]),
        ({"epochs": "x"}, ["`epochs` (='x')", "integer"]),
        ({"epoch": 3}, ["unknown key `epoch` (=3)", "did you mean epochs?", "Allowed: epochs, inner"]),
        ({"inner": {"width": -1}}, ["`inner.width` (=-1)", "greater than 0"]),
        ({"inner": {"width": float("nan")}}, ["`inner.width` (=nan)", "finite"]),
        ({"inner": {"mode": "c"}}, ["`inner.mode` (='c')", "must be one of a, b"]),
        ({"inner": {"wide": 1}}, ["unknown key `inner.wide` (=1)", "Allowed: width, mode"]),
        ({"inner": 3}, ["`inner` (=3)"]),
        ({"epochs": True}, ["`epochs` (=True)", "must be a number"]),
        ({"taps": "elsewhere"}, ["`taps` (='elsewhere') must be 'all' or 'last', or", "tuple"]),
        ({"taps": []}, ["`taps` (=[])", "at least 1 item"]),
    ],
)
def test_impossible_values_are_named(values, fragments):
    with pytest.raises(OptionsError) as caught:
        Outer(**values)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_every_problem_is_reported():
    with pytest.raises(OptionsError) as caught:
        Outer(epochs=0, inner={"width": 0, "mode": "z"})
    assert [problem.key for problem in caught.value.problems] == ["epochs", "inner.width", "inner.mode"]


class Range(Options):
    """A group that only makes sense as a whole."""

    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _is_ordered(self):
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self


class Measured(Options):
    """A group within."""

    range: Range = Range()


def test_a_group_that_does_not_fit_is_named():
    with pytest.raises(OptionsError, match=r"^low must not be above high$"):
        Range(low=2)
    with pytest.raises(OptionsError, match=r"^`range` \(=\{'low': 2\}\): low must not be above high$"):
        Measured(**{"range": {"low": 2}})


def test_options_are_frozen():
    options = Outer()
    with pytest.raises(ValueError, match="frozen"):
        options.epochs = 5  # type: ignore[misc]
    assert options.epochs == 3
