from __future__ import annotations

import pytest

from tests.compare.tallies import TALLIES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for where, tally in TALLIES.items():
        terminalreporter.write_line("compare: " + tally.line(where))
