"""Where in the author's code something happens that replay cannot repeat, and the words that refuse it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

_MACHINERY = sys.stdlib_module_names | {"everstep", "everstep_orchestrator", "everstep_schemas"}
_STEPPING = "everstep._core.stepping"
_INSTALLED = ("/site-packages/", "/dist-packages/")


def frames() -> Iterator[FrameType]:
    """The frames of the step that is under way on this thread, innermost first, Everstep's own among them."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != _STEPPING:
        yield frame
        frame = frame.f_back


def package(frame: FrameType) -> str:
    """The top-level package of the frame's module; empty for code that has no module."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def refusal(what: str, instead: str) -> str:
    """Says that `what` was called, by which line of the author's, and what to do instead."""
    called, author = _author()
    by = f", called by {called}," if called else ""
    at = f" (at {author.f_code.co_filename}:{author.f_lineno} in {author.f_code.co_qualname})" if author else ""
    return f"{what}{by} is not possible within a workflow{at}: {instead}"


def _author() -> tuple[str, FrameType | None]:
    """The author's innermost frame, and the name of the library function that it has called, if it has.

    What is not installed as a library is the author's; so is whatever belongs to the package of the outermost frame,
    where the workflow begins, since an author's own code may be installed as well.
    """
    stack = [frame for frame in frames() if package(frame) != "everstep"]
    candidates = [at for at, frame in enumerate(stack) if package(frame) not in _MACHINERY]
    if not candidates:
        return "", None
    own = package(stack[candidates[-1]])
    at = next(at for at in candidates if package(stack[at]) == own or not _is_installed(stack[at]))
    return _name(stack[at - 1]) if at else "", stack[at]


def _is_installed(frame: FrameType) -> bool:
    return any(part in frame.f_code.co_filename for part in _INSTALLED)


def _name(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"
