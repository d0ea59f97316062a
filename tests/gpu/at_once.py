"""A pytest plugin, `-p tests.gpu.at_once`: tell a failure when it happens, not when all is over, which may not come."""

from __future__ import annotations

from typing import Any

import pytest


class AtOnce:
    def __init__(self, config: pytest.Config) -> None:
        self.reporter: Any = config.pluginmanager.get_plugin("terminalreporter")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.reporter.ensure_newline()
            self.reporter.write_line(f"{report.nodeid}: {report.when}\n{report.longreprtext}", flush=True)


@pytest.hookimpl(trylast=True)  # after the terminal's own
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # workers of xdist have no terminal
        config.pluginmanager.register(AtOnce(config), "at-once")
