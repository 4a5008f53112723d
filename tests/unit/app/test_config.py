"""Configuration: the file and the command line, together and each alone, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tidegrid.grid.app.config import ServeOptions, bytes_from, options_from, read_config
from tidegrid.grid.app.serving import grid_options
from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.grid.runtime.pool import WorkerOptions


def test_the_defaults_are_valid() -> None:
    assert options_from(None, {}) == ServeOptions()
    assert ServeOptions().first_peer_port == 8411
    assert ServeOptions(port=0).first_peer_port == 0
    assert ServeOptions(port=7411, peer_port=0).validate().first_peer_port == 0


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text('port = 7500\ntick-ms = 10\nhistory_bytes = "2GiB"\nmemory = true\n')
    options = options_from(file, {"port": 7600, "nodes": None})
    assert (options.port, options.nodes, options.tick_ms, options.memory) == (7600, 1, 10.0, True)
    assert options.history_bytes == 2 << 30


def test_worker_processes_are_those_of_the_grid(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text("workers = 5\n")
    for given, count in (({}, 5), ({"workers": 3}, 3)):
        assert grid_options(options_from(file, given)).workers.count == count
    assert grid_options(ServeOptions()).workers == WorkerOptions()
    with pytest.raises(ConfigurationError, match="workers is 0; it lies between 1 and 256"):
        grid_options(ServeOptions(workers=0))


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text('data = "log"\ntls_ca = "/etc/ca.pem"\ntriggers = ["flights.py", "code/x.py", "package.module"]\n')
    fields = read_config(file)
    assert fields["data"] == tmp_path / "log"
    assert fields["tls_ca"] == Path("/etc/ca.pem")
    assert fields["triggers"] == (str(tmp_path / "flights.py"), str(tmp_path / "code/x.py"), "package.module")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 7500", "did you mean port"),
        ("zzz = 1", "it takes data"),
        ('port = "7500"', "port is of type int"),
        ("port = true", "port is of type int"),
        ("tick_ms = false", "tick_ms is of type float"),
        ("memory = 1", "memory is of type bool"),
        ("data = 1", "data is of type path"),
        ("triggers = [1]", "triggers is of type tuple"),
        ('history_bytes = "much"', "no size"),
        ("port = ", "not TOML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        read_config(file)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'data = "\xe9"')
    with pytest.raises(ConfigurationError, match="UTF-8"):
        read_config(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (ServeOptions(port=70_000), "port is 70000"),
        (ServeOptions(port=-1), "port is -1"),
        (ServeOptions(port=65_535, peer_port=100, nodes=2), "port is 65535"),
        (ServeOptions(port=7411, peer_port=7412, nodes=3), "overlap"),
        (ServeOptions(port=7411, peer_port=7411), "overlap"),
        (ServeOptions(host="0.0.0.0"), "advertise"),
        (ServeOptions(tick_ms=0), "tick_ms is 0"),
        (ServeOptions(checkpoint_bytes=0), "checkpoint_bytes"),
    ],
)
def test_what_cannot_be_is_refused(options: ServeOptions, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        options.validate()


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), (4096, 4096), ("512MiB", 512 << 20), ("1.5g", 3 << 29), ("64 kb", 64 << 10), ("1T", 1 << 40)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert bytes_from(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 furlong", "1,000"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no size"):
        bytes_from(text)
