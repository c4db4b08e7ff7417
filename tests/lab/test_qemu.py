from __future__ import annotations

import sys
from pathlib import Path

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab, LabError, qemu


def command_of(**options: object) -> list[str]:
    lab = Lab("6.12", **options)
    return lab.machine.arguments(kernel=Path("/k"), initrd=Path("/i"), output=Path("/o"))


def value_of(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_virtual_time_needs_all_of_its_conditions():
    command = command_of()
    assert value_of(command, "-icount") == "shift=0,sleep=off"
    assert value_of(command, "-rtc") == "base=2025-01-01T00:00:00,clock=vm"
    assert "-seed" in command
    assert "nokaslr" in value_of(command, "-append").split()
    assert [command[i + 1] for i, word in enumerate(command) if word == "-serial"] == [
        "file:/o/console.txt",
        "file:/o/results.txt",
    ]


def test_wall_clock_mode_has_none_of_them():
    command = command_of(deterministic=False)
    assert not {"-icount", "-rtc", "-seed"} & set(command)


def test_the_kernel_is_told_an_odd_frequency_unless_asked_not_to():
    assert "tsc_early_khz=2596122" in value_of(command_of(), "-append").split()
    assert "tsc_early_khz" not in value_of(command_of(tsc_khz=None), "-append")


def test_machine_options_reach_qemu():
    command = command_of(smp=3, memory_mib=1024, extra_cmdline="clocksource=hpet")
    assert (value_of(command, "-smp"), value_of(command, "-m")) == ("3", "1024")
    assert value_of(command, "-append").endswith(" clocksource=hpet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smp": 0}, "lab: smp 0: expected at least 1"),
        ({"memory_mib": 16}, "lab: memory_mib 16: expected at least 256"),
        ({"kernel": "latest"}, "lab: kernel 'latest': expected two numbers like 6.12"),
    ],
)
def test_bad_options_are_refused_at_once(options, message):
    with pytest.raises(UserError, match=message):
        Lab(**({"kernel": "6.12"} | options))


def test_a_process_that_does_not_end_is_ended(tmp_path):
    slow = f"import time, pathlib; pathlib.Path({str(tmp_path / 'began')!r}).touch(); time.sleep(60)"
    with pytest.raises(LabError, match="still running after 1 s"):
        qemu.run([sys.executable, "-c", slow], timeout_s=1)
    assert (tmp_path / "began").exists()


def test_a_process_that_fails_is_quoted():
    failing = "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"
    with pytest.raises(LabError, match=r"status 3\): no such thing"):
        qemu.run([sys.executable, "-c", failing], timeout_s=60)
