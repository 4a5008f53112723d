"""`tidegrid deploy`: trigger code into a running grid."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from tidegrid.grid.app.confirmation import confirmed
from tidegrid.grid.app.exit_codes import ExitCode
from tidegrid.grid.app.invocation import Invocation, client_command
from tidegrid.grid.model.errors import ConfigurationError

if TYPE_CHECKING:
    from tidegrid.v1 import grid_pb2

SAMPLE_WRITES = 200


@client_command()
async def deploy(
    call: Invocation,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE_OR_MODULE", show_default=False,
            help="flights.py, a folder with __init__.py, or an installed package.module; together they replace what is "
            "deployed. With --rollback: the hash of the deployment to go back to.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: deploy what the plan says.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show the plan, and leave it at that.")] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Deploy the content of an earlier deployment again: of HASH, or the one before.")
    ] = False,
    sample: Annotated[
        int,
        typer.Option("--sample", metavar="N", min=0, help="Try it on about N recent writes to each map, for the plan."),
    ] = SAMPLE_WRITES,
    by: Annotated[
        str | None, typer.Option("--by", metavar="TEXT", help="Who deploys, for the list. \\[default: you@this-host]")
    ] = None,
) -> ExitCode:  # fmt: skip
    """Replace the trigger code of the grid: first a plan, then all nodes change to it at one epoch.

    The plan shows which triggers and maps change, who follows them, and what the newest writes would become. A node
    that cannot load the code ends it before anything has changed. The grid has to allow it: serve --allow-deploy.

    \b
    Examples:
      $ tidegrid deploy flights.py
      $ tidegrid deploy flights.py --dry-run
      $ tidegrid deploy rules/ --yes --by "release 41"
      $ tidegrid deploy --rollback
      $ tidegrid deploy --rollback 8a1b3c4d --yes
      $ tidegrid deploy flights.py --dry-run --json | jq .samples
    """
    from tidegrid.grid.app.plan_report import plan_lines, plan_record, short

    output, names = call.output, what or []
    if rollback and len(names) > 1:
        raise ConfigurationError("--rollback takes one hash, or none; `tidegrid deployments` lists them")
    if not rollback and not names:
        raise ConfigurationError("there is nothing to deploy; name a module, such as flights.py, or say --rollback")
    asks = not (yes or dry_run)
    shown = False

    def show(plan: grid_pb2.DeployPlan) -> None:
        nonlocal shown
        shown = True
        for line in plan_lines(plan):
            output.answer(line)
        output.flush()

    def confirm(plan: grid_pb2.DeployPlan) -> bool:
        show(plan)
        if asks and (output.as_json or not sys.stdin.isatty()):
            raise ConfigurationError("nobody can be asked here; say --yes to deploy this, or --dry-run to see the plan")
        return not asks or confirmed("deploy this?")

    async with call.connect() as grid:
        done = await grid.deploy(
            *names[: 0 if rollback else None], confirm=confirm, dry_run=dry_run, sample=sample, by=by,
            rollback=(names[0] if names else True) if rollback else False,
        )  # fmt: skip
    plan, refused = done.plan, any(verdict.HasField("error") for verdict in done.plan.nodes)
    if not shown:
        show(plan)
    if output.as_json:
        output.record({**plan_record(plan), "deployed": done.epoch is not None, "acts_at": done.epoch})
    if plan.unchanged:
        output.answer(f"this is deployed already: {short(plan.hash)}")
        return ExitCode.OK
    if done.epoch is None:
        output.note("nothing was deployed" + (": this was a dry run" if dry_run else ""))
        return ExitCode.OK if dry_run and not refused else ExitCode.REFUSED
    output.answer(f"deployed {short(plan.hash)}: every node runs it from epoch {done.epoch:,} on")
    return ExitCode.OK
