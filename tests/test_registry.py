"""The registry: discovery in a package, near matches, no name twice."""

from __future__ import annotations

import sys
import textwrap

import pytest

from adderkit.registry import Registry


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A registry over a package of two files, one of them private."""
    package = tmp_path / "toybox"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "duck.py").write_text(
        textwrap.dedent(
            """
            from tests_toys import registry

            @registry.register("duck")
            class Duck: ...
            """
        )
    )
    (package / "_private.py").write_text("raise RuntimeError('must not be imported')")
    (tmp_path / "tests_toys.py").write_text(
        "from adderkit.registry import Registry\nregistry = Registry('toy', 'toybox', 'adderkit.toys')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("tests_toys").registry
    for name in [name for name in sys.modules if name.startswith(("toybox", "tests_toys"))]:
        del sys.modules[name]


def test_files_of_the_package_are_found(toys):
    assert toys.names() == ("duck",)
    assert toys.get("duck").__name__ == "Duck"


def test_unknown_name_lists_near_matches(toys):
    with pytest.raises(ValueError, match=r"no toy 'duk'\. Did you mean duck\? Known: duck"):
        toys.get("duk")


def test_taken_name_is_refused(toys):
    toys.names()
    with pytest.raises(ValueError, match="the toy 'duck' is taken by"):
        toys.register("duck")(object)


def test_module_that_fails_is_not_swallowed(tmp_path, monkeypatch):
    package = tmp_path / "brokenbox"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "bad.py").write_text("raise RuntimeError('broken file')")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("toy", "brokenbox", "adderkit.toys")
    for _ in range(2):  # the second look-up fails as well, instead of finding an empty table
        with pytest.raises(RuntimeError, match="broken file"):
            registry.names()


def test_broken_entry_point_is_named(toys, monkeypatch):
    class Entry:
        name = "goose"

        def load(self):
            raise RuntimeError("feathers")

    monkeypatch.setattr("adderkit.registry.entry_points", lambda group: [Entry()])
    with pytest.raises(ImportError, match=r"entry point `goose` of `adderkit\.toys` can't be loaded: feathers"):
        toys.names()


def test_entry_points_of_other_packages_are_loaded(toys, monkeypatch):
    class Entry:
        def load(self):
            toys.register("swan")(object)

    monkeypatch.setattr("adderkit.registry.entry_points", lambda group: [Entry()] if group == "adderkit.toys" else [])
    assert toys.names() == ("duck", "swan")
