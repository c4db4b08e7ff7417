"""Recorded clock readings, of real guests or of the model, held to 25 invariants.

judge_files(paths), judge_rows(rows, header), judge_run(trace). docs/traces.md has the columns, and what each invariant
needs.
"""

from guestclock.check.recorded.checking import HOLDS, NOT_JUDGED, VIOLATED, Check, Finding
from guestclock.check.recorded.columns import CLOCKS, COLUMNS, CONTEXTS, KINDS, PATHS
from guestclock.check.recorded.header import KEYS, Header
from guestclock.check.recorded.judge import INVARIANTS, Judgement, judge_files, judge_rows, judge_run

__all__ = [
    "CLOCKS", "COLUMNS", "CONTEXTS", "HOLDS", "INVARIANTS", "KEYS", "KINDS", "NOT_JUDGED", "PATHS", "VIOLATED",
    "Check", "Finding", "Header", "Judgement", "judge_files", "judge_rows", "judge_run",
]  # fmt: skip
