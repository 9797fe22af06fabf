"""How far the check reads: everything of the author's that a workflow reaches, and no further."""

from __future__ import annotations

import pytest

from everstep.checking import Report

from .conftest import Checked

WORKFLOW = """
@app.workflow
async def order(ctx: Context, id: str) -> None:
    {body}
"""


def ways(report: Report) -> list[tuple[str, ...]]:
    return [finding.through for finding in report.findings]


@pytest.mark.parametrize(
    ("top", "body", "through"),
    [
        ("def f(): return time.time()", "f()", ("f",)),
        ("def f(): return g()\ndef g(): return time.time()", "f()", ("f", "g")),
        ("async def f(): return time.time()", "await f()", ("f",)),
        ("def f(x): return time.time()", "sorted([], key=f)", ("f",)),
        ("f = lambda: time.time()", "f()", ("<lambda>",)),
        ("from functools import partial\ndef f(x): return time.time()", "partial(f, 1)()", ("f",)),
        ("from functools import partial\ndef f(x): return time.time()\ng = partial(f, 1)", "g()", ("f",)),
        ("from functools import cache\n@cache\ndef f(): return time.time()", "f()", ("f",)),
        (
            "from contextlib import contextmanager\n@contextmanager\ndef f(): yield time.time()",
            "with f(): pass",
            ("f",),
        ),
        ("class C:\n    def __init__(self): self.at = time.time()", "C()", ("C.__init__",)),
        ("class C:\n    def __init__(self): self.f()\n    def f(self): time.time()", "C()", ("C.__init__", "C.f")),
        ("class C:\n    def f(self): return time.time()", "c = C(); c.f()", ("C.f",)),
        ("class C:\n    def f(self): return time.time()\nc = C()", "c.f()", ("C.f",)),
        ("class C:\n    @staticmethod\n    def f(): return time.time()", "C.f()", ("C.f",)),
        ("class C:\n    @classmethod\n    def f(cls): return time.time()", "C.f()", ("C.f",)),
        ("class C:\n    @property\n    def f(self): return time.time()", "c = C(); c.f", ("C.f",)),
        ("class B:\n    def f(self): return time.time()\nclass C(B): ...", "c = C(); c.f()", ("B.f",)),
        ("class C:\n    def f(self): return time.time()\ndef g(c: C): c.f()", "g(C())", ("g", "C.f")),
        ("class C:\n    def f(self): time.time()\ndef make() -> 'C | None': ...", "c = make(); c.f()", ("C.f",)),
        ("class C:\n    def __enter__(self): time.time()\n    def __exit__(self, *e): ...", "C()", ("C.__enter__",)),
        ("@dataclass\nclass C:\n    def __post_init__(self): time.time()", "C()", ("C.__post_init__",)),
        ("@dataclass\nclass C:\n    at: float = field(default_factory=lambda: time.time())", "C()", ("C.<lambda>",)),
    ],
)
def test_what_a_workflow_reaches_is_read(top: str, body: str, through: tuple[str, ...], checked: Checked) -> None:
    statements = "\n    ".join(body.split("; "))
    report = checked(f"import time\nfrom dataclasses import field\n{top}\n{WORKFLOW.format(body=statements)}")
    assert through in ways(report)
    assert {finding.rule for finding in report.findings} == {"EV101"}


def test_functions_inside_belong_to_the_workflow(checked: Checked) -> None:
    report = checked("""
        import time


        @app.workflow
        async def order(ctx: Context, id: str) -> None:
            async def inner() -> None:
                def innermost() -> float:
                    return time.time()

                innermost()

            await inner()
    """)
    assert ways(report) == [()]


def test_other_modules_are_read_and_named(checked: Checked) -> None:
    report = checked(
        "import helping\n" + WORKFLOW.format(body="helping.price()"),
        helping="import deeper\ndef price():\n    return deeper.today()\n",
        deeper="from datetime import date\ndef today():\n    return date.today()\n",
    )
    (finding,) = report.findings
    assert (finding.path.name, finding.line, finding.column) == ("deeper.py", 3, 12)
    assert (finding.workflow, finding.through) == ("order", ("price", "today"))
    assert report.functions == 3


def test_a_module_of_the_author_s_may_be_called_like_a_library(checked: Checked) -> None:
    code = "import redis\n" + WORKFLOW.format(body="redis.get()")
    assert checked(code, redis="def get(): return 1\n").findings == ()


def test_equal_functions_of_two_modules_are_two(checked: Checked) -> None:
    same = "import time\ndef f(): return time.time()\n"
    report = checked("import one, two\n" + WORKFLOW.format(body="one.f(), two.f()"), one=same, two=same)
    assert [finding.path.name for finding in report.findings] == ["one.py", "two.py"]


def test_a_variable_of_the_function_around_is_known(checked: Checked) -> None:
    report = checked("""
        import time


        def register(clock):
            @app.workflow
            async def order(ctx: Context, id: str) -> None:
                clock()


        register(time.time)
    """)
    assert [finding.rule for finding in report.findings] == ["EV101"]


@pytest.mark.parametrize(
    "top",
    [
        "@app.activity\ndef f() -> float: return time.time()",
        "def g(): return time.time()\n@app.activity\ndef f() -> float: return g()",
        "f = app.activity(name='f')(lambda: 1) if False else len",
    ],
)
def test_activities_are_not_read(top: str, checked: Checked) -> None:
    assert checked(f"import time\n{top}\n{WORKFLOW.format(body='await f() if f is not len else 1')}").findings == ()


def test_libraries_are_not_read(checked: Checked) -> None:
    report = checked("import click, statistics\n" + WORKFLOW.format(body="click.style(''), statistics.mean([1])"))
    assert (report.findings, report.functions) == ((), 1)


def test_all_versions_and_included_apps_are_read(checked: Checked) -> None:
    report = checked("""
        import time

        other = App("other")


        @other.workflow
        async def theirs(ctx: Context) -> None:
            time.time()


        @app.workflow(name="mine", version=1)
        async def mine_1(ctx: Context) -> None:
            time.time()


        @app.workflow(name="mine", version=2)
        async def mine_2(ctx: Context) -> None: ...


        app = App("all", include=[app, other])
    """)
    assert sorted(finding.workflow for finding in report.findings) == ["mine", "theirs"]
    assert report.workflows == 3


def test_dataclasses_whose_defaults_are_drawn(checked: Checked) -> None:
    report = checked("""
        import uuid
        from dataclasses import field
        from datetime import datetime


        @dataclass
        class Order:
            id: str
            key: uuid.UUID = field(default_factory=uuid.uuid4)
            tags: list[str] = field(default_factory=list)
            at: datetime = field(default_factory=datetime.now)


        @app.workflow
        async def order(ctx: Context, id: str) -> None:
            Order(id, key=ctx.uuid4(), at=ctx.now())
            Order(id, ctx.uuid4(), [], ctx.now())
            Order(id, at=ctx.now())
            Order(id, ctx.uuid4())
    """)
    assert [(finding.rule, finding.message) for finding in report.findings] == [
        ("EV102", "Order() fills in `key` with uuid.uuid4(), which makes a random id"),
        ("EV101", "Order() fills in `at` with datetime.datetime.now(), which reads the clock"),
    ]


def test_functions_without_a_source_are_told(checked: Checked) -> None:
    report = checked("exec('def made(): return 1')\n" + WORKFLOW.format(body="made()"))
    (name,) = report.unread
    assert name.endswith(".made")


def test_the_first_way_is_told_and_each_place_once(checked: Checked) -> None:
    report = checked("""
        import time


        def f() -> float:
            return time.time() - time.time()


        @app.workflow
        async def first(ctx: Context) -> float:
            return f()


        @app.workflow
        async def second(ctx: Context) -> float:
            return f()
    """)
    assert [(finding.workflow, finding.through) for finding in report.findings] == [("first", ("f",))]
