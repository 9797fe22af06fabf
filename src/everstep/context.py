"""What a workflow's code sees of its run: time, ids, waiting, signals, activities, children, status, log.

All of it is a function of the run's history, so that a replay sees the same.
"""

from everstep._context.doing import Doing, External
from everstep._context.facts import Log, RunInfo
from everstep._context.waiting import SignalStream

__all__ = ["Context", "External", "Log", "RunInfo", "SignalStream"]


class Context(Doing):
    """The run that the code belongs to. Usable only by that code, while it is being run."""

    __slots__ = ()
