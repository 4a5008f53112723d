"""`serve --watch`: trigger code that is deployed again whenever its files change, for development.

What cannot be deployed (a syntax error in the middle of an edit, a map of another kind) is said, and the code that is
deployed goes on; the next change is tried anew. Nothing here ends the grid.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from tidegrid.grid.app.plan_report import finding_line, plan_lines, plan_summary, short
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.rpc.deploying import Deploying
from tidegrid.grid.runtime.deployments import this_user
from tidegrid.grid.runtime.local_grid import LocalGrid
from tidegrid.triggers.deployment import content_hash
from tidegrid.triggers.packages import files_of, find_sources

POLL_SECONDS: Final = 0.3
SETTLED_SECONDS: Final = 0.1
_LOOK_MS: Final = 1_000  # and now and then all the same: what changed before the system was asked to tell, it does not
_SAMPLE: Final = 100
_DEPLOY_SECONDS: Final = 30.0
_log = logging.getLogger(__name__)

Fingerprint = dict[Path, tuple[int, int]]
"""File -> (time of its last change, size)"""


class Watch:
    """`say` takes a line for people."""

    def __init__(self, names: Sequence[str], grid: LocalGrid, deploying: Deploying, say: Callable[[str], None]) -> None:
        self._names = names
        self._grid = grid
        self._deploying = deploying
        self._say = say
        self._known = fingerprint(names)
        self._refused = False

    async def run(self) -> None:
        async for _ in _hints(self._names):
            now = fingerprint(self._names)
            if now == self._known:
                continue
            while (later := await self._later()) != now:  # an editor is in the middle of writing
                now = later
            if now != self._known:
                self._known = now
                await self.deploy()

    async def _later(self) -> Fingerprint:
        await asyncio.sleep(SETTLED_SECONDS)
        return fingerprint(self._names)

    async def deploy(self) -> None:
        """What the files say now; never raises what is the matter with them."""
        was_refused, self._refused = self._refused, True
        try:
            deployed = await self._deploy()
        except GridError as error:
            self._say(f"not deployed: {error.message}")
        except Exception as error:
            _log.exception("watch")
            self._say(f"not deployed: {error!r}")
        else:
            self._refused = False
            if was_refused and not deployed:
                self._say("the files say what is deployed again")

    async def _deploy(self) -> bool:
        """False: it is deployed already."""
        modules = find_sources(self._names)
        self._grid.own_code.add(content_hash(modules))
        plan = await self._deploying.plan(modules, _SAMPLE, _DEPLOY_SECONDS)
        if plan.unchanged:
            return False
        for finding in plan.findings:
            self._say(finding_line(finding))
        reply = await self._deploying.activate(modules, f"{this_user()}, --watch", plan.id, _DEPLOY_SECONDS)
        self._say(f"deployed {short(plan.hash)} from epoch {reply.acts_at:,} on: {plan_summary(plan)}")
        if plan.replaces:
            for line in plan_lines(plan):
                if line.startswith("    "):  # examples
                    self._say(line)
        return True


def fingerprint(names: Sequence[str]) -> Fingerprint:
    found: Fingerprint = {}
    for path in files_of(names):
        try:
            status = path.stat()
        except OSError:  # being replaced
            continue
        found[path] = (status.st_mtime_ns, status.st_size)
    return found


async def _hints(names: Sequence[str]) -> AsyncIterator[None]:
    """Yields when something may have changed: told by the system with `watchfiles` installed, else now and then."""
    folders = {path.parent for path in files_of(names)}
    if importlib.util.find_spec("watchfiles") is None or not folders or not all(path.is_dir() for path in folders):
        while True:
            await asyncio.sleep(POLL_SECONDS)
            yield
    watch = importlib.import_module("watchfiles").awatch
    told: AsyncIterator[object] = watch(*folders, debounce=200, rust_timeout=_LOOK_MS, yield_on_timeout=True)
    async for _ in told:
        yield
