"""Comments that excuse a line."""

from __future__ import annotations

import pytest

from .conftest import Checked

CODE = """
import time


@app.workflow
async def order(ctx: Context, id: str) -> None:
{body}
"""


@pytest.mark.parametrize(
    ("body", "rules"),
    [
        ("    time.time()  # everstep: ignore[EV101] only for the log", []),
        ("    time.time()  # everstep:ignore[EV101]", []),
        ("    time.time(); open('x')  # everstep: ignore[EV101, EV104]", []),
        ("    print(  # everstep: ignore[EV108]\n        1\n    )", []),
        ("    (time\n    .time)()  # everstep: ignore[EV101]", []),
        ("    time.time()  # noqa: S311  # everstep: ignore[EV101]", []),
        ("    time.time()  # everstep: ignore[EV104]", ["EV101", "EV900"]),
        ("    time.time()  # everstep: ignore", ["EV101", "EV900"]),
        ("    time.time()  # everstep: ignore[EV101, EV777]", ["EV900"]),
        ("    # everstep: ignore[EV101]\n    time.time()", ["EV900", "EV101"]),
        ("    '# everstep: ignore[EV101]'", []),
        ("    await ctx.sleep(days(1))  # everstep: ignore[EV101]", ["EV900"]),
        ("    while True:  # everstep: ignore[EV405]\n        pass", []),
        ("    while True:\n        pass  # everstep: ignore[EV405]", ["EV405", "EV900"]),
    ],
)
def test_a_comment_excuses_its_line_from_what_it_names(body: str, rules: list[str], checked: Checked) -> None:
    assert [finding.rule for finding in checked(CODE.format(body=body)).findings] == rules


def test_a_comment_that_excuses_nothing_is_a_note_that_says_so(checked: Checked) -> None:
    (finding,) = checked(CODE.format(body="    pass  # everstep: ignore[EV101] it was so once")).findings
    assert finding.is_note
    assert finding.message == "`ignore[EV101]` excuses nothing here"
    assert (finding.workflow, finding.through) == ("", ())
