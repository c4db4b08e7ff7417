"""Verdicts and stories as JSON: the same facts as the text, integers exact, bounds as "numerator/denominator"."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TextIO

from guestclock import __version__
from guestclock.checks.replay_file import ReplayFile, portable, ratio
from guestclock.checks.story import Story
from guestclock.checks.verdict import Result, Verdict
from guestclock.report.check import Checked, exit_status
from guestclock.report.check_story import told

FORMAT_VERSION = 1


def write(done: Sequence[Checked], out: TextIO) -> None:
    """One document. docs/checking.md has the schema."""
    document = {
        "guestclock_check": FORMAT_VERSION,
        "guestclock": __version__,
        "status": exit_status(done),
        "checks": [_checked(each) for each in done],
    }
    json.dump(document, out, indent=2)
    out.write("\n")


def _checked(each: Checked) -> dict[str, Any]:
    target, result, spec = each.target, each.result, each.result.spec
    return {
        "what": target.name,
        "about": target.about.partition("\n")[0],
        "variation": target.varied,
        "kernel": target.kernel,
        "vcpus": spec.vcpus,
        "tsc_khz": spec.sites[0].khz,
        "policy": dict(spec.policy),
        "bounds": {
            "delay_ns": spec.delay_ns,
            "section_ns": spec.section_ns,
            "life_ns": [spec.life_min_ns, spec.life_ns],
            "away_ns": [spec.away_min_ns, spec.away_ns],
        },
        "contracts": sorted(result.contracts),
        "complete": result.complete,
        "orders": result.tally.orders,
        "programs": result.programs,
        "seconds": round(result.seconds, 3),
        "verdicts": [_verdict(each, verdict) for verdict in result.verdicts],
        "fix": _fix(target.fix, each.fixed, each.unfixed),
    }


def _verdict(each: Checked, verdict: Verdict) -> dict[str, Any]:
    name = verdict.property
    path, story = each.replays.get(name), each.stories.get(name)
    return {
        **short_verdict(verdict),
        "asked": verdict.asked,
        "breaks": None if verdict.breaks is None else asdict(verdict.breaks),
        "replay": None if path is None else str(path),
        "worst_replay": str(each.worst[name]) if name in each.worst else None,
        "on": [{"machine": machine, "shown": shown} for machine, shown in each.real.get(name, [])],
        "story": None if story is None else story_as_json(story),
    }


def short_verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "property": verdict.property,
        "status": verdict.status,
        "unit": verdict.unit,
        "sense": verdict.sense,
        "who": verdict.who,
        "worst": verdict.worst,
        "bound": ratio(verdict.bound) or None,
        "tolerance": ratio(verdict.tolerance),
        "why": verdict.why,
    }


def _fix(fix: tuple[str, str] | None, fixed: Result | None, unfixed: str) -> dict[str, Any] | None:
    """None: there is none, or nothing to mend. not_here: why this kernel cannot have it."""
    if fix is None or (fixed is None and not unfixed):
        return None
    verdicts = [] if fixed is None else [short_verdict(v) for v in fixed.verdicts]
    return {"recipe": fix[0], "why": fix[1], "verdicts": verdicts, "not_here": unfixed}


def story_as_json(story: Story) -> dict[str, Any]:
    """steps: since_ps from the first one, the words of the text, and the step's own data."""
    words = told(story)
    return {
        "value": story.value,
        "steps": [
            {
                "since_ps": row.since_ps,
                "actor": row.actor,
                "kind": step.kind,
                "host": step.site,
                "vm": step.vm,
                "vcpu": step.vcpu,
                "text": row.text,
                "data": step.data,
            }
            for step, row in zip(story.steps, words, strict=True)
        ],
        "rules": [asdict(rule) for rule in story.rules],
        "breaks": story.question.breaks,
    }


def write_replay(file: ReplayFile, story: Story, out: TextIO) -> None:
    """What `guestclock replay --json` prints."""
    document = {
        "guestclock_replayed": FORMAT_VERSION,
        "guestclock": __version__,
        "property": file.property,
        "kernel": portable(file.spec.kernel),
        "unit": file.unit,
        "recorded": file.value,
        "same": story.value == file.value,
        "story": story_as_json(story),
    }
    json.dump(document, out, indent=2)
    out.write("\n")
