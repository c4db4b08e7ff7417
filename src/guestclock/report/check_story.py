"""A violation's story in words and numbers: a line per step, in order of time, times from the first one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from guestclock.abi.arm64 import TIMER_REGS
from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST, MSR_IA32_TSC_DEADLINE
from guestclock.checks.story import Rule, Step, Story
from guestclock.report.check_words import amount, khz_of
from guestclock.report.numbers import clock_value, duration, folded, grouped
from guestclock.vmm.clocks import CLOCKS

Line = tuple[str, str]
MSR_NAMES = {
    MSR_IA32_TSC: "MSR_IA32_TSC",
    MSR_IA32_TSC_ADJUST: "MSR_IA32_TSC_ADJUST",
    MSR_IA32_TSC_DEADLINE: "MSR_IA32_TSC_DEADLINE",
}
REG_NAMES = {number: f"KVM_REG_ARM_{name}" for name, number in TIMER_REGS.items()}


@dataclass(frozen=True, slots=True)
class Told:
    """One step in words: when (ps since the first step), who, what, and what follows from it."""

    since_ps: int
    actor: str
    what: str
    effect: str = ""
    contradicts: bool = False

    @property
    def time(self) -> str:
        return "t = 0" if self.since_ps < 1000 else f"+{duration(self.since_ps // 1000)}"

    @property
    def text(self) -> str:
        return f"{self.what}: {self.effect}" if self.effect else self.what


def told(story: Story) -> list[Told]:
    """Every step of the story."""
    if not story.steps:
        return []
    first = story.ps(story.steps[0].units)
    several = len({(s.site, s.vm) for s in story.steps if s.vm >= 0}) > 1
    words = _Words(story, several)
    return [
        Told(story.ps(s.units) - first, words.actor(s), words.what(s), words.effect(s), words.last(s))
        for s in story.steps
    ]


def story_lines(story: Story, width: int, indent: str = "    ") -> Iterator[Line]:
    """The table of steps; whatever does not fit is folded under its own column."""
    rows = told(story)
    times = max((len(row.time) for row in rows), default=0)
    before = ""
    for row in rows:
        time, before = row.time if row.time != before else "", row.time
        head = f"{indent}{time:<{times}}  {row.actor:<5}  "
        style = "bold" if row.contradicts else ""
        for number, line in enumerate(folded(row.text, max(width - len(head), 24))):
            yield (head if number == 0 else " " * len(head)) + line, style


class _Words:
    def __init__(self, story: Story, several: bool) -> None:
        self.story, self.several = story, several
        self.khz = khz_of(story.spec)

    def actor(self, step: Step) -> str:
        return "host" if step.kind == "call" and step.vm < 0 else step.actor

    def last(self, step: Step) -> bool:
        return bool(self.story.readings) and step is self.story.readings[-1]

    def vcpu(self, step: Step) -> str:
        return f"vcpu{step.vcpu}"

    def what(self, step: Step) -> str:
        data = step.data
        match step.kind:
            case "note":
                return f"— {data['say']} —"
            case "snapshot":
                state = "taken" if data["stable"] else "taken, but not used"
                return f"masterclock snapshot {state} (by {data['cause']})"
            case "page":
                return f"{self.vcpu(step)}'s page is written"
            case "stale":
                return f"{self.vcpu(step)} goes on with the offset that it entered with, {grouped(data['offset'])}"
            case "read" if data.get("page"):
                return f"by {self.vcpu(step)}'s page, as it stands, kvmclock is {self.value(data)}"
            case "read":
                return f"{self.vcpu(step)} reads {CLOCKS[data['clock']].shown} {self.value(data)}{self.physical(data)}"
            case _:
                return self.call(step, data["op"], data["answer"])

    def value(self, data: dict[str, Any]) -> str:
        return grouped(data["value"]) if CLOCKS[data["clock"]].counts else f"{clock_value(data['value'])} s"

    def physical(self, data: dict[str, Any]) -> str:
        """How a read of the physical counter came about, where that is not the plain way."""
        return ", a read that traps" if data["clock"] == "cntpct" and data.get("physical") == "trapped" else ""

    def call(self, step: Step, op: dict[str, Any], answer: Any) -> str:
        who = self.vcpu(step)
        match op["op"]:
            case "SetMsr":
                return f"{who}: {_msr(op['index'])} := {grouped(op['data'])}"
            case "GetMsr":
                return f"{who}: {_msr(op['index'])} is {_number(answer)}"
            case "SetTscOffset":
                return f"{who}: TSC offset := {grouped(_signed(op['offset']))}"
            case "GetTscOffset":
                return f"{who}: TSC offset is {_number(_signed(answer)) if isinstance(answer, int) else '—'}"
            case "SetTscKhz":
                return f"{who if op['vcpu'] is not None else 'VM'}: TSC rate := {grouped(op['khz'])} kHz"
            case "SetClock":
                at = f", saved at realtime {clock_value(op['realtime_ns'])} s" if op["flags"] & 4 else ""
                return f"KVM_SET_CLOCK := {clock_value(op['clock_ns'])} s{at}"
            case "GetClock" if isinstance(answer, dict):
                return f"KVM_GET_CLOCK is {clock_value(answer['clock_ns'])} s"
            case "ReadHostClock":
                shown = _number(answer) if op["clock"] in ("tsc", "counter") else f"{clock_value(answer)} s"
                return f"the host's {op['clock']} is {shown}"
            case "CreateVcpu":
                return f"{who} is created"
            case "SetOneReg":
                return f"{who}: {_reg(op['id'])} := {grouped(op['value'])}"
            case "GetOneReg":
                return f"{who}: {_reg(op['id'])} is {_number(answer)}"
            case "SetCounterOffset":
                return f"KVM_ARM_SET_COUNTER_OFFSET := {grouped(_signed(op['offset']))}"
            case "SetVcpuAttr":
                return f"{who}: attribute {op['group']}/{op['attr']} := {grouped(_signed(op['value']))}"
            case _:
                others = ", ".join(f"{k} {v}" for k, v in op.items() if k not in ("op", "vm", "vcpu"))
                return f"{who}: {op['op']} {others}".rstrip() if step.vcpu is not None else f"{op['op']} {others}"

    def effect(self, step: Step) -> str:
        data = step.data
        match step.kind:
            case "snapshot":
                return f"kvmclock {clock_value(data['ns'])} s at host TSC {grouped(data['tsc'])}"
            case "page":
                stable = "STABLE" if data["flags"] & 1 else "not STABLE"
                return f"{clock_value(data['ns'])} s at TSC {grouped(data['tsc'])}, {stable}"
            case "stale":
                return f"KVM has {grouped(data['kept'])} for it now"
            case "read" if self.last(step):
                return self.contradiction()
            case "call":
                return self.call_effect(step)
        return ""

    def contradiction(self) -> str:
        story = self.story
        told = amount(story.value, story.ask.unit, self.khz)
        earlier = {"back": "earlier", "apart": "apart from it", "gained": "gained", "lost": "lost"}
        text = f"{told} {earlier.get(story.ask.sense, story.ask.sense)}"
        if story.ask.sense in ("gained", "lost") and len(story.readings) > 1:
            passed = story.ps(story.readings[-1].units) - story.ps(story.readings[0].units)
            text += f" while {duration(passed // 1000)} passed"
        return text

    def call_effect(self, step: Step) -> str:
        data = step.data
        if data["error"]:
            return f"refused, {data['error']}"
        effect, parts = data["effect"], []
        if "generation" in effect:
            number = effect["generation"]
            parts.append(f"in sync, generation {number}" if effect["matched"] else f"opens generation {number}")
        if "offset" in effect and data["op"]["op"] != "SetTscOffset":
            same = effect["same_as"]
            as_others = f", as vcpu{','.join(map(str, same))}'s" if same else ""
            parts.append(f"offset {grouped(effect['offset'])}{as_others}")
        for clock in ("cntvct", "cntpct"):
            if f"{clock}_moved" in effect:
                moved = amount(abs(effect[f"{clock}_moved"]), "ticks", self.khz)
                back = "back" if effect[f"{clock}_moved"] < 0 else "on"
                parts.append(f"{CLOCKS[clock].shown} moves {moved} {back}")
        if effect.get("fixed"):
            parts.append("later writes by value are ignored")
        return ", ".join(parts)


def _signed(value: Any) -> Any:
    return (value + 2**63) % 2**64 - 2**63 if isinstance(value, int) else value


def _number(value: Any) -> str:
    return grouped(value) if isinstance(value, int) else "—"


def _reg(number: int) -> str:
    return REG_NAMES.get(number, f"register {number:#x}")


def _msr(index: int) -> str:
    return MSR_NAMES.get(index, f"MSR {index:#x}")


def rule_told(rule: Rule) -> str:
    """A rule of KVM at work, with its place in KVM's history."""
    since = f"since {rule.since}" if rule.since else ""
    place = ", ".join(part for part in (rule.name, since, rule.commit) if part)
    return f"{HOOK_WORDS.get(rule.hook, rule.hook)}: {rule.about.rstrip('.')} ({place})"


def rule_again(rule: Rule) -> str:
    """A rule whose words stand further up: by its number, as P9, or else by its name."""
    number = re.match(r"P\d+\b", rule.about)
    return f"{HOOK_WORDS.get(rule.hook, rule.hook)}: {number[0] if number else rule.name}, as told above"


HOOK_WORDS = {
    "tsc_matching": 'when KVM takes a TSC write for "in sync"',
    "matched_stable": 'what a TSC write taken for "in sync" is given',
    "masterclock_request": "when a TSC write asks for a new masterclock snapshot",
    "snapshot": "what pages are made from",
    "set_clock": "what KVM_SET_CLOCK does",
    "get_clock": "what KVM_GET_CLOCK answers",
    "write_counter": "what KVM makes of a counter written by value",
    "creation_offsets": "what a new vCPU makes of the counters",
    "set_offset_attribute": "what the attribute of 2021 does",
}
