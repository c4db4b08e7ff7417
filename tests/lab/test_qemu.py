from __future__ import annotations

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab


def command_of(*, recorded: bool = False, **options: object) -> list[str]:
    machine = Lab("6.12", **options).machine
    return [*machine.hardware(recorded=recorded), *machine.boots(kernel="/k", initrd="/i")]


def value_of(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_virtual_time_needs_all_of_its_conditions():
    command = command_of()
    assert value_of(command, "-icount") == "shift=0,sleep=off"
    assert value_of(command, "-rtc") == "base=2025-01-01T00:00:00,clock=vm"
    assert "-seed" in command
    assert "nokaslr" in value_of(command, "-append").split()


def test_a_program_s_run_is_recorded_where_qemu_can():
    assert value_of(command_of(recorded=True), "-icount") == "shift=0,sleep=off,rr=record,rrfile=/dev/null"
    assert value_of(command_of(recorded=True, smp=2), "-icount") == "shift=0,sleep=off"


def test_wall_clock_mode_has_none_of_them():
    command = command_of(deterministic=False, recorded=True)
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
