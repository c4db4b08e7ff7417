"""Real kernels tell the same stories: after every step the same flags, in every step the same snapshots taken.

What differs is time: how long an ioctl takes is the machine's own, so readings are compared by their steps only.
"""

from __future__ import annotations

import pytest

from guestclock.errors import UserError
from guestclock.inspect import classify
from guestclock.kvm.device import open_device
from guestclock.runs import run
from guestclock.scenario import load, names
from tests.runs.story import Story
from tests.runs.test_threads_2010 import GRID

ON_KVM = [n for n in names() if "kvm" in load(n).on and max(v.wait_ns for v in load(n).variations) < 10 * 10**9]
LOOKS = [n for n in names() if all(s.get("look", True) for v in load(n).variations for s in v.program["steps"])]
"""Where nobody looks after each step there is no story; `tests/judges/` has those."""
ON_LAB = [n for n in LOOKS if "lab:6.12" in load(n).on and load(n).arch == "x86_64"]


@pytest.fixture(scope="module")
def kvm_answers():
    try:
        with open_device(lambda event: None, trace=False):
            pass
    except UserError as missing:
        pytest.skip(str(missing))


def shape(trace):
    """Step by step: flags of KVM_GET_CLOCK, flags of every written page, masterclock snapshots and their result."""
    story = Story(trace)
    return {
        step: (
            story.clock(step)["flags"],
            {e.vcpu: e.data["page"]["flags"] for e in events if e.kind == "peek" and e.data["kvmclock_ns"] is not None},
            [e.data["text"].split()[1] for e in story.named("tracepoint", "kvm_update_master_clock", step)],
        )
        for step, events in story.events.items()
    }


def has_tracepoints(trace):
    return not any(e.name == "no-tracepoints" for e in trace.of("note"))


def without_snapshots(shape):
    return {step: seen[:2] for step, seen in shape.items()}


@pytest.mark.kvm
@pytest.mark.parametrize("name", ON_KVM)
def test_this_host_tells_the_model_s_story(kvm_answers, name):
    fits = classify().fits
    if not fits:
        pytest.skip("no profile known here fits this host")
    profile = fits[-1]
    real, model = run(load(name), on=["kvm", "model"], kernels=[profile])
    seen, predicted = shape(real), shape(model)
    if not has_tracepoints(real):
        seen, predicted = without_snapshots(seen), without_snapshots(predicted)
    assert seen == predicted


@pytest.mark.lab
@pytest.mark.parametrize("name", ON_LAB)
def test_labs_tell_the_model_s_stories(name):
    traces = run(load(name), on=["lab:6.1", "lab:6.12", "model"], kernels=["linux-6.1", "linux-6.12"])
    labs, models = traces[: len(traces) // 2], traces[len(traces) // 2 :]
    for lab, model in zip(labs, models, strict=True):
        assert has_tracepoints(lab)
        assert lab.meta["variation"] == model.meta["variation"]
        assert shape(lab) == shape(model), (lab.meta["on"], lab.meta["variation"])


@pytest.mark.lab
def test_hotplug_in_the_lab_steps_as_predicted():
    traces = run(load("threads/2023-masterclock"), on=["lab:6.1", "lab:6.12"])
    step_ns = {trace.meta["on"]: Story(trace).page_step_ns(2, 5, 0) for trace in traces}
    assert step_ns["lab:6.12"] == 0
    assert abs(step_ns["lab:6.1"] + 4987) <= 2


@pytest.mark.lab
def test_the_grid_of_2010_in_the_lab():
    """STABLE after both have run means one offset; cell by cell as the table of the rule says, on two kernels."""
    traces = run(load("threads/2010-tsc-writes"), on=["lab:6.1", "lab:6.12"])
    for name in ("lab:6.1", "lab:6.12"):
        together = "".join("=x"[Story(t).flags(5, 0) == 0] for t in traces if t.meta["on"] == name)
        assert [together[i : i + 5] for i in range(0, 25, 5)] == GRID["linux-6.12"]
