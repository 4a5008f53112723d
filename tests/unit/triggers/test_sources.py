"""Finding the source of a trigger module."""

from pathlib import Path

import pytest
from tidegrid.grid.model.errors import TriggerModuleError
from tidegrid.triggers.sources import find_module, find_modules


def test_a_file(tmp_path):
    (tmp_path / "flights.py").write_text("x = 1\n")
    for name in (tmp_path / "flights.py", str(tmp_path / "flights.py")):
        assert find_module(name) == ("flights", "x = 1\n")


def test_encodings_and_line_ends(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes("# coding: latin-1\r\nx = 'é'\r\n".encode("latin-1"))
    assert find_module(path).source == "# coding: latin-1\nx = 'é'\n"
    path.write_bytes("\ufeffx = 'é'".encode())
    assert find_module(path).source == "x = 'é'"


def test_an_installed_module(tmp_path, monkeypatch):
    package = tmp_path / "package_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "flights.py").write_text("raise RuntimeError('never run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_modules(["package_of_a_test.flights"])[0].name == "package_of_a_test.flights"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere/flights.py", "there is no file nowhere/flights.py"),
        ("no_such_package.flights", "'no_such_package' is not an installed module; install it"),
        ("no_such_module", "'no_such_module' is not an installed module"),
        ("tidegrid.triggers.nothing", "'tidegrid.triggers.nothing' is not an installed module"),
        ("a flight", "neither a .py file nor"),
        ("math", "has no Python source"),
        ("tidegrid", "has no Python source"),
    ],
)
def test_refused_with_a_way_out(name, said):
    with pytest.raises(TriggerModuleError, match=said) as caught:
        find_module(name)
    assert caught.value.line == 0


def test_a_file_named_without_its_ending(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry not in ("", str(tmp_path))])
    Path("flights_of_a_test.py").write_text("")
    with pytest.raises(TriggerModuleError, match=r"there is a file flights_of_a_test\.py here"):
        find_module("flights_of_a_test")


def test_what_is_no_text(tmp_path):
    (tmp_path / "a.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(TriggerModuleError, match="not text that Python reads"):
        find_module(tmp_path / "a.py")
    (tmp_path / "b.py").mkdir()
    with pytest.raises(TriggerModuleError, match="cannot be read"):
        find_module(tmp_path / "b.py")


def test_a_package_that_fails_on_import(tmp_path, monkeypatch):
    package = tmp_path / "failing_package_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("raise ValueError('broken')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TriggerModuleError, match="ValueError: broken"):
        find_module("failing_package_of_a_test.flights")
