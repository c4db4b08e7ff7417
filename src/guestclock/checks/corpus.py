"""The bug corpus, run: is every bug found again, and does its fix hold?"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from guestclock.checks import replay_file
from guestclock.checks.spec import Site, Spec
from guestclock.checks.target import SITES
from guestclock.checks.verdict import HOLDS, VIOLATED, Verdict, check
from guestclock.corpus.entry import HERE, OWN, Case, Entry, Host, bounds_of, chosen, duration_ns
from guestclock.errors import UserError
from guestclock.vmm import recipe as recipes
from guestclock.vmm.clocks import COUNTED


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of one case. mistake: in what it differs from what the entry says, empty if in nothing.

    value: shown by an integer run, in `unit`; bound: proved. replay: the file that shows it again, if one was wanted.
    """

    recipe: str
    kernel: str
    status: str
    unit: str = "ns"
    sense: str = ""
    who: str = ""
    value: int | None = None
    bound: Fraction | None = None
    tolerance: Fraction = Fraction(0)
    khz: int = 0
    orders: int = 0
    seconds: float = 0.0
    mistake: str = ""
    replay: str = ""


@dataclass(frozen=True, slots=True)
class CorpusResult:
    """One entry's. before, after: None where there is no such case. as_expected: nothing differs from the entry."""

    entry: Entry
    before: CaseResult | None
    after: CaseResult | None

    @property
    def cases(self) -> list[CaseResult]:
        return [case for case in (self.before, self.after) if case is not None]

    @property
    def as_expected(self) -> bool:
        return not any(case.mistake for case in self.cases)

    @property
    def rediscovered(self) -> bool:
        return self.before is not None and self.before.status == VIOLATED

    @property
    def fix_holds(self) -> bool | None:
        """None: no fix is known."""
        return None if self.after is None else self.after.status == HOLDS

    @property
    def seconds(self) -> float:
        return sum(case.seconds for case in self.cases)

    @property
    def orders(self) -> int:
        return sum(case.orders for case in self.cases)


def run(
    names: Sequence[str] | None = None,
    *,
    jobs: int = 2,
    out: Path | None = None,
    progress: Callable[[CorpusResult], None] = lambda result: None,
) -> list[CorpusResult]:
    """All entries (or those named), in as many processes as `jobs`; in the order of their names.

    out: a directory for a replay file of each violation. Raises UserError for an entry that does not exist or cannot
    be run.
    """
    asked = chosen(tuple(names) if names else None)
    finished: dict[str, CorpusResult] = {}
    with _pool(jobs) as pool:
        futures: dict[Future[CaseResult], tuple[str, str]] = {}
        for entry in asked:
            for part in ("before", "after"):
                if getattr(entry, part) is not None:
                    futures[pool.submit(run_case, entry, part, out)] = entry.name, part
        found: dict[tuple[str, str], CaseResult] = {}

        def settle(entry: Entry) -> None:
            parts = [p for p in ("before", "after") if getattr(entry, p) is not None]
            if all((entry.name, p) in found for p in parts) and entry.name not in finished:
                result = CorpusResult(entry, found.get((entry.name, "before")), found.get((entry.name, "after")))
                finished[entry.name] = result
                progress(result)

        by_name = {entry.name: entry for entry in asked}
        for entry in asked:
            if entry.open is not None:
                settle(entry)
        try:
            for future in as_completed(futures):
                where = futures[future]
                found[where] = future.result()
                settle(by_name[where[0]])
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return [finished[entry.name] for entry in asked]


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned, not forked: the solver's library has threads.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def run_case(entry: Entry, part: str, out: Path | None = None) -> CaseResult:
    """One case of an entry, in this process. part: "before" or "after"."""
    case: Case = getattr(entry, part)
    spec = spec_of(entry, case)
    try:
        result = check(spec, stories=False)
    except UserError as error:
        raise UserError(f"{entry.name}.toml: [{part}]: {error}") from None
    (verdict,) = result.verdicts
    replay = ""
    if out is not None and verdict.status == VIOLATED:
        replay = str(out / f"{entry.name}-{part}.json")
        replay_file.save(replay_file.of(result.spec, verdict), Path(replay))
    told = CaseResult(
        case.recipe, case.kernel, verdict.status, verdict.unit, verdict.sense, verdict.who, verdict.worst,
        verdict.bound, verdict.tolerance, spec.sites[0].khz, result.tally.orders, result.seconds,
        _mistake(spec, case, part, verdict), replay,
    )  # fmt: skip
    del result, verdict
    gc.collect()  # an order's forms hold each other: the next entry begins with an empty memory
    return told


def spec_of(entry: Entry, case: Case) -> Spec:
    """What is put to the explorer."""
    bounds = bounds_of(entry, case)
    recipe = _own(case.recipe, "recipes")
    loaded = recipes.load(recipe)
    policy = loaded.policy if case.policy is None else case.policy
    usual = SITES[loaded.arch]
    hosts = entry.host if case.host is None else case.host
    return Spec(
        recipe=recipe,
        kernel=_own(case.kernel, "kernels"),
        sites=tuple(_site(usual, host) for host in hosts) or (usual,),
        vcpus=bounds.vcpus,
        delay_ns=duration_ns(bounds.delay),
        section_ns=duration_ns(bounds.section),
        life_min_ns=duration_ns(bounds.life_min),
        life_ns=duration_ns(bounds.life),
        away_min_ns=duration_ns(bounds.away_min),
        away_ns=duration_ns(bounds.away),
        after_ns=duration_ns(bounds.after),
        khz=bounds.khz,
        deadline_ns=duration_ns(bounds.deadline) if bounds.deadline else 0,
        works=bounds.works,
        policy=tuple(policy.items()),
        properties=(entry.property,),
    )


def _own(name: str, folder: str) -> str:
    """The corpus's own recipe or kernel as a path; any other name as it is."""
    if not name.startswith(OWN):
        return name
    return str(HERE / folder / f"{name.removeprefix(OWN).replace('-', '_')}.py")


def _site(usual: Site, host: Host) -> Site:
    return replace(
        usual,
        khz=usual.khz if host.tsc_khz is None else host.tsc_khz,
        scaling=host.scaling or usual.scaling,
        clocksource=host.clocksource or usual.clocksource,
        uptime_ns=usual.uptime_ns if host.uptime is None else duration_ns(host.uptime),
        skew_ns=usual.skew_ns if host.skew is None else duration_ns(host.skew),
        slew_ppm=usual.slew_ppm if host.slew_ppm is None else host.slew_ppm,
    )


# ---- is it as the entry says?


def amount(written: int | str, unit: str, khz: int) -> int:
    """A number in the property's unit as it is, a duration in ns or in what the first host's counter counts."""
    if isinstance(written, int):
        return written
    ns = duration_ns(written)
    return ns * khz // 1_000_000 if unit in COUNTED else ns


def _mistake(spec: Spec, case: Case, part: str, verdict: Verdict) -> str:
    khz = spec.sites[0].khz
    if part == "before":
        if verdict.status != VIOLATED or verdict.worst is None:
            return f"expected violated, found {verdict.status}{': ' + verdict.why if verdict.why else ''}"
        if case.worst is not None:
            least, most = (amount(a, verdict.unit, khz) for a in case.worst)
            if not least <= verdict.worst <= most:
                return f"expected {least} to {most} {verdict.unit}, found {verdict.worst}"
        return ""
    if case.remains is None:
        return "" if verdict.status == HOLDS else f"expected holds, found {verdict.status}: {_found(verdict)}"
    most = amount(case.remains, verdict.unit, khz)
    if verdict.status == HOLDS:
        return f"expected up to {most} {verdict.unit} to remain, and it holds"
    if verdict.bound is None or verdict.bound > most:
        return f"expected at most {most} {verdict.unit} to remain, found {_found(verdict)}"
    return ""


def _found(verdict: Verdict) -> str:
    if verdict.worst is not None:
        return f"{verdict.worst} {verdict.unit} {verdict.sense}"
    return verdict.why or "nothing was proved"
