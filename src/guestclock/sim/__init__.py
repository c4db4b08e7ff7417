"""True time, actors, checkpoints, state, the concrete scheduler, the trace."""

from guestclock.sim.checkpoint import Checkpoint, cp
from guestclock.sim.scheduler import Actor, Deadlock, Scheduler
from guestclock.sim.state import Cell, Observer, State, WidthObserver, watching
from guestclock.sim.timeline import PS_PER_NS, PS_PER_S, Timeline, drawn_ps
from guestclock.sim.trace import Emit, Event, Trace

__all__ = [
    "PS_PER_NS", "PS_PER_S", "Actor", "Cell", "Checkpoint", "Deadlock", "Emit", "Event", "Observer", "Scheduler",
    "State", "Timeline", "Trace", "WidthObserver", "cp", "drawn_ps", "watching",
]  # fmt: skip
