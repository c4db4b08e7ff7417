"""Small models, each with a question about its worst value: everything an explorer must get right, in few steps.

A toy writes what it showed into `seen` (a name -> a value); `ask` makes one number of it, or None where a run did not
show it. The same source runs on forms and on ints.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from guestclock.arith import s64, u64
from guestclock.explore.world import Bounds, World
from guestclock.sim import State, cp
from guestclock.sim.field import flag, integer

Seen = dict[str, Any]
Actors = Callable[[World, Seen], list[Coroutine[Any, Any, None]]]

BOUNDS = Bounds(horizon=10_000, delay=300, section=7)


class Cells(State):
    a = integer("a value")
    b = integer("a value")
    c = integer("a value")
    version = integer("of a page: odd while it is being written")
    lock = flag("held")
    on = flag("a flag that guards look at", True)
    ready = flag("a flag that is set once or twice")


@dataclass(frozen=True)
class Toy:
    name: str
    actors: Actors
    ask: Callable[[Seen], Any]
    bounds: Bounds = BOUNDS
    worst: int | None = None  # where it can be said by hand

    def build(self, world: World) -> Seen:
        seen: Seen = {}
        for i, actor in enumerate(self.actors(world, seen)):
            world.spawn(f"{i}", actor)
        return seen


TOYS: list[Toy] = []


@dataclass(frozen=True)
class toy:
    """Registers a function (world, seen, cells) -> actors, once for each set of arguments."""

    ask: Callable[[Seen], Any]
    bounds: Bounds = BOUNDS
    variants: dict[str, tuple[dict[str, Any], int | None]] = field(default_factory=lambda: {"": ({}, None)})

    def __call__(self, function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        for suffix, (arguments, worst) in self.variants.items():
            name = function.__name__.replace("_", "-") + (f"-{suffix}" if suffix else "")

            def actors(world: World, seen: Seen, arguments: Any = arguments) -> list[Any]:
                return function(world, seen, Cells(), **arguments)

            TOYS.append(Toy(name, actors, self.ask, self.bounds, worst))
        return function


def get(name: str) -> Callable[[Seen], Any]:
    return lambda seen: seen.get(name)


def difference(x: str, y: str) -> Callable[[Seen], Any]:
    return lambda seen: seen[x] - seen[y] if x in seen and y in seen else None


# ---- pages with a version


@toy(
    difference("first", "second"),
    variants={
        "checked": ({"check": True}, 0),
        "unchecked": ({"check": False}, None),
        "late-version": ({"check": True, "late": True}, None),
        "two-updates": ({"check": True, "updates": 2, "once": True}, 0),
    },
)
def seqcount(
    world: World, seen: Seen, s: Cells, check: bool, late: bool = False, updates: int = 1, once: bool = False
) -> list[Any]:
    """One writer of (tsc, system time), one reader that reads twice. Time on the page goes as the TSC does."""

    async def writer() -> None:
        for _ in range(updates):
            now = world.read_ps()
            if not late:
                s.version = s.version + 1
            await cp("odd")
            s.a = now
            await cp("body")
            s.b = now
            s.version = s.version + (2 if late else 1)
            await cp("next")

    async def reader() -> None:
        for name in ("second",) if once else ("first", "second"):
            before = s.version
            if before % 2:
                return
            await cp("version read")
            base = s.a
            await cp("half read")
            value = s.b + world.read_ps() - base
            await cp("read")
            if check and s.version != before:
                return
            seen[name] = value
            seen.setdefault("first", value)

    return [writer(), reader()]


# ---- races of values that come from a clock


@toy(
    lambda seen: seen["cells"].a if "cells" in seen else None,
    variants={"2": ({"n": 2}, 307), "3": ({"n": 3}, 307)},
)
def last_writer_wins(world: World, seen: Seen, s: Cells, n: int) -> list[Any]:
    async def writer() -> None:
        now = world.read_ps()
        await cp("read")
        s.a = now
        seen["cells"] = s

    return [writer() for _ in range(n)]


@toy(difference("kept", "late"), variants={"": ({}, 300)})
def older_value_survives(world: World, seen: Seen, s: Cells) -> list[Any]:
    """Two actors read a clock, then store: the earlier read may be stored last."""

    async def keeper() -> None:
        s.a = world.read_ps()
        await cp("stored")
        s.ready = True

    async def other() -> None:
        now = world.read_ps()
        await cp("read")
        if s.ready:
            seen["kept"], seen["late"] = s.a, now

    return [keeper(), other()]


@toy(get("lost"), variants={"exclusive": ({"locked": True}, None), "racing": ({"locked": False}, None)})
def increments(world: World, seen: Seen, s: Cells, locked: bool) -> list[Any]:
    async def adder() -> None:
        if locked:
            await cp("lock", lambda: not s.lock)
            s.lock = True
        before = s.a
        began = world.read_ps()
        await cp("read")
        s.a = before + 1
        if locked:
            s.lock = False
        s.c = s.c + 1
        if s.c == 2:
            seen["lost"] = (2 - s.a) * 1000 + (world.read_ps() - began)

    return [adder(), adder()]


# ---- locks and guards


@toy(get("waited"), variants={"2": ({"n": 2}, None), "3": ({"n": 3}, None)})
def lock(world: World, seen: Seen, s: Cells, n: int) -> list[Any]:
    """The time from one critical section's begin to the begin of the last."""

    async def user(i: int) -> None:
        await cp("lock", lambda: not s.lock)
        s.lock = True
        if not s.c:
            s.a = world.read_ps()
        s.c = s.c + 1
        if s.c == n:
            seen["waited"] = world.read_ps() - s.a
        await cp("locked")
        s.lock = False

    return [user(i) for i in range(n)]


@toy(get("arrived"))
def lock_reached_late(world: World, seen: Seen, s: Cells) -> list[Any]:
    """The second one comes to the lock when it may be held already: no step disables it there."""

    async def first() -> None:
        await cp("lock", lambda: not s.lock)
        s.lock = True
        s.a = s.a + 1
        await cp("locked")
        s.lock = False
        s.a = s.a * 10

    async def second() -> None:
        s.c = 1
        await cp("lock", lambda: not s.lock)
        s.lock = True
        seen["arrived"] = s.a + world.read_ps()
        s.lock = False

    return [first(), second()]


@toy(get("through"))
def guard_falls_again(world: World, seen: Seen, s: Cells) -> list[Any]:
    """The guard is true only between two of another's steps."""

    async def opener() -> None:
        s.a = 1
        await cp("open")
        s.a = 2
        s.b = world.read_ps()

    async def waiter() -> None:
        await cp("wait", lambda: s.a == 1)
        seen["through"] = world.read_ps()

    async def other() -> None:
        s.c = s.b

    return [opener(), waiter(), other()]


@toy(get("through"))
def opened_by_either(world: World, seen: Seen, s: Cells) -> list[Any]:
    """A lazy guard looks at the second flag only while the first is down."""

    async def one() -> None:
        s.a = 1

    async def two() -> None:
        s.b = 1

    async def waiter() -> None:
        await cp("wait", lambda: s.a == 1 or s.b == 1)
        seen["through"] = world.read_ps() + (1000 if s.a == 0 else 0)

    return [one(), two(), waiter()]


@toy(get("through"))
def opened_by_both_in_time(world: World, seen: Seen, s: Cells) -> list[Any]:
    """Needs a third one's step before the second one's: no race with any executed step shows it."""

    async def one() -> None:
        s.a = 1
        await cp("one")
        s.a = 2

    async def three() -> None:
        s.b = 1

    async def waiter() -> None:
        await cp("wait", lambda: s.a == 1 and s.b == 1)
        seen["through"] = world.read_ps()

    return [one(), three(), waiter()]


@toy(get("left"))
def waits_forever(world: World, seen: Seen, s: Cells) -> list[Any]:
    async def waiter() -> None:
        await cp("wait", lambda: s.a == 5)
        seen["left"] = 1

    async def other() -> None:
        seen["left"] = world.read_ps()
        await cp("step")
        s.a = 4

    return [waiter(), other()]


@toy(get("gap"), variants={"once": ({"twice": False}, None), "twice": ({"twice": True}, None)})
def flag_set(world: World, seen: Seen, s: Cells, twice: bool) -> list[Any]:
    """Setting what is set already is no write: nobody can tell."""

    async def setter() -> None:
        s.ready = True
        s.a = world.read_ps()

    async def again() -> None:
        s.ready = True

    async def waiter() -> None:
        await cp("wait", lambda: s.ready)
        seen["gap"] = world.read_ps() - s.a

    return [setter(), waiter()] + ([again()] if twice else [])


# ---- time: timers, time-outs


@toy(get("late"), variants={"": ({}, 300 + 7)})
def timer(world: World, seen: Seen, s: Cells) -> list[Any]:
    async def sleeper() -> None:
        before = world.read_ps()
        await cp("sleep", None, 1000)
        seen["late"] = world.read_ps() - before - 1000

    return [sleeper()]


@toy(get("late"), variants={"": ({}, 300 + 7)})
def times_out_at_the_latest(world: World, seen: Seen, s: Cells) -> list[Any]:
    async def waiter() -> None:
        before = world.read_ps()
        await cp("wait", lambda: s.a == 1, 1000)
        seen["late"] = world.read_ps() - before - 1000

    return [waiter()]


@toy(get("early"), variants={"": ({}, 0)})
def timer_is_never_early(world: World, seen: Seen, s: Cells) -> list[Any]:
    async def sleeper() -> None:
        before = world.read_ps()
        await cp("sleep", None, 1000)
        seen["early"] = before + 1000 - world.read_ps()

    return [sleeper()]


@toy(get("shown"))
def periodic(world: World, seen: Seen, s: Cells) -> list[Any]:
    """A timer that stores the time three times, and one who looks."""

    async def ticker() -> None:
        for _ in range(3):
            s.a = world.read_ps()
            await cp("tick", None, 400)

    async def looker() -> None:
        await cp("think")
        seen["shown"] = world.read_ps() - s.a

    return [ticker(), looker()]


@toy(get("shown"), Bounds(horizon=900, delay=300, section=7))
def beyond_the_horizon(world: World, seen: Seen, s: Cells) -> list[Any]:
    async def ticker() -> None:
        for _ in range(3):
            s.a = world.read_ps()
            await cp("tick", None, 500)

    async def looker() -> None:
        seen["shown"] = world.read_ps() - s.a

    return [ticker(), looker()]


@toy(get("waited"), variants={"short": ({"at_most": 50}, None), "long": ({"at_most": 2000}, None)})
def time_out(world: World, seen: Seen, s: Cells, at_most: int) -> list[Any]:
    async def waiter() -> None:
        before = world.read_ps()
        await cp("wait", lambda: s.ready, at_most)
        seen["waited"] = (world.read_ps() - before) + (0 if s.ready else -5000)

    async def setter() -> None:
        await cp("work")
        s.ready = True

    return [waiter(), setter()]


@toy(get("turns"))
def time_out_and_again(world: World, seen: Seen, s: Cells) -> list[Any]:
    async def waiter() -> None:
        for turn in range(2):
            await cp("wait", lambda: s.a == 1, 40)
            if s.a == 1:
                seen["turns"] = turn * 100 + world.read_ps()
                return

    async def blinker() -> None:
        s.a = 1
        await cp("on")
        s.a = 0

    return [waiter(), blinker()]


# ---- wraps and truncations


@toy(get("age"), variants={"behind": ({"ahead": -100}, None), "ahead": ({"ahead": 100}, None)})
def wraps(world: World, seen: Seen, s: Cells, ahead: int) -> list[Any]:
    """The age of a stamp, in u64: of a stamp from the future it is a huge one."""

    async def stamper() -> None:
        s.a = world.read_ps() + ahead

    async def reader() -> None:
        await cp("read")
        seen["age"] = u64(world.read_ps() - s.a)

    return [stamper(), reader()]


@toy(get("delta"))
def signed_wrap(world: World, seen: Seen, s: Cells) -> list[Any]:
    async def reader() -> None:
        before = world.read_ps()
        await cp("between")
        seen["delta"] = s64(u64(before - world.read_ps()))

    return [reader()]


@toy(get("lost"), variants={"": ({"mult": 5}, None), "fine": ({"mult": (1 << 8) + 3}, None)})
def truncation(world: World, seen: Seen, s: Cells, mult: int) -> list[Any]:
    """What scaling two parts loses against scaling their sum."""

    async def reader() -> None:
        first = world.read_ps()
        await cp("between")
        second = world.read_ps()
        seen["lost"] = ((second * mult) >> 8) - ((first * mult) >> 8) - (((second - first) * mult) >> 8)

    return [reader()]


@toy(get("rest"), variants={"2": ({"n": 2}, 1), "3": ({"n": 3}, 2)})
def remainder(world: World, seen: Seen, s: Cells, n: int) -> list[Any]:
    async def reader() -> None:
        now = world.read_ps()
        seen["rest"] = now - now // n * n

    return [reader()]


@toy(get("lost"), Bounds(horizon=1 << 40, delay=1 << 38, section=100))
def floor_of_a_floor(world: World, seen: Seen, s: Cells) -> list[Any]:
    async def reader() -> None:
        now = world.read_ps()
        await cp("between")
        later = world.read_ps()
        ns = u64((later * 7) // 18 - (now * 7) // 18)
        seen["lost"] = (later - now) * 7 // 18 - ns + u64((ns * 3) >> 4)

    return [reader()]


# ---- branches on unknown values


@toy(get("error"), variants={"reached": ({"limit": 100}, None), "never": ({"limit": 400}, None)})
def late_means_new(world: World, seen: Seen, s: Cells, limit: int) -> list[Any]:
    """The matching rule in small: a second write is meant to be equal if it comes soon."""

    async def writer(i: int) -> None:
        now = world.read_ps()
        if s.ready and now - s.a < limit:
            s.b = s.b + 1
        else:
            s.a, s.ready = now, True
        s.c = s.c + 1
        if s.c == 2:
            seen["error"] = now - s.a + 1000 * s.b

    return [writer(0), writer(1)]


@toy(get("error"))
def branch_then_race(world: World, seen: Seen, s: Cells) -> list[Any]:
    """Which cell is written depends on time, and so does who depends on whom."""

    async def brancher() -> None:
        before = world.read_ps()
        await cp("between")
        if world.read_ps() - before > 150:
            s.a = 1
        else:
            s.b = 1

    async def looker() -> None:
        await cp("look")
        seen["error"] = s.a * 10 + world.read_ps() * 2 + s.b

    return [brancher(), looker()]


@toy(get("equal"))
def equal_times(world: World, seen: Seen, s: Cells) -> list[Any]:
    async def one() -> None:
        s.a = world.read_ps()

    async def two() -> None:
        await cp("go")
        now = world.read_ps()
        seen["equal"] = 1000 - now if now == s.a else now - 1000

    return [one(), two()]


@toy(get("best"))
def highest_of_two(world: World, seen: Seen, s: Cells) -> list[Any]:
    async def one(i: int) -> None:
        now = world.read_ps()
        s.a = max(s.a, now)
        seen["best"] = s.a - now

    return [one(0), one(1)]


@toy(get("seen"), variants={"early": ({"least": 0}, None), "late": ({"least": 290}, None)})
def dead_end(world: World, seen: Seen, s: Cells, least: int) -> list[Any]:
    """Some orders have no times: a short step after a long sleep comes too late to be overtaken."""

    async def sleeper() -> None:
        await cp("sleep", None, 700)
        s.a = world.read_ps()
        await cp("stored")
        s.b = s.a

    async def quick() -> None:
        now = world.read_ps()
        await cp("quick")
        if s.a == 0 and world.read_ps() > least:
            s.c = now
        seen["seen"] = s.a + now

    return [sleeper(), quick()]


# ---- births, unknown values


@toy(get("age"), variants={"one": ({"n": 1}, None), "two": ({"n": 2}, None)})
def born_later(world: World, seen: Seen, s: Cells, n: int) -> list[Any]:
    async def child() -> None:
        seen["age"] = world.read_ps() - s.a
        s.b = s.b + 1

    async def parent() -> None:
        for _ in range(n):
            s.a = world.read_ps()
            world.spawn("child", child())
            await cp("born")
        s.c = s.b

    return [parent()]


@toy(get("error"), variants={"": ({}, None)})
def restored_value(world: World, seen: Seen, s: Cells) -> list[Any]:
    """A saved value that may be anything from 0 to 1000; 0 means something else."""

    async def restorer() -> None:
        value = world.unknown("saved", 0, 1000)
        now = world.read_ps()
        s.a = now if value == 0 else value - now
        await cp("restored")
        seen["error"] = world.read_ps() + s.a - value

    return [restorer()]


@toy(get("error"))
def slewed_clock(world: World, seen: Seen, s: Cells) -> list[Any]:
    """A clock of which only bounds are known: no more than 1% fast, no more than 1% slow."""

    async def reader() -> None:
        now = world.read_ps()
        read = world.clock("slewed", lambda q: [100 * q - 101 * now, 99 * now - 100 * q], 0, 20_000)
        await cp("between")
        seen["error"] = read - now + s.a

    async def other() -> None:
        s.a = 1

    return [reader(), other()]
