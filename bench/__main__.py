"""`python -m bench`: Montana beside coturn, PostgreSQL and aiohttp, measured on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench import api as local_socket
from bench import gsm as modems
from bench import report as reports
from bench import signaling as calls
from bench import sms as text_messages
from bench import suites
from bench.ledger import FULL, QUICK, check_disk, measure_ledger, new_report
from bench.ledger_plot import ledger_plots
from bench.machine import this_machine
from bench.plot import plots
from bench.process import GENERATOR_CORE, allow_many_descriptors, have_two_cores, use_core
from bench.report import Report
from bench.servers import COTURN, MONTANA, coturn_is_installed, running
from bench.soak import soak as run_soak
from core.errors import MontanaError

FOLDER = Path(__file__).parent
LATEST = FOLDER / "results" / "latest.json"
KEPT = FOLDER / "RESULTS.json"
PLOTS = FOLDER / "plots"

EXAMPLES = """
\b
Examples:
  python -m bench                      everything, about 50 minutes
  python -m bench --quick              everything, roughly, in 6 minutes
  python -m bench table --quick        what must be reached, alone
  python -m bench roundtrip --json     latencies, as JSON
  python -m bench matrix --server coturn
  python -m bench ledger --quick       the ledger, beside PostgreSQL
  python -m bench signaling --quick    rooms and calls, beside aiohttp
  python -m bench api --quick          requests over the node's socket
  python -m bench gsm --quick          32 modems and the bridge that serves them
  python -m bench sms --quick          SMS commands by Twilio's webhook
  python -m bench soak --minutes 10
  python -m bench report               the last full run as Markdown
"""

TABLE: Sequence[Callable[[suites.Plan], list[suites.Cell]]] = (
    suites.steady,
    suites.saturated,
    suites.maximum,
    suites.lossless,
)


def recording(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that measures."""
    for option in (
        click.option("--keep", is_flag=True, help="Write bench/RESULTS.json and the plots too."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables."),
        click.option("--quick", is_flag=True, help="A short run with rough figures."),
    ):
        command = option(command)
    return command


def measuring(command: Callable[..., None]) -> Callable[..., None]:
    """The options of those that measure servers."""
    choose = click.option(
        "--server",
        "servers",
        multiple=True,
        type=click.Choice([COTURN, MONTANA]),
        help="Measure this server alone.",
    )
    return recording(choose(command))


@click.group(invoke_without_command=True, epilog=EXAMPLES)
@measuring
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """Measure Montana beside coturn, both on the same core in turn, driven from another; its ledger
    beside PostgreSQL, and its rooms and calls beside aiohttp."""
    if context.invoked_subcommand is None:
        _measure(
            [*TABLE, suites.round_trip, suites.matrix],
            costs=True,
            ledger=True,
            signaling=True,
            api=True,
            gsm=True,
            sms=True,
            **options,
        )
    elif any(options.values()):
        raise click.UsageError(f"options come after the word {context.invoked_subcommand}")


@main.command()
@measuring
def table(**options: Any) -> None:
    """What must be reached: CPU a packet, saturation, loss, round trip, allocations."""
    _measure([*TABLE, suites.round_trip], costs=True, **options)


@main.command()
@measuring
def matrix(**options: Any) -> None:
    """Packets delivered when saturated, over modes, bursts, sizes and allocations."""
    _measure([suites.matrix], costs=False, **options)


@main.command()
@measuring
def roundtrip(**options: Any) -> None:
    """Round trips at steady rates."""
    _measure([suites.round_trip], costs=False, **options)


@main.command()
@measuring
def allocations(**options: Any) -> None:
    """CPU and memory an allocation, allocations a second."""
    _measure([], costs=True, **options)


@main.command()
@recording
def ledger(**options: Any) -> None:
    """The ledger: ticks, starts, transfers beside PostgreSQL, memory, the relay with metering."""
    _measure([], costs=False, ledger=True, servers=(MONTANA,), **options)


@main.command()
@recording
def signaling(**options: Any) -> None:
    """Rooms and calls: messages and memory beside aiohttp, answers in Chromium, set-ups, calls
    while the ledger ticks."""
    _measure([], costs=False, signaling=True, servers=(MONTANA,), **options)


@main.command()
@recording
def api(**options: Any) -> None:
    """Requests over the node's socket: those that it answers at once, and durable transfers."""
    _measure([], costs=False, api=True, servers=(MONTANA,), **options)


@main.command()
@recording
def gsm(**options: Any) -> None:
    """32 emulated modems at 115,200 baud: a message a second each, answered or not; a backlog."""
    _measure([], costs=False, gsm=True, servers=(MONTANA,), **options)


@main.command()
@recording
def sms(**options: Any) -> None:
    """SMS commands through Twilio's webhook, answered and paid for, node and bridge on one core."""
    _measure([], costs=False, sms=True, servers=(MONTANA,), **options)


@main.command()
@click.option("--minutes", type=click.FloatRange(min=0.05), default=10.0, show_default=True)
@click.option("--server", type=click.Choice([COTURN, MONTANA]), default=MONTANA, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a summary.")
def soak(minutes: float, server: str, as_json: bool) -> None:
    """50,000 packets a second over 200 allocations that come and go; status 1 where packets are
    lost, memory grows or descriptors are left."""
    _prepare()
    try:
        with running(server) as started:
            result = run_soak(started, seconds=minutes * 60, say=_say)
    except MontanaError as error:
        raise click.ClickException(str(error)) from error
    complaints = result.complaints()
    if as_json:
        click.echo(json.dumps({**asdict(result), "complaints": complaints}, indent=1))
    else:
        before, after = (size / 2**20 for size in result.memory_bytes)
        click.echo(
            f"{result.seconds:,.0f} s: {result.sent:,} packets, {result.lost:,} lost, "
            f"{result.churned:,} allocations closed under traffic; resident memory "
            f"{before:.2f} to {after:.2f} MiB ({result.growth_a_minute_bytes / 1024:+.1f} KiB a "
            f"minute); descriptors {result.descriptors[0]} to {result.descriptors[1]}"
        )
    for complaint in complaints:
        click.echo(complaint, err=True)
    if complaints:
        raise SystemExit(1)


@main.command()
@click.option(
    "--results",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Which run; without it the last one, or else the one that is kept.",
)
@click.option("--plots", "folder", type=click.Path(path_type=Path), help="Write SVG plots there.")
def report(results: Path | None, folder: Path | None) -> None:
    """The tables of a run as Markdown."""
    chosen = results or (LATEST if LATEST.exists() else KEPT)
    if not chosen.exists():
        raise click.ClickException(f"{chosen} is not there; run: python -m bench")
    loaded = reports.load(chosen)
    if folder is not None:
        _write_plots(loaded, folder)
    click.echo(reports.as_markdown(loaded), nl=False)


def _measure(
    chosen: Sequence[Callable[[suites.Plan], list[suites.Cell]]],
    *,
    costs: bool,
    ledger: bool = False,
    signaling: bool = False,
    api: bool = False,
    gsm: bool = False,
    sms: bool = False,
    quick: bool,
    servers: tuple[str, ...],
    as_json: bool,
    keep: bool,
) -> None:
    names = list(dict.fromkeys(servers)) or [COTURN, MONTANA]
    if COTURN in names and not coturn_is_installed():
        if names == [COTURN]:
            raise click.ClickException("turnserver is missing; run: sudo apt install coturn")
        _say("turnserver is missing, so montana is measured alone; sudo apt install coturn")
        names.remove(COTURN)
    if (ledger or signaling or api or gsm or sms) and MONTANA in names:
        try:
            check_disk()
        except MontanaError as error:
            raise click.ClickException(str(error)) from error
    _prepare()
    plan = suites.Plan(servers=names, quick=quick, say=_say)
    made = Report(machine=this_machine(names), quick=quick)
    try:
        for suite in chosen:
            made.cells += suite(plan)
        if costs:
            made.costs = suites.allocations(plan)
        if ledger and MONTANA in names:
            made.ledger = new_report(quick=quick, say=_say)
            measure_ledger(made.ledger, QUICK if quick else FULL, _say)
        if signaling and MONTANA in names:
            made.signaling = calls.new_report(quick=quick)
            sizes = calls.QUICK if quick else calls.FULL
            calls.measure_signaling(made.signaling, sizes, _say)
        if api and MONTANA in names:
            made.api = local_socket.new_report(quick=quick)
            asked = local_socket.QUICK if quick else local_socket.FULL
            local_socket.measure_api(made.api, asked, _say)
        if gsm and MONTANA in names:
            load = modems.QUICK if quick else modems.FULL
            made.gsm = modems.new_report(load, quick=quick)
            modems.measure_gsm(made.gsm, load, _say)
        if sms and MONTANA in names:
            made.sms = text_messages.new_report(quick=quick)
            sent = text_messages.QUICK if quick else text_messages.FULL
            text_messages.measure_sms(made.sms, sent, _say)
    except MontanaError as error:
        raise click.ClickException(str(error)) from error
    finally:
        others = (made.ledger, made.signaling, made.api, made.gsm, made.sms)
        if made.cells or made.costs or any(others):
            reports.save(made, LATEST)
            _write_plots(made, LATEST.parent)
    if keep:
        kept = reports.merge(reports.load(KEPT), made) if KEPT.exists() else made
        reports.save(kept, KEPT)
        _write_plots(kept, PLOTS)
    if as_json:
        click.echo(json.dumps(reports.as_json(made), indent=1))
    else:
        click.echo("\n" + reports.as_text(made))
        click.echo(f"\nWritten: {LATEST} and plots beside it", err=True)


def _prepare() -> None:
    allow_many_descriptors()
    if not have_two_cores():
        _say("this machine has one core, which the generator shares: the figures mean little")
    use_core(GENERATOR_CORE)


def _write_plots(made: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots(made) | (ledger_plots(made.ledger) if made.ledger else {})
    for name, drawing in drawn.items():
        (folder / name).write_text(drawing)


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main(prog_name="python -m bench")
