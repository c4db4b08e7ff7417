"""One scenario, the machines and kernels asked for, a trace each."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from guestclock import __version__
from guestclock.errors import UserError
from guestclock.runs.on import On, check_architecture, check_steps, in_time, parse_on, whatever_is_here
from guestclock.scenario import Scenario, Variation
from guestclock.sim import Trace
from guestclock.vmm.clocks import ARM64, X86_64

DEFAULT_KERNELS = {X86_64: "linux-6.12", ARM64: "linux-6.12-arm64"}

Progress = Callable[[str], None]


def run(
    scenario: Scenario,
    *,
    on: Sequence[str] = ("model",),
    kernels: Sequence[str] = (),
    seed: int | None = None,
    progress: Progress = lambda line: None,
    remark: Progress = lambda line: None,
) -> list[Trace]:
    """A trace per machine, kernel and variation, in the order asked for.

    on: "model", "kvm", "lab:6.12"; "all" is whatever of the scenario's own list is here. kernels: profiles for the
    model (none: the scenario's own); real machines have their own kernel. seed: draws the model's durations. progress:
    is told what runs now, a line each (from several threads where several labs run). remark: what is left out, and why.
    """
    if "all" in on:
        here, missing = whatever_is_here(scenario)
        on = [*here, *(text for text in on if text != "all")]
        for line in missing:
            remark(line)
    machines = [parse_on(text) for text in dict.fromkeys(on)]
    if not machines:
        raise UserError("--on: expected at least one of model, kvm and lab:KERNEL")
    if not any(m.kind == "model" for m in machines):
        for name, given in (("--kernel", bool(kernels)), ("--seed", seed is not None)):
            if given:
                raise UserError(f"{name}: is the model's, and --on {' --on '.join(on)} leaves the model out")
    profiles: list[str] = []
    if any(m.kind == "model" for m in machines):
        profiles = _profiles(kernels or scenario.kernels or (DEFAULT_KERNELS[scenario.arch],), scenario)
    for machine in machines:
        check_architecture(scenario, machine)
        check_steps(scenario, machine)

    traces: dict[On, list[Trace]] = {}
    host_khz: int | None = None
    runnable: dict[On, list[Variation]] = {}
    for machine in machines:
        runnable[machine], left_out = in_time(scenario, machine)
        for line in left_out:
            remark(line)
    for machine in machines:
        if machine.kind == "kvm":
            traces[machine] = [_kvm(v, progress, scenario) for v in runnable[machine]]
            host_khz = traces[machine][0].meta.get("tsc_khz")
    traces |= _labs({m: v for m, v in runnable.items() if m.kind == "lab"}, progress, scenario)
    for machine in machines:
        if machine.kind == "model":
            # Beside the real host, the model gets its TSC rate, unless the scenario says another.
            traces[machine] = _model(runnable[machine], profiles, seed, host_khz, progress, scenario)
    return [trace for machine in machines for trace in traces[machine]]


def _kvm(variation: Variation, progress: Progress, scenario: Scenario) -> Trace:
    from guestclock.runs.real import run_kvm

    progress(f"kvm: {_named(scenario, variation)}")
    return _finished(run_kvm(variation), "kvm", scenario, variation, None)


def _labs(wanted: dict[On, list[Variation]], progress: Progress, scenario: Scenario) -> dict[On, list[Trace]]:
    """The variations on each kernel asked for, a few at once."""
    if not wanted:
        return {}
    from guestclock.lab.process import end_all
    from guestclock.runs.real import run_lab

    def play(machine: On, variations: list[Variation]) -> list[Trace]:
        for variation in variations:
            progress(f"{machine}: {_named(scenario, variation)}")
        traces = run_lab(variations, machine.lab, machine.cpu, progress)
        return [_finished(t, str(machine), scenario, v, None) for t, v in zip(traces, variations, strict=True)]

    with ThreadPoolExecutor(len(wanted)) as pool:
        futures = {m: pool.submit(play, m, variations) for m, variations in wanted.items()}
        try:
            return {machine: future.result() for machine, future in futures.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise


def _model(
    variations: list[Variation],
    profiles: list[str],
    seed: int | None,
    host_khz: int | None,
    progress: Progress,
    scenario: Scenario,
) -> list[Trace]:
    from guestclock.runs.model import run_model

    traces = []
    for kernel in profiles:
        for variation in variations:
            progress(f"model, {kernel}: {_named(scenario, variation)}")
            try:
                trace = run_model(variation, kernel=kernel, seed=seed, tsc_khz=host_khz)
            except UserError as error:
                raise UserError(f"{_named(scenario, variation)}: {error}") from None
            traces.append(_finished(trace, "model", scenario, variation, seed))
    return traces


def _profiles(names: Sequence[str], scenario: Scenario) -> list[str]:
    """The profiles by their full names ("6.12" is "linux-6.12"), each once."""
    from guestclock.kvm.model import lookup

    try:
        profiles = [lookup(name) for name in names]
    except UserError as error:
        raise UserError(f"--kernel: {error}") from None
    for profile in profiles:
        if profile.arch != scenario.arch:
            like = DEFAULT_KERNELS[scenario.arch]
            raise UserError(
                f"--kernel {profile.name}: is of {profile.arch}, {scenario.name} is for {scenario.arch}, "
                f"expected a kernel like {like}"
            )
    return list(dict.fromkeys(profile.name for profile in profiles))


def _named(scenario: Scenario, variation: Variation) -> str:
    told = ", ".join(f"{k} = {v}" for k, v in variation.values.items())
    return f"{scenario.name}, {told}" if told else scenario.name


def _finished(trace: Trace, on: str, scenario: Scenario, variation: Variation, seed: int | None) -> Trace:
    trace.meta |= {
        "on": on,
        "scenario": scenario.name,
        "about": scenario.about,
        "variation": variation.values,
        "vcpus": variation.program["vcpus"],
        "seed": seed,
        "guestclock": __version__,
        "commit": commit(),
    }
    return trace


@cache
def commit() -> str | None:
    """The commit of the source tree this runs from; None where it is not one, or without git."""
    here = Path(__file__).resolve().parent
    try:
        root = _git(here, "rev-parse", "--show-toplevel")
        if not here.is_relative_to(Path(root) / "src" / "guestclock"):
            return None
        return _git(here, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(where: Path, *arguments: str) -> str:
    command = ["git", "-C", str(where), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
