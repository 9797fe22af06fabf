"""Short texts that runs say to people, and names that authors give: what can be stored and sent."""

from __future__ import annotations

from everstep_schemas.names import why_bad_name

MAX_TEXT_BYTES = 4_096


def check_text(what: str, text: object) -> None:
    """Raises `ValueError` in words about `what` for a text that cannot be stored."""
    if problem := _why_bad_text(text):
        raise ValueError(f"{what} {problem}")


def _why_bad_text(text: object) -> str | None:
    if not isinstance(text, str):
        return f"is {text!r:.100}, not text"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode (it holds half of a surrogate pair)"
    if size > MAX_TEXT_BYTES:
        return f"has {size} bytes; {MAX_TEXT_BYTES} are allowed"
    return "holds a NUL character, which PostgreSQL cannot store" if "\0" in text else None


def check_name(what: str, name: object) -> None:
    """Raises `ValueError` in words about `what` for a name, or an id, that cannot be one."""
    if problem := why_bad_name(name) if isinstance(name, str) else "is no text":
        raise ValueError(f"{what} {str(name)[:100]!r} {problem}")
