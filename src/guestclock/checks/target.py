"""From the words of a command to what is checked: a recipe or a scenario, a kernel, a policy, bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from guestclock.checks.architectures import arch_of
from guestclock.checks.policy_file import Policy, policy
from guestclock.checks.spec import Site, Spec
from guestclock.checks.verdict import HOLDS, UNDECIDED, VIOLATED, Result, Verdict, chosen
from guestclock.errors import UserError
from guestclock.kvm.model import lookup
from guestclock.scenario import Scenario, Variation, names
from guestclock.scenario import load as load_scenario
from guestclock.scenario.document import Arm64HostTable, HostTable
from guestclock.scenario.quantity import Duration, did_you_mean
from guestclock.vmm import recipe as recipes
from guestclock.vmm.clocks import ARM64, X86_64, clocks_of

MAX_VCPUS = 8
SITES = {X86_64: Site(), ARM64: Site(khz=62_500)}
"""The usual host: an arm64 counter counts 16 ns, as QEMU's does."""

DEFAULT_KERNELS = {X86_64: "linux-6.12", ARM64: "linux-6.12-arm64"}


@dataclass(frozen=True, slots=True)
class Target:
    """What one verdict is about. name: the recipe or scenario; kernel; varied: a scenario's variation, in words.

    fix: a recipe that does better, and why, where the project or the recipe's author knows one. fix_policy: what that
    one means to do; it may mean something else.
    """

    name: str
    about: str
    kernel: str
    varied: str
    spec: Spec
    policy: Policy
    fix: tuple[str, str] | None = None
    fix_policy: Policy | None = None


def known_names() -> list[str]:
    """Of built-in recipes and scenarios."""
    return [*recipes.names(), *names()]


def targets(
    name: str,
    kernels: Sequence[str] = (),
    policy_given: str | None = None,
    vcpus: int | None = None,
    properties: Sequence[str] = (),
    bounds: Sequence[tuple[str, str | None]] = (),
) -> list[Target]:
    """One per kernel, and for a scenario per variation. bounds: (option, duration) of the command line.

    Raises UserError for whatever is unknown, before anything runs.
    """
    if vcpus is not None and not 1 <= vcpus <= MAX_VCPUS:
        raise UserError(f"--vcpus {vcpus}: expected 1 to {MAX_VCPUS}")
    of_recipes = [option for option, written in bounds if written is not None and option in OF_RECIPES]
    if of_recipes and _is_scenario(name):
        raise UserError(f"{of_recipes[0]}: is a recipe's; a scenario's steps say what happens when")
    changes = dict(_bounds(bounds))
    kernels = [lookup(kernel).name for kernel in kernels]
    if _is_scenario(name):
        found = list(_scenario(load_scenario(name), kernels, policy_given, vcpus, properties, changes))
    else:
        found = list(_recipe(name, kernels, policy_given, vcpus, properties, changes))
    for target in found:
        chosen(target.spec)
    return found


def _is_scenario(name: str) -> bool:
    if name.endswith(".py"):
        return False
    return name.endswith(".toml") or "/" in name


def _recipe(
    name: str,
    kernels: Sequence[str],
    given: str | None,
    vcpus: int | None,
    properties: Sequence[str],
    changes: dict[str, int],
) -> Iterator[Target]:
    try:
        recipe = recipes.load(name)
    except UserError as error:
        near = did_you_mean(name, list(names()))
        if name.endswith(".py") or not near or "did you mean" in str(error):
            raise
        raise UserError(f"{name!r} is neither a recipe nor a scenario{near}") from None
    meant = policy(given, recipe.policy, recipe.arch)
    kernels = _of_arch(name, recipe.arch, kernels)
    spec = Spec(
        recipe=name,
        policy=meant.clocks,
        properties=tuple(properties),
        sites=(SITES[recipe.arch],),
        **_vcpus(vcpus),
        **_spec(changes),
    )
    fix = fix_of(recipe)
    fix_policy = None if fix is None else policy(given, recipes.load(fix[0]).policy, recipe.arch)
    for kernel in kernels:
        yield Target(name, recipe.about, kernel, "", spec.but(kernel=kernel), meant, fix, fix_policy)


def _scenario(
    scenario: Scenario,
    kernels: Sequence[str],
    given: str | None,
    vcpus: int | None,
    properties: Sequence[str],
    changes: dict[str, int],
) -> Iterator[Target]:
    if vcpus is not None:
        raise UserError("--vcpus: is a recipe's; a scenario's file says how many vCPUs its VM has")
    expected = {clock: getattr(scenario.expect, clock, None) for clock in clocks_of(scenario.arch)}
    meant = policy(given, {clock: wanted for clock, wanted in expected.items() if wanted}, scenario.arch)
    for kernel in _of_arch(scenario.name, scenario.arch, kernels or scenario.kernels):
        for variation in scenario.variations:
            _no_l2(scenario.name, variation)
            spec = Spec(
                program=json.dumps(variation.program),
                kernel=kernel,
                vcpus=scenario.vcpus,
                policy=meant.clocks,
                properties=tuple(properties),
                sites=(SITES[scenario.arch],),
                # The parameter of 2023 is a delayed work: without it nothing would happen.
                periodic="periodic-masterclock" in kernel,
                **{"after_ns": Spec().after_ns + variation.wait_ns, **_spec(changes)},
            )
            site = spec.sites[0]
            spec = spec.but(sites=(_site(site, variation.host),))
            yield Target(scenario.name, scenario.about, kernel, _varied(variation), spec, meant)


def _no_l2(name: str, variation: Variation) -> None:
    """A window is a guest's with one set of clocks: an L2's would be taken for its L1's, which step from one to the
    other.
    """
    instead = "guests of guests cannot be checked, 'guestclock run' plays them"
    for number, step in enumerate(variation.steps, 1):
        if step.name == "enter-l2":
            raise UserError(f"{name}: [[step]] {number}: 'enter-l2': {instead}")
    if variation.program.get("nested"):
        raise UserError(f"{name}: [vm]: nested: {instead}")


def _site(usual: Site, host: HostTable | Arm64HostTable) -> Site:
    """The host that a scenario's variation asks for."""
    if isinstance(host, HostTable):
        return replace(usual, khz=host.tsc_khz or usual.khz, rtc_off_ns=abs(host.rtc_ahead_ns or 0))
    khz = usual.khz if host.counter_hz is None else host.counter_hz // 1000
    vhe = usual.vhe if host.vhe is None else host.vhe
    return replace(usual, khz=khz, vhe=vhe, ecv=bool(host.ecv))


def _of_arch(name: str, arch: str, kernels: Sequence[str]) -> Sequence[str]:
    """The kernels asked for, or the usual one. Raises UserError for one of another architecture."""
    for kernel in kernels:
        if arch_of(kernel) != arch:
            like = DEFAULT_KERNELS[arch]
            raise UserError(f"--kernel {kernel}: {name} is for {arch} guests, expected a kernel like {like}")
    return kernels or (DEFAULT_KERNELS[arch],)


def _varied(variation: Variation) -> str:
    return ", ".join(f"{k} = {v}" for k, v in variation.values.items())


def _vcpus(vcpus: int | None) -> dict[str, Any]:
    return {} if vcpus is None else {"vcpus": vcpus}


OPTIONS = {
    "--max-delay": "delay_ns",
    "--max-section": "section_ns",
    "--life": "life_ns",
    "--away": "away_ns",
    "--save-delay": "save_delay_ns",
    "--restore-delay": "restore_delay_ns",
}
OF_RECIPES = ("--life", "--away", "--save-delay", "--restore-delay")
MAX_AXES = 2


def _bounds(bounds: Sequence[tuple[str, str | None]]) -> Iterator[tuple[str, int]]:
    for option, written in bounds:
        if written is not None:
            yield OPTIONS[option], duration(option, written)


def axes(
    bounds: Sequence[tuple[str, str | None]],
) -> tuple[list[tuple[str, str | None]], dict[str, tuple[int, ...]]]:
    """The options that have one value, and of those with a list the values in ns, by the Spec's field.

    Raises UserError for a list with a mistake in it, and for more lists than a page has directions.
    """
    single: list[tuple[str, str | None]] = []
    lists: dict[str, tuple[int, ...]] = {}
    for option, written in bounds:
        if written is None or "," not in written:
            single.append((option, written))
            continue
        values = tuple(duration(option, text.strip()) for text in written.split(","))
        if len(set(values)) < len(values):
            raise UserError(f"{option} {written}: a value is there twice")
        lists[OPTIONS[option]] = values
    if len(lists) > MAX_AXES:
        named = ", ".join(option for option, field in OPTIONS.items() if field in lists)
        raise UserError(f"{named}: {len(lists)} lists, expected at most {MAX_AXES}")
    return single, lists


def duration(option: str, written: str) -> int:
    """ns. Raises UserError that names the option."""
    try:
        return Duration.parse(written, {}).literal
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None


def _spec(changes: dict[str, int]) -> dict[str, Any]:
    """The least a guest lives and is away is not above the most."""
    least: dict[str, int] = {}
    for stretch in ("life", "away"):
        most = changes.get(f"{stretch}_ns")
        if most is not None:
            least[f"{stretch}_min_ns"] = min(getattr(Spec(), f"{stretch}_min_ns"), most)
    return {**changes, **least}


def how(*, budget_s: float | None, jobs: int | None, cluster: str | None) -> dict[str, Any]:
    """Of the options of the search those that were given, as check() takes them."""
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: expected 1 or more")
    given = {"budget_s": budget_s, "jobs": jobs, "cluster": cluster}
    return {name: value for name, value in given.items() if value is not None}


def fix_of(recipe: recipes.Recipe) -> tuple[str, str] | None:
    """A recipe's FIX = "other-recipe: why"."""
    name, _, why = recipe.fix.partition(":")
    return (name.strip(), why.strip()) if name else None


# ---- what is forgiven


def forgiven(result: Result, meant: Policy) -> Result:
    """The verdicts with a policy's tolerances on top of what truncation makes.

    A property's worst stays its worst: what is allowed is the same for everything that is asked for its sake.
    """
    if meant.tolerances:
        khz = result.spec.sites[0].khz
        for verdict in result.verdicts:
            allowed = meant.forgives(verdict.property, verdict.unit, khz)
            if allowed and verdict.bound is not None:
                _forgive(verdict, allowed, result.complete)
    return result


def _forgive(verdict: Verdict, allowed: int, complete: bool) -> None:
    verdict.tolerance += Fraction(allowed)
    if verdict.status == HOLDS or verdict.bound is None:
        return
    if verdict.bound <= verdict.tolerance and verdict.status == VIOLATED:
        verdict.status, verdict.worst, verdict.confirmed = HOLDS, None, None
        if not complete:
            verdict.status, verdict.why = UNDECIDED, "it ended before every order was seen"
    elif verdict.worst is not None and verdict.worst <= verdict.tolerance:
        verdict.status, verdict.why = UNDECIDED, f"an integer run shows {verdict.worst}, within the tolerance"
        verdict.worst, verdict.confirmed = None, None
