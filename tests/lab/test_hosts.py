"""Hosts that a lab can be: on hpet, on a TSC that its kernel does not trust, believing in another rate."""

from __future__ import annotations

import pytest

from guestclock.compare.aligned import Circumstances
from guestclock.compare.author import Limits
from guestclock.compare.judge import judge
from guestclock.compare.programs import random_program
from guestclock.errors import UserError
from guestclock.lab import Lab
from guestclock.lab.setup import setup
from guestclock.runs import run
from guestclock.runs.real import from_lines
from guestclock.scenario import parse
from guestclock.sim import Trace
from tests.lab.programs import OUR_HOST

S = 10**9
TRUE_HZ = 10**9
PROGRAMS = 12

HOST = """
about = "x"
[host]
{host}
[vm]
vcpus = 1
[[step]]
guest = "read"
[[step]]
wait = "1 s"
[[step]]
guest = "read"
"""


@pytest.mark.lab
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_without_a_masterclock_random_programs_agree_with_the_model_too(kernel):
    setup([kernel])
    programs = [random_program(seed, Limits(clocksource_switch=False)) for seed in range(PROGRAMS)]
    lines = Lab(kernel, clocksource="hpet").run_many([{**program, **OUR_HOST} for program in programs])
    differences, flags = [], set()
    for seed, (program, told) in enumerate(zip(programs, lines, strict=True)):
        trace = from_lines(told)
        assert trace.meta["clocksource"] == "hpet"
        verdict = judge(trace, program, f"linux-{kernel}", Circumstances(true_hz=TRUE_HZ))
        differences += [f"seed {seed}: {difference}" for difference in verdict.differences]
        flags |= {e.data["result"]["flags"] for e in trace.of("op") if e.name == "GetClock"}
        # and with a masterclock the model would do otherwise
        trace.meta["clocksource"] = "tsc"
        assert judge(trace, program, f"linux-{kernel}", Circumstances(true_hz=TRUE_HZ)).differences
    assert not differences, "\n".join(differences[:20])
    assert flags == {0}


@pytest.mark.lab
@pytest.mark.parametrize(("host", "flags"), [("clocksource = 'hpet'", {0}), ("", {14})])
def test_a_scenario_s_clocksource_is_the_lab_s(host, flags):
    setup(["6.12"])
    (trace,) = run(parse(HOST.format(host=host), "f.toml"), on=["lab:6.12"])
    assert {e.data["result"]["flags"] for e in trace.of("op") if e.name == "GetClock"} == flags
    assert trace.meta["clocksource"] == (host.split("'")[1] if host else "tsc")


@pytest.mark.lab
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_on_a_tsc_that_is_not_trusted_no_time_passes_for_a_guest_s_tsc_while_nobody_runs_it(kernel):
    """Every call on the vCPU puts its TSC back where it was; what it has missed is made up for in the guest."""
    setup([kernel])
    host = 'clocksource = "hpet"\ntsc_unstable = true'
    real, model = run(
        parse(HOST.format(host=host), "f.toml"), on=[f"lab:{kernel}", "model"], kernels=[f"linux-{kernel}"]
    )
    assert "tsc" not in real.meta["clocksources"]
    # whoever looks a second later finds the TSC where the guest left it
    read, *_, later = [e.data for e in real.events if e.kind in ("guest", "peek") and e.start_ps < last_step_ps(real)][
        -2:
    ]
    assert 0 <= later["tsc"] - read["tsc"] < 3 * 10**6
    # in the guest it has been caught up, on the model as well
    for trace in (real, model):
        first, *_, last = [e.data["tsc"] for e in trace.of("guest")]
        assert last - first == pytest.approx(2_596_122_000, rel=0.01)


def last_step_ps(trace: Trace) -> int:
    return [e.start_ps for e in trace.of("step")][-1]


@pytest.mark.parametrize("name", ["kvm-clock", "hyperv"])
def test_a_clocksource_that_no_lab_has_is_told(name):
    with pytest.raises(UserError, match=f"lab: clocksource '{name}': expected one of tsc, hpet, acpi_pm"):
        run(
            parse(HOST.format(host=f"clocksource = '{name}'\nclocksources = ['tsc', '{name}']"), "f.toml"),
            on=["lab:6.12"],
        )
