"""A Linux guest of QEMU's in the lab: do its clocks do what QEMU's recipe, on the model, says they do?

judged = judge_linux_guest("6.12")
"""

from guestclock.judges.linux_guest.judge import (
    DEFAULT_AWAY_NS,
    Judged,
    Operation,
    Row,
    judge,
    judge_linux_guest,
)

__all__ = ["DEFAULT_AWAY_NS", "Judged", "Operation", "Row", "judge", "judge_linux_guest"]
