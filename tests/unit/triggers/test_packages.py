"""What somebody names on the command line becomes modules of a deployment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tidegrid.grid.model.errors import TriggerModuleError
from tidegrid.triggers.packages import files_of, find_sources


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.py").write_text("ONE = 1\n")
    rules = tmp_path / "rules"
    (rules / "deep").mkdir(parents=True)
    (rules / "__init__.py").write_text("# rules\n")
    (rules / "rows.py").write_text("# rows\n")
    (rules / "deep" / "more.py").write_text("# more\n")
    (rules / "not-a-name.py").write_text("# never imported\n")
    (tmp_path / "plain").mkdir()
    return tmp_path


def test_a_file_and_a_package() -> None:
    found = find_sources(["one.py", "rules/"])
    assert [module.name for module in found] == ["one", "rules", "rules.deep.more", "rules.rows"]
    assert found[1].source == "# rules\n"
    assert find_sources(["rules"]) == find_sources([Path("rules")]) == find_sources(["./rules"]) == found[1:]


def test_an_installed_package_comes_whole(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "shop_of_a_test").mkdir(parents=True)
    (site / "shop_of_a_test" / "__init__.py").write_text("# shop\n")
    (site / "shop_of_a_test" / "rows.py").write_text("# rows\n")
    monkeypatch.syspath_prepend(str(site))
    assert [module.name for module in find_sources(["shop_of_a_test"])] == ["shop_of_a_test", "shop_of_a_test.rows"]
    assert [module.name for module in find_sources(["shop_of_a_test.rows"])] == ["shop_of_a_test.rows"]
    assert files_of(["shop_of_a_test.rows"]) == (site / "shop_of_a_test" / "rows.py",)
    sys.modules.pop("shop_of_a_test", None)


def test_what_to_watch(here: Path) -> None:
    assert {path.name for path in files_of(["one.py", "rules"])} == {"one.py", "__init__.py", "rows.py", "more.py"}
    assert files_of(["gone.py"]) == (Path("gone.py"),)
    assert files_of(["no_such_module_of_a_test"]) == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", "is a folder without __init__.py"),
        ("two.py", "no file two.py"),
        ("one", "one"),
        ("bad-name", "neither a .py file"),
    ],
)
def test_refused(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    with pytest.raises(TriggerModuleError, match=said):
        find_sources([name])


def test_a_folder_whose_name_is_no_name(here: Path) -> None:
    (here / "my-rules").mkdir()
    (here / "my-rules" / "__init__.py").touch()
    with pytest.raises(TriggerModuleError, match="no Python name"):
        find_sources(["my-rules/"])
