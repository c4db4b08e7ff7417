"""Real kernel, model and checker on one question: do they agree?

judged = judge_scenario(load("bugs/stable-while-unmatched"), "6.12")
"""

from guestclock.judges.scenario import Judged, Row, defaults, judge_scenario
from guestclock.judges.window import WINDOW, judge_window

__all__ = ["WINDOW", "Judged", "Row", "defaults", "judge_scenario", "judge_window"]
