import io
from itertools import pairwise

import pytest

from guestclock import __version__
from guestclock.errors import UserError
from guestclock.runs import On, parse_on, run
from guestclock.runs.model import run_model
from guestclock.runs.real import from_lines
from guestclock.scenario import Variation, load, names, parse
from guestclock.scenario.document import HostTable
from guestclock.sim import Trace

SHORT = "about='x'\n[vm]\nvcpus=2\n[[step]]\nwait='1 s'\n[[step]]\nguest='read'\n"


def saved(traces):
    out = io.StringIO()
    for trace in traces:
        trace.save(out)
    return out.getvalue()


# ---- --on


def test_the_machines_that_can_be_named():
    assert [parse_on(text) for text in ("model", "kvm", "lab:6.12")] == [On("model"), On("kvm"), On("lab", "6.12")]
    assert str(parse_on("lab:6.1")) == "lab:6.1"


@pytest.mark.parametrize("text", ["", "Model", "lab", "qemu", "lab-6.12", "kvm:6.12"])
def test_others_are_refused(text):
    with pytest.raises(UserError, match=r"expected model, kvm, lab:KERNEL \(as lab:6.12\) or all"):
        parse_on(text)


@pytest.mark.parametrize("text", ["lab:", "lab:linux-6.12", "lab:six"])
def test_a_lab_s_kernel_is_a_version(text):
    with pytest.raises(UserError, match=r"expected a kernel like lab:6.12"):
        parse_on(text)


# ---- what is run


def test_a_trace_per_kernel_and_variation_in_that_order():
    text = (
        SHORT.replace("'1 s'", "'$d'").replace("[vm]", "kernels=['linux-6.7','linux-6.8']\n[vm]")
        + "[vary]\nd=['1 s','2 s']\n"
    )
    traces = run(parse(text, "f.toml"))
    assert [(t.meta["kernel"], t.meta["variation"]["d"]) for t in traces] == [
        ("linux-6.7", "1 s"), ("linux-6.7", "2 s"), ("linux-6.8", "1 s"), ("linux-6.8", "2 s"),
    ]  # fmt: skip
    assert [t.events[-1].start_ps // 10**12 for t in traces] == [1, 2, 1, 2]


def test_kernels_asked_for_come_before_the_scenario_s_and_once_each():
    scenario = parse(SHORT.replace("[vm]", "kernels=['linux-6.7']\n[vm]"), "f.toml")
    assert [t.meta["kernel"] for t in run(scenario)] == ["linux-6.7"]
    assert [t.meta["kernel"] for t in run(scenario, kernels=["6.1", "linux-6.1", "pvm"])] == ["linux-6.1", "pvm"]
    assert [t.meta["kernel"] for t in run(parse(SHORT, "f"))] == ["linux-6.12"]


def test_what_a_trace_says_of_itself():
    (trace,) = run(parse(SHORT.replace("vcpus=2", "vcpus=3"), "f.toml"), seed=7)
    meta = dict(trace.meta)
    commit = meta.pop("commit")
    assert meta["tsc_khz"] == 2_596_122
    assert commit is None or (len(commit) == 40 and int(commit, 16))
    assert {k: v for k, v in meta.items() if not k.startswith("tsc_")} == {
        "on": "model", "kernel": "linux-6.12", "clocksource": "tsc", "scenario": "f.toml",
        "about": "x", "variation": {}, "vcpus": 3, "seed": 7, "guestclock": __version__,
    }  # fmt: skip


def test_progress_is_told_of_every_run():
    lines = []
    run(load("threads/2023-masterclock"), progress=lines.append)
    assert lines == [f"model, linux-6.{minor}: threads/2023-masterclock" for minor in (7, 8)]


# ---- a seed replays


@pytest.mark.parametrize("name", ["threads/2021-idempotent-x86", "threads/2023-periodic"])
def test_a_seed_replays_the_run_byte_for_byte(name):
    scenario = load(name)
    first, again, other = (saved(run(scenario, seed=seed)) for seed in (11, 11, 12))
    assert first == again
    assert first.replace('"seed": 11', '"seed": 12') != other


def test_without_a_seed_runs_are_the_same_too():
    scenario = load("threads/2023-masterclock")
    assert saved(run(scenario)) == saved(run(scenario))


def test_drawn_durations_are_within_their_bounds():
    """An operation begins one step after the one before it has ended."""
    (trace,) = run(parse(SHORT, "f"), seed=3)
    ops = [e for e in trace.events if e.kind in ("op", "peek", "host")]
    gaps_ps = [after.start_ps - before.end_ps for before, after in pairwise(ops) if after.name == "GetClock"]
    assert gaps_ps
    assert all(0.2e6 <= gap <= 20e6 for gap in gaps_ps)


# ---- every built-in scenario


@pytest.mark.parametrize("name", names())
def test_a_built_in_scenario_runs_to_its_end(name):
    scenario = load(name)
    for trace in run(scenario):
        steps = list(trace.of("step"))
        variation = next(v for v in scenario.variations if v.values == trace.meta["variation"])
        assert [e.data["index"] for e in steps] == list(range(-1, len(variation.steps)))
        after = trace.events[trace.events.index(steps[-1]) :]
        assert {e.vcpu for e in after if e.kind == "peek"} >= {0}, "everybody looked after the last step"


@pytest.mark.parametrize("name", names())
def test_a_built_in_scenario_can_be_done_where_it_says(name):
    scenario = load(name)
    assert "model" in scenario.on
    for place in scenario.on:
        for variation in scenario.variations:
            assert all(parse_on(place).kind in step.runs_on for step in variation.steps), place
            assert place != "kvm" or variation.wait_ns <= 120 * 10**9
    assert scenario.kernels, "it says on which kernels it is worth seeing"
    assert scenario.about.endswith((".", "?"))
    assert name.startswith("bugs/") or scenario.thread


REFUSALS_ARE_THE_STORY = {
    "bugs/tsc-khz-failure", "bugs/arm64-vcpu-creation-resets", "threads/2021-idempotent-arm64",
}  # fmt: skip


def test_only_where_a_refusal_is_the_story_is_anything_refused_and_nothing_is_left_out():
    """What is left out is a note, never silence: a kernel that refuses, and the step that hung on it."""
    seen = {}
    for name in names():
        for trace in run(load(name)):
            seen.setdefault(name, set()).update(e.name for e in trace.of("note"))
    assert {name for name, notes in seen.items() if notes} == REFUSALS_ARE_THE_STORY
    assert set().union(*seen.values()) == {"refused"}


# ---- mistakes


def refused(scenario, **how):
    with pytest.raises(UserError) as raised:
        run(scenario, **how)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_unknown_kernel():
    assert refused(parse(SHORT, "f"), kernels=["linux-6.122"]).startswith("--kernel: kernel 'linux-6.122' is unknown")


@pytest.mark.parametrize("how", [{"kernels": ["linux-6.12"]}, {"seed": 1}])
def test_what_only_the_model_has(how):
    assert "is the model's" in refused(parse(SHORT, "f"), on=["kvm"], **how)


def test_no_machine_at_all():
    assert refused(parse(SHORT, "f"), on=[]) == "--on: expected at least one of model, kvm and lab:KERNEL"


def test_a_step_that_this_machine_cannot_take():
    assert refused(load("bugs/clocksource-switch"), on=["kvm"]) == (
        "bugs/clocksource-switch: [[step]] 1: 'clocksource' cannot be done on kvm: use --on model or --on lab:KERNEL"
    )
    assert refused(load("bugs/suspend-backwards-tsc"), on=["model", "lab:6.12"]) == (
        "bugs/suspend-backwards-tsc: [[step]] 3: 'sleep' cannot be done on lab:6.12: use --on model"
    )


def test_a_real_host_is_not_waited_on_for_an_hour():
    told = refused(parse(SHORT.replace("1 s", "1 h"), "f.toml"), on=["kvm"])
    assert told == (
        "f.toml: not on kvm, where its 3 600 s of waiting would take that long (limit 120 s); "
        "use --on model or --on lab:KERNEL"
    )


def test_what_the_machine_has_not():
    text = "about='x'\n[vm]\nvcpus=1\n[[step]]\nwait='1 s'\n[[step]]\n"
    assert refused(parse(text + "vmm='move-to-cpu'\ncpu=99", "f.toml")) == (
        "f.toml: step 2 (every vCPU: moves to physical CPU 99): MoveToCpu: CPU 99 does not exist, this host has 4"
    )
    assert "'acpi_pm' is not on this machine" in refused(parse(text + "host='clocksource'\nto='acpi_pm'", "f.toml"))


def test_an_ioctl_that_would_wait_for_ever():
    """The loader refuses such a scenario; a program made otherwise is told who waits for whom, and when."""
    program = {
        "vcpus": 2, "kvmclock": "new", "boot": True, "steps": [
            {"actor": "vmm", "do": "start", "say": "vCPU 1 runs", "vcpus": [1]},
            {"actor": "vmm", "do": "set-tsc", "say": "vCPU 1: TSC := 0", "vcpus": [1], "value": [["int", 0]]},
        ],
    }  # fmt: skip
    with pytest.raises(UserError) as raised:
        run_model(Variation({}, HostTable(), program, ()), kernel="linux-6.12")
    assert str(raised.value) == (
        "step 2 (vCPU 1: TSC := 0): SetMsr waits for vCPU 1's mutex, which its KVM_RUN holds: kick it first"
    )


# ---- real machines' lines


def test_lines_of_a_real_run_are_a_trace():
    event = {"kind": "host", "name": "tsc", "start_ps": 1, "end_ps": 2, "vcpu": None, "data": {"value": 5}}
    trace = from_lines([{"fact": "something else"}, {"guestclock_trace": 1, "on": "kvm", "tsc_khz": 7}, event])
    assert isinstance(trace, Trace)
    assert (trace.meta, [e.as_json() for e in trace.events]) == ({"on": "kvm", "tsc_khz": 7}, [event])


@pytest.mark.parametrize("lines", [[], [{"guestclock_trace": 99}]])
def test_lines_that_are_no_trace(lines):
    with pytest.raises(UserError, match=r"no trace|trace version 99"):
        from_lines(lines)
