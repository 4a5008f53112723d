"""Configuration of `tidegrid serve`: one frozen dataclass, from a TOML file, the command line, or both.

The names in the file are the names of the fields, with `_` or `-`; an option given on the command line wins. Paths in
a file are relative to the file, so that it means the same from everywhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tidegrid.grid.model.errors import ConfigurationError

PORT_MAX: Final = 65_535
PEER_PORT_OFFSET: Final = 1_000
_WILDCARDS: Final = ("0.0.0.0", "::", "[::]", "")
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LISTS: Final = ("triggers", "watch", "deploy_hashes")
_BYTES: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    data: Path = Path("tidegrid-data")  # the log's directory: a disk with quick syncs makes quick writes
    memory: bool = False  # no disk: fastest, and all is gone with the process
    host: str = "127.0.0.1"  # an address others can reach needs TLS with certificates of clients
    port: int = 7411  # of node 0, for clients; node n listens n higher. 0: free ones
    peer_port: int | None = None  # of node 0, for the other nodes; None: port + 1000, or free ones when port is 0
    advertise: str | None = None  # the name by which clients and nodes reach this machine; None: host
    nodes: int = 1  # more: the work of one process is dealt to several owners, as in a cluster; one is fastest here
    partitions: int | None = None  # fixed for ever at the first start (16): more spread over more nodes, cost memory
    triggers: tuple[str, ...] = ()  # none: what is deployed stays
    watch: tuple[str, ...] = ()  # for development: as triggers, and deployed again when the files change
    deploy: str = "off"  # on: clients may deploy code; installed: only what is on the nodes, or in deploy_hashes
    deploy_hashes: tuple[str, ...] = ()  # of deployments that "installed" lets through too, as a plan shows them
    workers: int = 2  # processes at most for triggers with isolation="process": more compute more partitions at once
    tick_ms: float = 20.0  # between closes of epochs: shorter shows changes sooner, longer costs less when idle
    history_seconds: float = 3600.0  # versions kept in memory for as-of reads: longer costs memory
    history_bytes: int = 1 << 30  # and at most so much of them, per node
    hold_seconds: float = 3600.0  # a client may hold an epoch against both, for so long at most
    checkpoint_bytes: int = 512 << 20  # written between checkpoints: less makes restarts faster, and writes more
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None  # clients and nodes have to show certificates that it signed
    ready_file: Path | None = None  # JSON with process id and addresses, there while the grid serves
    strict: bool = False  # triggers run twice, to find those that break their contract: for development
    verbose: bool = False  # the log of the process says more

    def validate(self) -> ServeOptions:
        """Returns itself. Raises ConfigurationError."""
        for name, port in (("port", self.port), ("peer_port", self.first_peer_port)):
            if not 0 <= port <= PORT_MAX or (port and port + self.nodes - 1 > PORT_MAX):
                raise ConfigurationError(
                    f"{name} is {port} for {self.nodes} node(s); ports lie between 1 and {PORT_MAX}, 0 takes free ones"
                )
        first, second = sorted((self.port, self.first_peer_port))
        if first and second - first < self.nodes:
            raise ConfigurationError(
                f"the ports of clients (from {self.port}) and of nodes (from {self.first_peer_port}) overlap; leave {self.nodes} between them"
            )
        if self.host in _WILDCARDS and not self.advertise:
            raise ConfigurationError(
                f"host {self.host!r} is every address of this machine; say with advertise (--advertise NAME) by which one clients reach it"
            )
        if not 1 <= self.tick_ms <= 60_000:
            raise ConfigurationError(f"tick_ms is {self.tick_ms:g}; it lies between 1 and 60000 milliseconds")
        if self.history_bytes < 0 or self.checkpoint_bytes < 1:
            raise ConfigurationError("history_bytes is 0 or more, checkpoint_bytes is 1 or more")
        if self.deploy not in ("off", "on", "installed"):
            raise ConfigurationError(f"deploy is {self.deploy!r}; it is off, on or installed")
        if self.deploy_hashes and self.deploy != "installed":
            raise ConfigurationError(
                'deploy_hashes (--allow-hash) go with deploy = "installed" (--allow-installed) alone'
            )
        if self.watch and self.triggers:
            raise ConfigurationError(
                "give either triggers (--triggers) or watch (--watch): watched code is deployed, too"
            )
        if self.hold_seconds < 0:
            raise ConfigurationError("hold_seconds is 0 or more")
        return self

    @property
    def first_peer_port(self) -> int:
        if self.peer_port is not None:
            return self.peer_port
        return self.port + PEER_PORT_OFFSET if self.port else 0


def read_config(path: Path) -> dict[str, Any]:
    """The fields that the file sets, each of its type. Raises ConfigurationError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the configuration {path} is not UTF-8 text; save it as UTF-8") from None
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    return {name: _place(name, value, path) for name, value in _fields(parsed, path).items()}


def options_from(path: Path | None, given: Mapping[str, Any]) -> ServeOptions:
    """Options of the file, overridden by what was given (None: not given). Raises ConfigurationError."""
    fields = read_config(path) if path is not None else {}
    fields.update((name, value) for name, value in given.items() if value is not None)
    return ServeOptions(**fields).validate()


def bytes_from(text: str | int) -> int:
    """`512MiB`, `1.5g`, `4096`. Raises ConfigurationError."""
    matched = _BYTES.fullmatch(str(text).strip())
    if matched is None:
        raise ConfigurationError(f"{text!r} is no size; write a number of bytes, or 512MiB, 2GiB")
    return int(float(matched[1]) * _UNITS[matched[2].lower()])


def _fields(parsed: Mapping[str, Any], path: Path) -> dict[str, Any]:
    kinds = {field.name: str(field.type) for field in dataclasses.fields(ServeOptions)}
    fields: dict[str, Any] = {}
    for given, value in parsed.items():
        name = given.replace("-", "_")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(kinds)}"
            raise ConfigurationError(f"{path}: there is no option {given!r}; {hint}")
        fields[name] = _typed(name, kinds[name], value, path)
    return fields


def _typed(name: str, kind: str, value: Any, path: Path) -> Any:
    if name in ("history_bytes", "checkpoint_bytes"):
        return bytes_from(value)
    if name in _LISTS:
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list) and all(isinstance(item, str) for item in names):
            return tuple(names)
    elif kind.startswith("Path") and isinstance(value, str):
        return Path(value)
    elif kind.startswith("float") and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif kind.split(" ")[0] == type(value).__name__:
        return value
    raise ConfigurationError(f"{path}: {name} is of type {kind.split(' ')[0].lower()}, not {value!r}")


def _place(name: str, value: Any, path: Path) -> Any:
    """Paths, those of trigger files too, as seen from the file."""
    if isinstance(value, Path):
        return path.parent / value
    if name in ("triggers", "watch"):
        return tuple(str(path.parent / item) if item.endswith(".py") or "/" in item else item for item in value)
    return value
