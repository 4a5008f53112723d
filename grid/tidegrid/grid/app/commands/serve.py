"""`tidegrid serve`: runs a grid in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tidegrid.grid.app.config import ServeOptions, bytes_from, options_from
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, command, run_on_loop
from tidegrid.grid.app.output import Output
from tidegrid.grid.app.process import Stopping, freeze_gc, start_logging, tune_interpreter
from tidegrid.grid.version import version

if TYPE_CHECKING:
    from tidegrid.grid.app.serving import Serving
    from tidegrid.grid.runtime.local_grid import LocalGrid

_DATA, _NODES, _TIME, _NETWORK = "Data", "Nodes and code", "Time and history", "Network"


@command
def serve(
    call: Invocation,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIRECTORY", rich_help_panel=_DATA,
            help="Where the log is. Its disk's sync time is the write latency. \\[default: ./tidegrid-data]",
        ),
    ] = None,
    memory: Annotated[
        bool | None,
        typer.Option("--memory", rich_help_panel=_DATA, help="No disk: quickest, and all is gone with the process."),
    ] = None,
    checkpoint_bytes: Annotated[
        str | None,
        typer.Option(
            "--checkpoint-bytes", metavar="SIZE", rich_help_panel=_DATA,
            help="Logged between checkpoints. Less: faster restarts, more writing. \\[default: 512MiB]",
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes", metavar="N", rich_help_panel=_NODES,
            help="Nodes in this process, talking by gRPC. More: as a cluster behaves; one is quickest. \\[default: 1]",
        ),
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(
            "--partitions", metavar="N", rich_help_panel=_NODES,
            help="Fixed for ever at the first start. More can be dealt to more nodes. \\[default: 16]",
        ),
    ] = None,
    triggers: Annotated[
        list[str] | None,
        typer.Option(
            "--triggers", "-t", metavar="FILE_OR_MODULE", rich_help_panel=_NODES,
            help="Trigger code: flights.py, or an installed package.module. Repeatable; replaces what is deployed. "
            "Without it, what is deployed stays.",
        ),
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(
            "--watch", "-w", metavar="FILE_OR_MODULE", rich_help_panel=_NODES,
            help="For development: as --triggers, and deployed again whenever its files change. Repeatable.",
        ),
    ] = None,
    allow_deploy: Annotated[
        bool | None,
        typer.Option(
            "--allow-deploy", rich_help_panel=_NODES,
            help="Clients may deploy trigger code, which runs in this process: whoever reaches the port is trusted with all.",
        ),
    ] = None,
    allow_installed: Annotated[
        bool | None,
        typer.Option(
            "--allow-installed", rich_help_panel=_NODES,
            help="Clients may deploy code that is installed here with the same text, and no other.",
        ),
    ] = None,
    allow_hash: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-hash", metavar="HASH", rich_help_panel=_NODES,
            help="And code with this content hash, as a plan shows it. Repeatable; implies --allow-installed.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", rich_help_panel=_NODES,
            help='Processes at most for triggers with isolation="process", of all nodes together. More: more partitions '
            "at once. \\[default: 2]",
        ),
    ] = None,
    tick_ms: Annotated[
        float | None,
        typer.Option(
            "--tick-ms", metavar="MS", rich_help_panel=_TIME,
            help="Between closes of epochs. Shorter: changes are seen sooner; longer: less work. \\[default: 20]",
        ),
    ] = None,
    history_seconds: Annotated[
        float | None,
        typer.Option(
            "--history-seconds", metavar="S", rich_help_panel=_TIME,
            help="Old versions kept in memory for reads as of the past. Longer costs memory. \\[default: 3600]",
        ),
    ] = None,
    history_bytes: Annotated[
        str | None,
        typer.Option(
            "--history-bytes", metavar="SIZE", rich_help_panel=_TIME,
            help="And at most so much of them per node, whichever comes first. \\[default: 1GiB]",
        ),
    ] = None,
    hold_seconds: Annotated[
        float | None,
        typer.Option(
            "--hold-seconds", metavar="S", rich_help_panel=_TIME,
            help="The longest that a client may hold an epoch against both. See `tidegrid holds`. \\[default: 3600]",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="ADDRESS", rich_help_panel=_NETWORK,
            help="Where to listen. What other machines can reach needs all three --tls files. \\[default: 127.0.0.1]",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", metavar="PORT", rich_help_panel=_NETWORK,
            help="For clients; further nodes take the ports above it. 0 takes free ones. \\[default: 7411]",
        ),
    ] = None,
    peer_port: Annotated[
        int | None,
        typer.Option(
            "--peer-port", metavar="PORT", rich_help_panel=_NETWORK,
            help="For the other nodes, likewise. \\[default: --port + 1000]",
        ),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(
            "--advertise", metavar="NAME", rich_help_panel=_NETWORK,
            help="The name by which clients reach this machine, if it is not --host.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="PEM", rich_help_panel=_NETWORK, help="Certificate of this machine."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="PEM", rich_help_panel=_NETWORK, help="Its key.")
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca", metavar="PEM", rich_help_panel=_NETWORK,
            help="Clients and nodes have to show certificates that this authority signed.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="TOML", help="A file with these options; those given here win."),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            "--ready-file", metavar="FILE", help="Write process id and addresses there, as JSON, while it serves."
        ),
    ] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict", help="Run triggers twice, to find those that break their contract.")
    ] = None,
    verbose: Annotated[bool | None, typer.Option("--verbose", "-v", help="Log more, to stderr.")] = None,
) -> ExitCode:  # fmt: skip
    """Run a grid here: one or more nodes over one log.

    It serves until SIGTERM or Ctrl-C, then drains: new requests are refused, what is under way is finished and saved.
    A second signal ends at once. What was acknowledged is in the log either way.

    \b
    Examples:
      $ tidegrid serve
      $ tidegrid serve --triggers flights.py --data /var/lib/tidegrid
      $ tidegrid serve --watch flights.py --memory
      $ tidegrid serve --allow-deploy
      $ tidegrid serve --nodes 3 --port 7500
      $ tidegrid serve --memory --port 0 --ready-file grid.json
      $ tidegrid serve --config tidegrid.toml
      $ tidegrid serve --host 0.0.0.0 --advertise grid.example.org --tls-cert node.pem --tls-key node.key --tls-ca ca.pem

    \b
    tidegrid.toml has the same names:
      data = "/var/lib/tidegrid"
      triggers = \\["flights.py"]
      tick_ms = 10
    """
    given = {
        "data": data, "memory": memory, "nodes": nodes, "partitions": partitions, "tick_ms": tick_ms, "host": host,
        "triggers": tuple(triggers) if triggers else None, "history_seconds": history_seconds, "port": port,
        "history_bytes": None if history_bytes is None else bytes_from(history_bytes), "peer_port": peer_port,
        "hold_seconds": hold_seconds, "watch": tuple(watch) if watch else None,
        "deploy": "on" if allow_deploy else "installed" if allow_installed or allow_hash else None,
        "deploy_hashes": tuple(allow_hash) if allow_hash else None,
        "checkpoint_bytes": None if checkpoint_bytes is None else bytes_from(checkpoint_bytes), "advertise": advertise,
        "tls_cert": tls_cert, "tls_key": tls_key, "tls_ca": tls_ca, "ready_file": ready_file, "verbose": verbose,
        "strict": strict, "workers": workers,
    }  # fmt: skip
    options = options_from(config, given)
    start_logging(options.verbose)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a port in use is told in our words
    tune_interpreter()
    return run_on_loop(_serve(call.output, options))


async def _serve(output: Output, options: ServeOptions) -> ExitCode:
    from tidegrid.grid.app.recovery_progress import RecoveryProgress
    from tidegrid.grid.app.serving import serve as serving_grid

    stopping = Stopping(
        lambda name: output.note(f"{name}: finishing what is under way, then saving (once more ends at once) ...")
    )
    stopping.install()
    output.answer(
        f"tidegrid {version()}, {'in memory only' if options.memory else f'data in {options.data.absolute()}'}"
    )
    output.flush()
    async with contextlib.AsyncExitStack() as stack:
        progress = RecoveryProgress(output)
        try:
            with stopping.cancels_this_task():
                serving = await stack.enter_async_context(serving_grid(options, progress=progress))
        except asyncio.CancelledError:
            if not stopping.requested.is_set():
                raise
            output.note("stopped before it was ready")
            return ExitCode.OK
        finally:
            progress.end()
        freeze_gc()
        watching: asyncio.Task[None] | None = None
        if options.watch:
            from tidegrid.grid.app.watching import Watch

            watch = Watch(options.watch, serving.grid, serving.deploying, output.note)
            await watch.deploy()
            watching = asyncio.create_task(watch.run())
        _announce(output, serving)
        try:
            await _until_stopped(stopping, serving.grid)
        finally:
            if watching is not None:
                watching.cancel()
    output.note("stopped")
    return ExitCode.OK


async def _until_stopped(stopping: Stopping, grid: LocalGrid) -> None:
    """Raises what made the grid fail."""
    waits = [asyncio.create_task(event.wait()) for event in (stopping.requested, grid.failed)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if grid.failure is not None:
        raise grid.failure


def _announce(output: Output, serving: Serving) -> None:
    if output.as_json:
        output.record(serving.describe())
        output.flush()
        return
    control = serving.grid.drivers[0].node.control
    entries = sum(
        table.live_count
        for driver in serving.grid.drivers
        for partition in driver.node.partitions.values()
        for table in partition.tables.values()
    )
    for node in serving.nodes:
        output.answer(f"  node {node.node}: {node.address}")
    deployed = control.deployments[-1] if control.deployments else None
    if deployed is not None:
        output.answer(f"  triggers: {', '.join(name for name, _ in deployed.modules) or 'none'}")
    output.answer(f"  {len(control.declared)} maps, {entries:,} entries, {control.partitions} partitions")
    output.answer("ready")
    output.flush()
