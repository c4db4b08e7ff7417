"""What `guestclock check` prints: verdicts, bounds, stories, replay files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from guestclock.checks import replay_file
from guestclock.checks.available import unavailable
from guestclock.checks.replay_file import ReplayFile
from guestclock.checks.retelling import replay
from guestclock.checks.story import Rule, Story
from guestclock.checks.target import Target, forgiven
from guestclock.checks.verdict import UNDECIDED, VIOLATED, Progress, Result, Verdict
from guestclock.checks.verdict import check as search
from guestclock.errors import UserError
from guestclock.report.check_story import rule_again, rule_told, story_lines
from guestclock.report.check_table import Line, as_text, hanging, ordered, side_by_side, verdict_lines
from guestclock.report.check_words import SHOWN, khz_of, short_amount, told, up
from guestclock.report.numbers import duration

STATUS = {VIOLATED: 1, UNDECIDED: 3}


@dataclass(slots=True)
class Checked:
    """One target's verdicts.

    replays, stories: of each violated property, the shortest; worst: replay files of the worst cases, where they are
    other ones; real: what real kernels show of the same calls, (machine, words); fixed: what the fix does about them;
    unfixed: why the fix cannot be had on this kernel.
    """

    target: Target
    result: Result
    replays: dict[str, Path] = field(default_factory=dict)
    stories: dict[str, Story] = field(default_factory=dict)
    worst: dict[str, Path] = field(default_factory=dict)
    real: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    fixed: Result | None = None
    unfixed: str = ""


def check_out(directory: Path) -> None:
    """Raises UserError where replay files could not be written later. Makes nothing yet."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--out {directory}: is a file, expected a directory")
    place = directory
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"--out {directory}: cannot be written: {place}")


def checked(
    target: Target,
    out: Path,
    progress: Callable[[str], None] = lambda line: None,
    **how: Any,
) -> Checked:
    """The search, what a policy forgives, the stories with their replay files, and the fix checked as well.

    how: what checks.verdict.check takes besides: budget_s and so on.
    """

    def so_far(search_: Progress) -> None:
        progress(progress_told(target, search_))

    result = forgiven(search(target.spec, progress=so_far, **how), target.policy)
    done = Checked(target, result)
    for verdict in result.verdicts:
        if verdict.status == VIOLATED:
            name = verdict.property
            file = replay_file.of(result.spec, verdict, short=True)
            done.replays[name] = out / f"{file_name(target)}.{name}.json"
            replay_file.save(file, done.replays[name])
            done.stories[name] = retold(file, str(done.replays[name]))
            if verdict.short is not None and verdict.short != verdict.confirmed:
                done.worst[name] = out / f"{file_name(target)}.{name}.worst.json"
                replay_file.save(replay_file.of(result.spec, verdict), done.worst[name])
    if target.fix is not None and done.replays and result.complete:
        meant = target.fix_policy or target.policy
        spec = target.spec.but(recipe=target.fix[0], policy=meant.clocks, properties=tuple(done.replays))
        again = {name: how[name] for name in ("budget_s", "jobs", "cluster", "stop") if name in how}
        done.unfixed = unavailable(spec)
        if not done.unfixed:
            done.fixed = forgiven(search(spec, progress=so_far, stories=False, **again), meant)
    return done


def progress_told(target: Target, search_: Progress) -> str:
    """How far the search is: orders, linear programs' worst so far."""
    khz = khz_of(search_.spec)
    found = [f for f in search_.worst.values() if f.excess > 0]
    worst = ", ".join(f"{short_amount(up(f.upper), f.unit, khz)} {f.sense}" for f in found[:3])
    told_ = f"{target.name} on {target.kernel}: {search_.tally.orders} orders, {search_.seconds:.0f} s"
    return f"{told_}; so far {worst}" if worst else told_


def retold(file: ReplayFile, name: str) -> Story:
    """The story of a replay file, by running it."""
    return replay(file.spec, file.property, file.ask, file.schedule, name)


def file_name(target: Target) -> str:
    words = (Path(target.name).stem, Path(target.kernel).name.removesuffix(".py"), target.varied)
    return ".".join(re.sub(r"[^\w.+-]+", "-", word) for word in words if word)


def exit_status(done: Sequence[Checked]) -> int:
    """1 violated, else 3 undecided, else 0."""
    statuses = {v.status for each in done for v in each.result.verdicts}
    return next((STATUS[s] for s in (VIOLATED, UNDECIDED) if s in statuses), 0)


def show(console: Console, done: Sequence[Checked]) -> None:
    """A table if there are several; then each one's verdicts and stories."""
    for text in as_text(lines(done, console.width)):
        console.print(text, soft_wrap=True)


def lines(done: Sequence[Checked], width: int) -> Iterator[Line]:
    rules: set[Rule] = set()
    if len(done) > 1:
        yield from side_by_side([(heading(each, done), each.result) for each in done], width)
    for each in done:
        if len(done) > 1:
            yield "", ""
            yield heading(each, done), "bold"
        yield from verdict_lines(each.result, width)
        for verdict in ordered(each.result.verdicts):
            if verdict.property in each.stories:
                yield "", ""
                yield from violation_lines(each, verdict, width, rules)


def heading(each: Checked, done: Sequence[Checked]) -> str:
    """What tells this one from the others."""
    target = each.target
    kernels = len({d.target.kernel for d in done}) > 1
    parts = [target.kernel if kernels or not target.varied else "", target.varied]
    return ", ".join(part for part in parts if part)


def violation_lines(each: Checked, verdict: Verdict, width: int, rules: set[Rule]) -> Iterator[Line]:
    """The story of one violation, why it is so, what breaks, what helps, and how to see it again.

    rules: those that this answer has told already.
    """
    name, story = verdict.property, each.stories[verdict.property]
    yield from hanging(f"  {name}, shortest story", breaks_told(verdict), width, "bold")
    yield from story_lines(story, width)
    yield from why_lines(story, width, rules)
    if each.unfixed and each.target.fix is not None:
        fix, why = each.target.fix
        yield from hanging("  fix: ", f"{fix}, {why}; not on this kernel: {each.unfixed}", width, "")
    elif each.fixed is not None and each.target.fix is not None:
        other = next(v for v in each.fixed.verdicts if v.property == name)
        fix, why = each.target.fix
        other_policy = each.fixed.spec.policy != each.result.spec.policy and "policy" in name
        meant = f" (it means to: {', '.join(' '.join(p) for p in each.fixed.spec.policy)})" if other_policy else ""
        again = SHOWN[other.status] if other.status != VIOLATED else f"still violated, {told(other, each.fixed.spec)}"
        yield from hanging("  fix: ", f"{fix}, {why}; re-checked: {again}{meant}", width, "")
    for machine, shown in each.real.get(name, []):
        yield from hanging("  on ", f"{machine}: {shown}", width, "")
    yield f"  replay: guestclock replay {each.replays[name]}", ""
    if name in each.worst:
        yield f"  the worst case: guestclock replay {each.worst[name]}", ""


def why_lines(story: Story, width: int, told_before: set[Rule]) -> Iterator[Line]:
    """Each rule once per answer; after that by its name, or its number where it has one."""
    for number, rule in enumerate(story.rules):
        text = rule_again(rule) if rule in told_before else rule_told(rule)
        told_before.add(rule)
        yield from hanging("  why: " if number == 0 else "       ", text, width, "")
    yield from hanging("  guest: ", story.question.breaks, width, "")


def breaks_told(verdict: Verdict) -> str:
    """The smallest delay that breaks it, where the search looked for it."""
    smallest = verdict.breaks
    if smallest is None:
        return ""
    if smallest.delay_ns == 0:
        return ": breaks with no delay at all"
    return f": breaks as soon as {duration(smallest.delay_ns)} pass between two calls"
