"""`tidegrid effects` against a served grid: run, drained, killed in the middle, parked and driven again."""

from __future__ import annotations

import itertools
import json
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Served, call, running

EFFECTS = """
import asyncio
import json
import urllib.request

from tidegrid.triggers import EffectEvent, effect


def post(event: EffectEvent, name: str) -> None:
    body = {"effect": name, "key": event.key, "value": event.value, "id": event.id, "attempt": event.attempt}
    urllib.request.urlopen("URL/", data=json.dumps(body).encode(), timeout=60).close()


@effect(on="orders", retries=None, backoff_seconds=0.001, concurrency=4)
def ship(event: EffectEvent) -> None:
    post(event, "ship")


@effect(on="large", retries=0, on_give_up="park")
async def warn(event: EffectEvent) -> None:
    await asyncio.to_thread(post, event, "warn")
"""


class World:
    """An HTTP server that keeps what it was asked. `on_request` may refuse: it returns the status."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.on_request: Callable[[dict[str, Any], int], int] = lambda body, count: 200
        self.changed = threading.Condition()
        world = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with world.changed:
                    world.requests.append(body)
                    count = len(world.requests)
                    world.changed.notify_all()
                status = world.on_request(body, count)
                try:
                    self.send_response(status)
                    self.end_headers()
                except ConnectionError:
                    pass  # who asked was killed

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def wait(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.requests) >= count, timeout=60)

    def of(self, effect: str) -> list[dict[str, Any]]:
        return [request for request in self.requests if request["effect"] == effect]

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def module(world: World, tmp_path: Path) -> str:
    path = tmp_path / "outside.py"
    path.write_text(EFFECTS.replace("URL", f"http://127.0.0.1:{world.server.server_port}"))
    return str(path)


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "effects.db")


def order(served: Served, shop: str, number: int, amount: int) -> None:
    done = call(served, "put", "orders.raw", f"{shop},{number}", json.dumps({"amount": str(amount)}), "--json")
    assert done.code == 0, done.err


def load(served: Served, tmp_path: Path, shop: str, rows: int, rounds: int = 1) -> None:
    """`rows` keys, each written `rounds` times; every third is large."""
    for number_of_round in range(rounds):
        file = tmp_path / f"{shop}{number_of_round}.csv"
        lines = [f"{shop},{row},{(200 if row % 3 == 0 else 10) + number_of_round}" for row in range(rows)]
        file.write_text("\n".join(["shop,number,amount", *lines, ""]))
        assert call(served, "load", "orders.raw", str(file)).code == 0


def cursors(state: str) -> dict[str, int]:
    with closing(sqlite3.connect(state)) as connection:
        return dict(connection.execute("SELECT effect, epoch FROM tidegrid_effects"))


def beyond(state: str) -> int:
    with closing(sqlite3.connect(state)) as connection:
        return int(connection.execute("SELECT count(*) FROM tidegrid_effects_beyond").fetchone()[0])


def test_a_first_run_begins_now_and_later_ones_go_on(served: Served, world: World, module: str, state: str) -> None:
    order(served, "first", 1, 500)
    epoch = call(served, "put", "anything", '["x"]', "1", "--json").record["epoch"]
    assert call(served, "get", "anything", '["x"]', "--as-of", str(epoch)).code == 0  # all of it is closed
    arguments = ("effects", module, "--at", served.address, "--state", state, "--once", "--json")
    result = call("localhost:1", *arguments)
    assert result.code == 0, result.err
    ship, _ = result.records
    assert (ship["effect"], ship["map"], ship["done"], ship["parked"]) == ("ship", "orders", 0, 0)
    assert "ship: 0 done, at epoch" in result.err and "following large" in result.err
    order(served, "first", 2, 500)
    again = call(served, *arguments)
    assert [(record["effect"], record["done"]) for record in again.records] == [("ship", 1), ("warn", 1)]
    assert sorted(request["effect"] for request in world.requests) == ["ship", "warn"]
    assert world.requests[0]["key"] == ["first", 2]
    assert cursors(state) == {record["effect"]: record["epoch"] for record in again.records}
    assert len(call(served, *arguments).records) == len(world.requests) == 2


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_in_the_middle_each_change_at_least_once(
    served: Served, world: World, module: str, state: str, tmp_path: Path, seed: int
) -> None:
    """The runner is killed by whom it asks: before the answer, so that the work is done and nobody knows."""
    shop = f"kill{seed}"
    rows, rounds = 12, 4
    load(served, tmp_path, shop, rows, rounds)
    kills = iter((1 + seed, 9, 10, 23, 40, 41))
    runners: list[subprocess.Popen[str]] = []
    next_kill = next(kills)
    guard = threading.Lock()

    def kill(body: dict[str, Any], count: int) -> int:
        nonlocal next_kill
        with guard:
            if count >= next_kill and runners[-1].returncode is None:
                runners[-1].send_signal(signal.SIGKILL)
                runners[-1].wait()
                next_kill = next(kills, 1_000_000)
        return 200

    world.on_request = kill
    arguments = ("effects", module, "--state", state, "--from", "begin", "--only", "ship", "--once", "--json")
    codes = []
    for _ in range(10):
        with running(served, *arguments) as runner:
            runners.append(runner)
            output, errors = runner.communicate()
        codes.append(runner.returncode)
        if runner.returncode == 0:
            break
        assert runner.returncode == -signal.SIGKILL, errors
    assert codes == [-signal.SIGKILL] * 6 + [0]
    mine = [request for request in world.requests if request["key"][0] == shop]
    expected = {row: [(200 if row % 3 == 0 else 10) + n for n in range(rounds)] for row in range(rows)}
    ids: dict[tuple[int, int], set[str]] = {}
    for row, amounts in expected.items():
        given = [request["value"]["amount"] for request in mine if request["key"][1] == row]
        assert list(dict.fromkeys(given)) == amounts, "each, and in order, repetitions aside"
    for request in mine:
        ids.setdefault((request["key"][1], request["value"]["amount"]), set()).add(request["id"])
    assert all(len(found) == 1 for found in ids.values()) and len(ids) == rows * rounds
    (final,) = [json.loads(line) for line in output.splitlines()]
    everything = len({request["id"] for request in world.requests})
    assert final["done"] == everything
    assert 0 < len(world.requests) - everything <= 6 * 4, "of each killed run at most as many as were under way"
    assert cursors(state) == {"ship": final["epoch"]} and beyond(state) == 0
    before = len(world.requests)
    assert call(served, *arguments).code == 0 and len(world.requests) == before


def test_sigterm_drains(served: Served, world: World, module: str, state: str, tmp_path: Path) -> None:
    hold, entered = threading.Event(), threading.Event()

    def wait(body: dict[str, Any], count: int) -> int:
        entered.set()
        assert hold.wait(60)
        return 200

    world.on_request = wait
    with running(served, "effects", module, "--state", state, "--only", "ship", "--json") as process:
        assert process.stderr is not None
        assert "following orders" in process.stderr.readline()
        load(served, tmp_path, "drain", 1, 3)
        assert entered.wait(60)
        process.send_signal(signal.SIGTERM)
        assert "SIGTERM" in process.stderr.readline()
        hold.set()
        out, errors = process.communicate()
        assert process.returncode == 0, errors
    (record,) = [json.loads(line) for line in out.splitlines()]
    assert record["done"] == len(world.requests) == 1, "what was under way has ended and is written; nothing else began"
    result = call(served, "effects", module, "--state", state, "--only", "ship", "--once", "--json")
    assert result.record["done"] == len(world.requests) == 3


def test_one_runner_of_a_state_file(served: Served, world: World, module: str, state: str) -> None:
    with running(served, "effects", module, "--state", state) as process:
        assert process.stderr is not None
        assert "following" in process.stderr.readline()
        second = call(served, "effects", module, "--state", state, "--once")
        assert second.code == 6 and "another runner" in second.err
        process.kill()
        process.communicate()
    assert call(served, "effects", module, "--state", state, "--once").code == 0


def test_parked_is_listed_and_driven_again(served: Served, world: World, module: str, state: str) -> None:
    arguments = ("effects", module, "--state", state, "--only", "warn", "--once", "--json")
    assert call(served, *arguments).code == 0
    assert "nothing is parked" in call(served, "effects", "--parked", "--state", state).err
    world.on_request = lambda body, count: 503
    order(served, "park", 1, 900)
    order(served, "park", 2, 901)
    result = call(served, *arguments)
    assert (
        result.code == 0
        and result.record["parked"] == 2
        and "HTTP Error 503" in result.err
        and "given up" in result.err
    )
    first, second = call(served, "effects", "--parked", "--state", state, "--json").records
    assert {first["value"]["amount"], second["value"]["amount"]} == {900, 901}
    assert (first["effect"], first["map"], first["tries"], first["again"]) == ("warn", "large", 1, False)
    assert "HTTP Error 503" in first["error"] and "line" in first["error"]
    assert first["id"] in {request["id"] for request in world.requests}
    text = call(served, "effects", "--parked", "--state", state).out
    assert '["park", 1]' in text and "503" in text
    for wrong in ("x", "77"):
        assert call(served, "effects", "--again", wrong, "--state", state).code == 2
    marked = call(served, "effects", "--again", str(first["number"]), "--parked", "--state", state, "--json")
    assert [record["again"] for record in marked.records] == [True, False]
    world.on_request = lambda body, count: 200
    done = call(served, *arguments).record
    assert (done["parked"], done["done"]) == (1, 1)
    assert [request["attempt"] for request in world.requests if request["id"] == first["id"]] == [1, 2]
    assert call(served, *arguments, "--again", "all").record["parked"] == 0
    assert call(served, "effects", "--parked", "--state", state, "--json").records == []


def test_parked_changes_are_taken_up_by_a_runner_that_works(
    served: Served, world: World, module: str, state: str
) -> None:
    answers = itertools.chain([503], itertools.repeat(200))
    world.on_request = lambda body, count: next(answers)
    with running(served, "effects", module, "--state", state, "--only", "warn") as process:
        assert process.stderr is not None
        assert "following large" in process.stderr.readline()
        order(served, "again", 1, 900)
        assert "given up" in process.stderr.readline()
        world.wait(1)
        order(served, "again", 2, 901)
        world.wait(2)  # after what was parked was written
        assert call(served, "effects", "--again", "all", "--state", state).code == 0
        world.wait(3)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert [request["key"][1] for request in world.requests] == [1, 2, 1]


def test_what_is_refused(served: Served, module: str, state: str, tmp_path: Path) -> None:
    for arguments in (
        ("effects",),
        ("effects", "--once", "--parked"),
        ("effects", module, "--parked"),
        ("effects", module, "--from", "yesterday"),
        ("effects", module, "--from", "0"),
        ("effects", module, "--only", "shipp", "--once"),
        ("effects", "--parked", "--state", str(tmp_path / "no.db")),
        ("effects", str(tmp_path / "no.py"), "--once"),
        ("effects", str(served.directory / "shop.py"), "--once"),
    ):
        result = call(served, *arguments)
        assert result.code == 2 and result.err.startswith("error: "), (arguments, result.err)
    assert not (tmp_path / "no.db").exists()
    (tmp_path / "typo.py").write_text("from tidegrid.triggers import effect\n@effect(on='ordres')\ndef f(event): ...\n")
    result = call(served, "effects", str(tmp_path / "typo.py"), "--state", state, "--once")
    assert result.code == 1 and "did you mean orders" in result.err
    other = tmp_path / "text.db"
    other.write_text("this is no database, whatever its name says" * 99)
    result = call(served, "effects", module, "--state", str(other), "--once")
    assert result.code == 4 and "no state of effects" in result.err


def test_an_effect_that_stops_says_where_and_goes_on_later(
    served: Served, world: World, state: str, tmp_path: Path
) -> None:
    path = tmp_path / "stops.py"
    path.write_text(
        "from tidegrid.triggers import effect\n\n@effect(on='orders', retries=0)\n"
        "def mail(event):\n    raise OSError('the line is down')\n"
    )
    assert call(served, "effects", str(path), "--state", state, "--once").code == 0
    order(served, "stop", 1, 1)
    for _ in range(2):
        result = call(served, "effects", str(path), "--state", state, "--once", "--json")
        assert result.code == 1 and result.error["code"] == "EFFECT_FAILED"
        assert "line 5: OSError: the line is down" in result.error["message"]
        assert result.error["fields"]["tries"] == 1
