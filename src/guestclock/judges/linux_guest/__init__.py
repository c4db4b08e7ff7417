"""A Linux guest of QEMU's in the lab: do its clocks do what QEMU's recipe, on the model, says they do?

for judged in judge_linux_guests("6.12"): ...
"""

from guestclock.judges.linux_guest.judge import (
    DEFAULT_AWAY_NS,
    Judged,
    Operation,
    Row,
    judge,
    judge_linux_guests,
)

__all__ = ["DEFAULT_AWAY_NS", "Judged", "Operation", "Row", "judge", "judge_linux_guests"]
