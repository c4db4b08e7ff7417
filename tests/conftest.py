"""Which of the lab's tests are its smoke: both architectures, each kind of question once, in a few minutes."""

from __future__ import annotations

import pytest

SMOKE = (
    "tests/lab/test_evidence.py::",
    "tests/lab/test_trouble.py::",
    "tests/lab/test_boot.py::test_every_run_of_a_scenario_gives_the_same_bytes[6.12]",
    "tests/lab/test_migrate.py::test_kernel_model_and_check_agree_to_a_few_ns[6.1-6.12-5000000]",
    "tests/lab/test_sleep.py::test_what_each_clock_gains_over_a_sleep[3600-6.12]",
    "tests/lab/test_race.py::test_on_a_real_kernel_only_who_is_asked_is_never_late[6.12-x86]",
    "tests/runs/test_real_arm64.py::",
    "tests/compare/test_in_the_lab.py::test_model_and_kernel_agree[6.12-",
    "tests/compare/test_in_the_lab.py::test_a_wrong_model_is_told_from_the_kernel",
    "tests/compare/test_in_the_lab.py::test_the_right_one_is_not",
)
"""Beginnings of their names."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(SMOKE) and item.get_closest_marker("lab"):
            item.add_marker("smoke")
