"""An approval that reminds, then escalates: signals, timeouts, milestones, attributes to search by.

everstep dev examples.approval:app
everstep start approve_expense '{"id": "e-1", "amount": 420, "approver": "ann", "director": "dee"}' --id e-1
everstep signal e-1 decision '{"by": "ann"}'
"""

from dataclasses import dataclass
from datetime import timedelta

from everstep import App, Context, Signal, days

app = App("expenses")


@dataclass
class Expense:
    id: str
    amount: int
    approver: str
    director: str


@dataclass
class Approved:
    by: str


@dataclass
class Rejected:
    by: str
    reason: str


decision = Signal[Approved | Rejected]("decision")


@app.activity
async def ask(person: str, expense: Expense, *, reminder: bool = False) -> str:
    return f"{'reminded' if reminder else 'asked'} {person} about {expense.id}"


@app.activity
async def pay_out(expense: Expense) -> int:
    return expense.amount


@app.workflow
async def approve_expense(ctx: Context, expense: Expense, patience: timedelta = days(2)) -> str:
    ctx.attributes["approver"] = expense.approver
    ctx.set_status(f"waiting for {expense.approver}")
    await ask(expense.approver, expense)
    answer = await ctx.wait_for_signal(decision, timeout=patience, default=None)
    if answer is None:
        ctx.milestone("reminded the approver")
        await ask(expense.approver, expense, reminder=True)
        answer = await ctx.wait_for_signal(decision, timeout=patience / 2, default=None)
    if answer is None:
        ctx.milestone(f"escalated to {expense.director}")
        ctx.attributes["approver"] = expense.director
        await ask(expense.director, expense)
        answer = await ctx.wait_for_signal(decision)
    match answer:
        case Approved(by=who):
            return f"approved by {who}, {await pay_out(expense)} paid out"
        case Rejected(by=who, reason=why):
            return f"rejected by {who}: {why}"
