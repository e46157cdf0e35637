"""What a run says, and does, about tests that it could not run.

Tests that need coturn, Chromium or gammu skip where those are not installed. That has to be seen:
the summary names every reason, and with CI=true a run in which anything was skipped has failed.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy with something else is no mistake of ours.
settings.register_profile("montana", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("montana")


BROWSER = Path(__file__).parent / "browser"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What workers take, with ``--dist loadgroup``: a file whole, and one of them all that drives
    a browser, from the beginning on. Two browsers at once leave each other no time."""
    items.sort(key=lambda item: BROWSER not in item.path.parents)
    for item in items:
        group = "browser" if BROWSER in item.path.parents else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


def skip_reasons(config: pytest.Config) -> Counter[str]:
    """How many tests were skipped, by reason."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return Counter()
    return Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        if isinstance(report.longrepr, tuple)
        else str(report.longrepr)
        for report in reporter.stats.get("skipped", [])
    )


def skip_is_failure() -> bool:
    """Whether this run has to be a whole one."""
    return os.environ.get("CI") == "true"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that has to be whole and was not."""
    if skip_is_failure() and skip_reasons(session.config) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which tests did not run, and what would let them."""
    reasons = skip_reasons(config)
    if not reasons:
        return
    terminalreporter.section("not everything was tested")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count} skipped: {reason}")
    terminalreporter.line(
        "What the tests need of the distribution: sudo apt install coturn chromium gammu gammu-smsd"
    )
    if skip_is_failure():
        terminalreporter.line("CI=true: a skipped test is a failure.", red=True)
