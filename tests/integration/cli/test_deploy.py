"""deploy and deployments against a real server; serve --watch and what serve says of deploying."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tidegrid.grid.app.commands import deploy as command

from tests.integration.cli.conftest import TRIGGERS, Result, Served, call

CHANGED = TRIGGERS.replace("amount > 100", "amount > 10").replace('"town":', '"place":')


@pytest.fixture
def open_grid(fresh: Served) -> Iterator[Served]:
    yield fresh.start("--memory", "--nodes", "3", "--allow-deploy")


@pytest.fixture
def shop(open_grid: Served) -> Path:
    return open_grid.directory / "shop.py"


def put_orders(server: Served, count: int = 4) -> None:
    for number in range(count):
        assert call(server, "put", "orders.raw", f"x,{number}", f'{{"amount": "{50 * number}"}}').code == 0


def test_plan_deploy_and_list(open_grid: Served, shop: Path) -> None:
    assert "no code is deployed" in call(open_grid, "deployments").err
    first = call(open_grid, "deploy", str(shop), "--dry-run")
    assert first.code == 0 and "the first code of this grid" in first.out and "+ translate" in first.out
    assert "nothing was deployed: this was a dry run" in first.err
    done = call(open_grid, "deploy", str(shop), "--yes")
    assert done.code == 0 and "every node runs it from epoch" in done.out and "nodes 0, 1, 2 can load it" in done.out
    put_orders(open_grid)
    again = call(open_grid, "deploy", str(shop), "--yes")
    assert again.code == 0 and "this is deployed already" in again.out

    shop.write_text(CHANGED)
    plan = call(open_grid, "deploy", str(shop), "--dry-run").out
    assert "~ translate" in plan and "4 recent writes to orders.raw: 4 would come out differently" in plan
    assert "orders: 4 outputs before, 4 after; 4 changed (place in 4, town in 4)" in plan
    assert "large: 1 outputs before, 3 after; 2 added" in plan
    assert "{'town': None}  ->  {'place': None}" in plan
    assert call(open_grid, "deploy", str(shop), "-y", "--by", "release 2").code == 0
    listed = call(open_grid, "deployments").out
    assert "release 2" in listed and "active" in listed and "past" in listed
    newest, oldest = call(open_grid, "deployments", "--json").records
    assert (newest["state"], newest["by"], newest["modules"]) == ("active", "release 2", ["shop"])
    assert newest["epoch"] > oldest["epoch"] and oldest["state"] == "past" and newest["time"].endswith("Z")

    back = call(open_grid, "deploy", "--rollback", "--yes", "--json").record
    assert back["deployed"] and back["hash"] == oldest["hash"] and back["replaces"] == newest["hash"]
    to = call(open_grid, "deploy", "--rollback", newest["hash"][:8], "--yes")
    assert to.code == 0
    assert [entry["hash"] for entry in call(open_grid, "deployments", "--json").records] == [
        newest["hash"], oldest["hash"], newest["hash"], oldest["hash"],
    ]  # fmt: skip
    assert call(open_grid, "put", "orders.raw", "y,1", '{"amount": "20"}').code == 0
    assert call(open_grid, "get", "orders", "y,1", "--json").record["value"] == {"amount": 20, "place": None}


def test_the_plan_as_json(open_grid: Served, shop: Path) -> None:
    plan = call(open_grid, "deploy", str(shop), "--dry-run", "--json").record
    assert (plan["deployed"], plan["acts_at"], plan["unchanged"], plan["replaces"]) == (False, None, False, None)
    assert plan["triggers"] == [
        {"name": "translate", "module": "shop", "change": "added", "on": ["orders.raw"], "emits": ["orders", "large"]}
    ]
    maps = {found["map"]: found for found in plan["maps"]}
    assert maps["orders.raw"]["key"] == ["shop", "number:int"] and maps["orders"]["derived"]
    assert [verdict["node"] for verdict in plan["nodes"]] == [0, 1, 2]
    assert all(verdict["error"] is None for verdict in plan["nodes"])
    assert call(open_grid, "deploy", str(shop), "--yes").code == 0
    put_orders(open_grid)
    shop.write_text(CHANGED)
    (sample,) = call(open_grid, "deploy", str(shop), "--dry-run", "--json", "--sample", "3").record["samples"]
    assert sample["map"] == "orders.raw" and 1 <= sample["writes"] <= 3 and sample["same"] == 0, "one of each node"
    columns = {output["map"]: output["columns"] for output in sample["outputs"]}["orders"]
    assert columns == {"place": sample["writes"], "town": sample["writes"]}


def test_a_person_is_asked(open_grid: Served, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = call(open_grid, "deploy", str(shop))
    assert nobody.code == 2 and "--yes" in nobody.err and "--dry-run" in nobody.err
    assert call(open_grid, "deploy", str(shop), "--json").error["code"] == "CONFIGURATION"

    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    class System:
        stdin = Terminal

    monkeypatch.setattr(command, "sys", System)
    no = call(open_grid, "deploy", str(shop), given="n\n")
    assert no.code == 1 and "+ translate" in no.out and "nothing was deployed" in no.err
    assert call(open_grid, "deployments", "--json").records == []
    yes = call(open_grid, "deploy", str(shop), given="y\n")
    assert yes.code == 0 and "every node runs it" in yes.out


def test_what_a_new_user_gets_wrong(open_grid: Served, shop: Path) -> None:
    folder = open_grid.directory
    (folder / "plain").mkdir()
    (folder / "bad.py").write_text("x = 1\ndef (\n")
    (folder / "typo.py").write_text("from tidegrid.triggers import *\ntable('a')\n@trigger(on='aa')\ndef f(w): ...\n")

    def refused(*arguments: str) -> Result:
        done = call(open_grid, "deploy", *arguments, "--yes")
        assert "Traceback" not in done.err and not done.out
        return done

    for arguments, code, said in (
        ((), 2, "name a module, such as flights.py"),
        ((str(folder / "shpo.py"),), 2, "there is no file"),
        ((str(folder / "plain"),), 2, "a folder without __init__.py"),
        (("no.such.module",), 2, "not an installed module"),
        ((str(folder / "bad.py"),), 2, "line 2"),
        ((str(folder / "typo.py"),), 2, "line 3: trigger 'f' on 'aa': there is no map 'aa'; did you mean a?"),
        (("--rollback",), 2, "no earlier deployment"),
        (("--rollback", "abcdef"), 2, "`tidegrid deployments` lists them"),
        (("--rollback", "abcdef", "123456"), 2, "one hash"),
        ((str(shop), "--deadline", "0.3", "--server", "localhost:1"), 3, "nothing answers at localhost:1"),
    ):
        done = refused(*arguments)
        assert (done.code, said in done.err) == (code, True), done.err
    assert call(open_grid, "deploy", "none.py", "--yes", "--json").error["code"] == "TRIGGER_MODULE"


def test_deploying_is_off_unless_it_is_turned_on(fresh: Served) -> None:
    fresh.start("--memory", "--triggers", "shop.py")
    done = call(fresh, "deploy", str(fresh.directory / "shop.py"), "--yes")
    assert done.code == 1 and "--allow-deploy" in done.err
    assert (
        call(fresh, "deploy", str(fresh.directory / "shop.py"), "--dry-run", "--json").error["code"]
        == "DEPLOY_NOT_ALLOWED"
    )
    (entry,) = call(fresh, "deployments", "--json").records
    assert entry["state"] == "active" and "at the start of the grid" in entry["by"]


def test_only_listed_hashes(fresh: Served, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text('deploy = "installed"\nmemory = true\n')
    fresh.start("--config", "grid.toml", "--allow-hash", "0123456789")
    done = call(fresh, "deploy", str(fresh.directory / "shop.py"), "--yes", "--json")
    assert done.code == 1 and done.error["code"] == "DEPLOY_NOT_ALLOWED", done.err
    digits = done.error["fields"]["hash"]
    fresh.stop()
    fresh.start("--memory", "--nodes", "2", "--allow-hash", digits[:16])
    assert call(fresh, "deploy", str(fresh.directory / "shop.py"), "--yes").code == 0


def test_watched_files_are_deployed_again(fresh: Served) -> None:
    shop = fresh.directory / "shop.py"
    good = shop.read_text()
    shop.write_text("def (\n")
    fresh.start("--memory", "--nodes", "2", "--watch", "shop.py")
    assert fresh.process is not None and fresh.process.stderr is not None
    said: list[str] = []

    def until(words: str) -> str:
        assert fresh.process is not None and fresh.process.stderr is not None
        for line in fresh.process.stderr:
            said.append(line)
            if words in line:
                return line
            assert not line.startswith(("deployed", "not deployed", "the files")), (words, said)
        raise AssertionError(f"serve ended: {said}")

    until("not deployed: trigger module 'shop', line 1")
    shop.write_text(good)
    assert "+translate" in until("deployed ")
    put_orders(fresh)
    shop.write_text(CHANGED)
    assert "4 of 4 recent writes come out differently" in until("deployed ")
    shop.write_text(CHANGED + "\nimport nothing_of_the_kind\n")
    until("imports 'nothing_of_the_kind', which is not installed")
    shop.write_text(CHANGED.replace('key=("shop", "number:int")', 'key=("shop",)'))
    until("exists with another kind, key or affinity")
    shop.write_text(CHANGED)
    until("the files say what is deployed again")
    assert call(fresh, "get", "orders", "x,1").code == 0
    assert call(fresh, "deploy", str(shop), "--yes").code == 1, "watching lets nobody else deploy"
    states = [entry["state"] for entry in call(fresh, "deployments", "--json").records]
    assert states == ["active", "past"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--watch", "shop.py", "--triggers", "shop.py"], "either triggers"),
        (["--allow-deploy", "--allow-hash", "0123456789"], "go with deploy"),
        (["--allow-hash", "012"], "at least 8"),
        (["--config", "bad.toml"], "off, on or installed"),
    ],
)
def test_options_that_do_not_fit(fresh: Served, options: list[str], says: str) -> None:
    (fresh.directory / "bad.toml").write_text('deploy = "yes"\n')
    with pytest.raises(pytest.fail.Exception, match=says):
        fresh.start("--memory", *options)


def test_a_start_with_code_that_is_gone_says_so(fresh: Served) -> None:
    (fresh.directory / "gone_of_a_test.py").write_text("X = 1\n")
    (fresh.directory / "uses.py").write_text(
        "from gone_of_a_test import X\nfrom tidegrid.triggers import *\ntable('z')\n"
    )
    fresh.start("--data", "data", "--triggers", "uses.py")
    assert fresh.stop()[0] == 0
    (fresh.directory / "gone_of_a_test.py").unlink()
    with pytest.raises(pytest.fail.Exception, match="cannot run the deployed code") as caught:
        fresh.start("--data", "data")
    assert "gone_of_a_test" in str(caught.value) and "--triggers FILE" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    fresh.start("--data", "data", "--triggers", "shop.py")
    put_orders(fresh, 1)
    assert json.loads(call(fresh, "get", "orders", "x,0", "--json").out)["value"]["amount"] == 0
