"""Every rule finds its bad example, and nothing finds fault with its good one."""

from __future__ import annotations

import pytest

from everstep.checking.rules import RULES, Rule

from .conftest import Checked

each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@each_rule
def test_the_bad_example_is_found(rule: Rule, checked: Checked) -> None:
    report = checked(rule.bad)
    assert {finding.rule for finding in report.findings} == {rule.number}
    assert all(finding.workflow == "order" or rule.is_note for finding in report.findings)
    assert report.unread == ()


@each_rule
def test_the_good_example_is_not(rule: Rule, checked: Checked) -> None:
    assert checked(rule.good).findings == ()
