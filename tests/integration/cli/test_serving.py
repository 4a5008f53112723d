"""serve: starting, ending, and what it refuses; verify on what it leaves."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest
from tidegrid.grid.app.main import app
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch
from typer.testing import CliRunner

from tests.integration.cli.conftest import Result, Served, call


def local(*arguments: str) -> Result:
    """A command that ends by itself, run here."""
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


def refused(server: Served, *options: str) -> tuple[int, str]:
    """Exit code and stderr of a serve that does not start."""
    with pytest.raises(pytest.fail.Exception) as failed:
        server.start(*options)
    assert server.process is not None
    code = server.process.wait()
    server.process = None
    return code, str(failed.value).removeprefix("serve ended: ")


def test_sigterm_drains_and_a_restart_has_everything(fresh: Served) -> None:
    ready_file = fresh.directory / "ready.json"
    fresh.start("--nodes", "2", "--triggers", "shop.py", "--ready-file", "ready.json", "--data", "data")
    assert json.loads(ready_file.read_text()) == fresh.ready
    assert fresh.process is not None and fresh.ready["pid"] == fresh.process.pid
    assert {node["node"] for node in fresh.ready["nodes"]} == {0, 1}
    grid = fresh.ready["grid"]
    acks = {key: call(fresh, "put", "shops", key, f'"{key}"', "--json").record for key in ("a", "b", "c")}
    code, errors = fresh.stop(signal.SIGTERM)
    assert code == 0
    assert "SIGTERM" in errors and "stopped" in errors and "Traceback" not in errors
    assert not ready_file.exists()
    assert call(fresh, "get", "shops", "a", "--deadline", "0.2").code == 3

    fresh.start("--data", "data")  # other nodes, no triggers named: the maps and the code are in the log
    assert fresh.ready["grid"] == grid
    for key, ack in acks.items():
        got = call(fresh, "get", "shops", key, "--json").record
        assert (got["value"], got["version"], got["epoch"]) == (key, ack["version"], ack["epoch"])
    assert call(fresh, "put", "orders.raw", "x,1", '{"amount": "1"}').code == 0
    assert call(fresh, "get", "orders", "x,1").code == 0
    assert fresh.stop(signal.SIGINT)[0] == 0


def test_kill_9_keeps_what_was_acknowledged(fresh: Served) -> None:
    fresh.start("--triggers", "shop.py", "--data", "data")
    for number in range(5):
        assert call(fresh, "put", "orders.raw", f"kill,{number}", '{"amount": "1"}').code == 0
    fresh.stop(signal.SIGKILL)
    fresh.start("--data", "data")
    rows = call(fresh, "scan", "orders", "--json").records
    assert [(row["key"], row["version"]) for row in rows] == [(["kill", number], 1) for number in range(5)]


def test_one_directory_and_one_port_for_one_process(fresh: Served, tmp_path: Path) -> None:
    fresh.start("--data", "data", "--triggers", "shop.py")
    second = Served(tmp_path)
    code, errors = refused(second, "--data", "data")
    assert code == 6 and "in use by another process" in errors and "Traceback" not in errors
    code, errors = refused(second, "--data", "other", "--port", fresh.address.rpartition(":")[2])
    assert code == 6 and "choose another --port" in errors
    assert local("verify", str(tmp_path / "data")).code == 6
    assert call(fresh, "put", "shops", "x", "1").code == 0


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--triggers", "none.py"], 2, "no file none.py"),
        (["--triggers", "no.such.module"], 2, "not an installed module"),
        (["--triggers", "broken.py"], 2, "line 2"),
        (["--triggers", "syntax.py"], 2, "line 1"),
        (["--host", "0.0.0.0", "--advertise", "example.org"], 2, "--tls-cert"),
        (["--host", "192.0.2.1"], 2, "--tls-cert"),
        (["--tls-cert", "none.pem"], 2, "--tls-key"),
        (["--tls-cert", "none.pem", "--tls-key", "none.pem"], 2, "none.pem"),
        (["--partitions", "2", "--nodes", "3"], 2, "share"),
        (["--nodes", "0"], 2, "nodes is 0"),
        (["--workers", "0"], 2, "workers is 0"),
        (["--tick-ms", "0"], 2, "tick_ms"),
        (["--history-bytes", "much"], 2, "no size"),
        (["--config", "none.toml"], 2, "none.toml"),
        (["--config", "bad.toml"], 2, "did you mean port"),
        (["--ready-file", "nowhere/ready.json"], 2, "nowhere/ready.json"),
        (["--data", "shop.py"], 2, "shop.py"),
    ],
)
def test_what_serve_refuses(fresh: Served, options: list[str], code: int, says: str) -> None:
    (fresh.directory / "broken.py").write_text("x = 1\nraise ValueError('no')\n")
    (fresh.directory / "syntax.py").write_text("def\n")
    (fresh.directory / "bad.toml").write_text("prot = 1\n")
    data = [] if "--data" in options else ["--memory"]
    got, errors = refused(fresh, *options, *data)
    assert got == code and says in errors and "Traceback" not in errors


def test_partitions_are_for_ever(fresh: Served) -> None:
    fresh.start("--data", "data", "--partitions", "4")
    assert fresh.ready["partitions"] == 4
    fresh.stop()
    code, errors = refused(fresh, "--data", "data", "--partitions", "8")
    assert code == 2 and "created with 4 partitions" in errors
    fresh.start("--data", "data")


def test_a_configuration_file_from_another_folder(fresh: Served, tmp_path: Path) -> None:
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir()
    (elsewhere / "grid.toml").write_text('data = "log"\ntriggers = ["../shop.py"]\npartitions = 2\n')
    fresh.start("--config", str(elsewhere / "grid.toml"))
    assert fresh.ready["data"] == str(elsewhere / "log") and fresh.ready["partitions"] == 2
    assert call(fresh, "get", "shops", "x").code == 1


def test_memory_leaves_nothing(fresh: Served) -> None:
    fresh.start("--memory", "--triggers", "shop.py")
    assert call(fresh, "put", "shops", "x", "1").code == 0
    assert fresh.ready["data"] is None
    assert fresh.stop()[0] == 0
    assert {path.name for path in fresh.directory.iterdir()} == {"shop.py"}


async def compacted_log(directory: Path) -> None:
    log = await LocalLog.open(directory, options=LocalLogOptions(segment_bytes=8192, compact_rest_seconds=0.0))
    for number in range(200):
        await log.append([Entry(CONTROL_LOG, await log.tail(CONTROL_LOG), Epoch(number), bytes(100))])
    await log.compact(CONTROL_LOG, await log.tail(CONTROL_LOG), lambda records: bytes(len(list(records))))
    await log.close()


def test_verify_tells_how_many_segments_are_compacted(tmp_path: Path) -> None:
    asyncio.run(compacted_log(tmp_path))
    report = local("verify", str(tmp_path), "--json").record
    assert report["whole"] and report["compacted"] == report["segments"] - 1 > 2
    assert f"segments ({report['compacted']} of them compacted)," in local("verify", str(tmp_path)).out


def test_verify_and_a_damaged_log(fresh: Served) -> None:
    data = fresh.directory / "data"
    assert local("verify", str(data)).code == 2
    fresh.start("--data", "data", "--triggers", "shop.py")
    for number in range(20):
        call(fresh, "put", "shops", f"shop {number}", '{"town": "Oslo"}')
    fresh.stop()
    assert local("verify", str(data)).out.endswith("the log is whole\n")
    report = local("verify", str(data), "--json").record
    assert report["whole"] and report["records"] > 20 and report["problems"] == []

    (segment,) = data.glob("*.wal")
    content = bytearray(segment.read_bytes())
    at = content.index(b"shop 3")
    content[at] ^= 1
    segment.write_bytes(content)
    damaged = local("verify", str(data), "--json")
    assert damaged.code == 4
    (problem,) = damaged.record["problems"]
    assert problem["file"] == str(segment) and 0 < problem["offset"] <= at
    people = local("verify", str(data))
    assert people.code == 4 and f"{segment} at byte" in people.out and "restore" in people.out

    for checkpoint in data.glob("*.checkpoint"):
        checkpoint.unlink()
    code, errors = refused(fresh, "--data", "data")
    assert code == 4 and segment.name in errors and str(problem["offset"]) in errors.replace(",", "")
    assert segment.read_bytes() == content


def test_versions() -> None:
    assert local("version").out.startswith("tidegrid ")
    assert local("version", "--json").record.keys() == {"tidegrid", "python", "grpcio"}
