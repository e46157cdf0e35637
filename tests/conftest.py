"""What a run says, and does, about tests that it could not run.

Tests that need coturn, Chromium or gammu skip where those are not installed. That has to be seen:
the summary names every reason, and with CI=true a run in which anything was skipped has failed.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# A machine that is busy with something else is no mistake of ours.
settings.register_profile("montana", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("montana")


BROWSER = "tests/browser/"
LAST = ("tests/browser/test_check_page.py", "tests/browser/test_make_up.py")
"""Drive a browser less than others do. Whoever is done with the rest takes one of these, while the
worker of the browsers is still at it."""


class _Shares(LoadFileScheduling):
    """Of workers, each takes a file whole, and one of them all that drives a browser but `LAST`:
    two browsers at once leave each other little time."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(BROWSER) and not nodeid.startswith(LAST):
            return BROWSER
        return super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """How the tests are shared out, with ``--numprocesses``."""
    return _Shares(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    items.sort(key=lambda item: (item.nodeid.startswith(LAST), not item.nodeid.startswith(BROWSER)))


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
