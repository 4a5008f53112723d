"""Whether a node may run code, and what it has to have for it."""

from __future__ import annotations

import ast
import platform
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tidegrid.grid.model.errors import ConfigurationError, DeployNotAllowedError, TriggerModuleError
from tidegrid.grid.model.ids import Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.runtime.deployments import DeployPolicy, DeployRules, earlier, load_beside
from tidegrid.grid.runtime.requirements import check_requirements
from tidegrid.triggers.deployment import Module, content_hash
from tidegrid.triggers.packages import find_sources
from tidegrid.v1.control_pb2 import ControlRecord, Deploy, GridCreated

CODE = [Module("m", "x = 1")]


def test_what_is_there_is_enough() -> None:
    here = platform.python_version()
    check_requirements(["msgspec", "MsgSpec>=0.1", f"msgpack=={version('msgpack')}", f"python=={here}", "python>=3.11"])


@pytest.mark.parametrize(
    ("required", "said"),
    [
        ("no-such-distribution", "not installed here; pip install 'no-such-distribution'"),
        ("msgspec>=9999", f"installed here is {version('msgspec')}"),
        ("python<3", f"this is Python {platform.python_version()}"),
        ("msgspec>=not.a.version", "none that pip knows"),
    ],
)
def test_what_is_missing_is_named(required: str, said: str) -> None:
    with pytest.raises(TriggerModuleError, match=r"requires|none that pip knows") as caught:
        check_requirements(["msgspec", required])
    assert said in caught.value.message


def test_all_that_is_missing_is_said_at_once() -> None:
    with pytest.raises(TriggerModuleError) as caught:
        check_requirements(["not-there-one", "not-there-two"])
    assert "not-there-one" in caught.value.message and "not-there-two" in caught.value.message


async def test_requirements_come_before_the_imports_that_need_them() -> None:
    source = "__requires__ = 'not-there-one'\nimport not_there_one\n"
    with pytest.raises(TriggerModuleError, match="pip install 'not-there-one'"):
        await load_beside([Module("m", source)], {}, 1, Limits())


async def test_syntax_trees_are_made_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.11 raises SystemError now and then when two threads make one each."""
    threads, parse = set(), ast.parse

    def noted(*arguments: Any, **options: Any) -> Any:
        threads.add(threading.get_ident())
        return parse(*arguments, **options)

    monkeypatch.setattr(ast, "parse", noted)
    await load_beside([Module("m", "import threading\nHERE = threading.get_ident()")], {}, 1, Limits())
    assert threads == {threading.get_ident()}


def test_the_three_policies() -> None:
    DeployRules().check(CODE)
    for modules in (None, CODE):
        with pytest.raises(DeployNotAllowedError, match="--allow-deploy"):
            DeployRules(DeployPolicy.OFF).check(modules)
    digits = content_hash(CODE).hex()
    DeployRules(DeployPolicy.INSTALLED, (digits,)).check(CODE)
    DeployRules(DeployPolicy.INSTALLED, ("0" * 8, digits[:8].upper())).check(CODE)
    DeployRules(DeployPolicy.INSTALLED).check(None)
    with pytest.raises(DeployNotAllowedError, match=digits[:16]) as caught:
        DeployRules(DeployPolicy.INSTALLED, ("0" * 8,)).check(CODE)
    assert caught.value.hash == digits


def test_installed_code_with_the_same_text() -> None:
    rules = DeployRules(DeployPolicy.INSTALLED)
    installed = find_sources(["tidegrid.triggers"])
    assert len(installed) > 5
    rules.check(installed)
    rules.check(find_sources(["json.decoder"]))
    changed = [installed[0], installed[1]._replace(source=installed[1].source + "\n")]
    with pytest.raises(DeployNotAllowedError, match=r"tidegrid\.triggers"):
        rules.check(changed)
    for name in ("../x", "/etc/x.py", "", "no_such_module_of_a_test"):
        with pytest.raises(DeployNotAllowedError):
            rules.check([Module(name, "")])


def test_the_working_directory_is_not_where_code_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lying_about_of_a_test.py").write_text("x = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = Module("lying_about_of_a_test", "x = 1")
    DeployRules(DeployPolicy.INSTALLED).check([module])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeployNotAllowedError):
        DeployRules(DeployPolicy.INSTALLED).check([module])


@pytest.mark.parametrize("text", ["", "1234567", "zzzzzzzzz"])
def test_hashes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="at least 8"):
        DeployRules(DeployPolicy.INSTALLED, (text,)).validate()


def deployed(*hashes: bytes) -> ControlState:
    state = ControlState()
    created = ControlRecord(created=GridCreated(grid_id=b"g" * 16, partitions=1, limit=9))
    for at, record in enumerate([created, *(ControlRecord(deploy=Deploy(hash=found)) for found in hashes)], 1):
        state.apply(Position(at), record)
    return state


def test_which_is_meant() -> None:
    control = deployed(b"\xaa\x01", b"\xaa\x02", b"\xbb", b"\xaa\x02")
    assert earlier(control, "").hash == b"\xbb"
    assert earlier(control, "aa01").hash == b"\xaa\x01"
    assert earlier(control, "AA02").hash == b"\xaa\x02"
    assert earlier(deployed(b"a", b"b", b"b"), "").hash == b"a"
    for digits, said in (("aa", "several deployments begin"), ("cc", "no deployment begins")):
        with pytest.raises(ConfigurationError, match=said):
            earlier(control, digits)
    for hashes in ((), (b"a",), (b"a", b"a")):
        with pytest.raises(ConfigurationError, match="no earlier"):
            earlier(deployed(*hashes), "")
