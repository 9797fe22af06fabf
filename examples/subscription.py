"""A subscription that bills every period, for ever: continue-as-new, an update with a validator, a query, a signal.

everstep dev examples.subscription:app
everstep start subscription '{"customer": "c-1", "plan": {"name": "basic", "monthly_cents": 500}}' --id c-1
everstep update c-1 change_plan '{"name": "pro", "monthly_cents": 900}'
everstep query c-1 account
everstep signal c-1 unsubscribe '"too expensive"'
"""

from dataclasses import dataclass, replace
from datetime import timedelta

from everstep import App, Context, Query, Signal, Update, days

app = App("billing")


@dataclass
class Plan:
    name: str
    monthly_cents: int


@dataclass
class Account:
    customer: str
    plan: Plan
    periods: int = 0
    paid_cents: int = 0


@dataclass
class Proration:
    credit_cents: int


change_plan = Update[Plan, Proration]("change_plan")
unsubscribe = Signal[str]("unsubscribe")
current = Query[Account]("account")


@app.activity
async def charge(customer: str, cents: int) -> int:
    return cents


@app.activity
async def prorate(old: Plan, new: Plan) -> Proration:
    return Proration(max(0, old.monthly_cents - new.monthly_cents))


def costs_something(plan: Plan) -> None:
    if plan.monthly_cents < 0:
        raise ValueError("a plan cannot cost less than nothing")


@app.workflow
async def subscription(ctx: Context, account: Account, period: timedelta = days(30)) -> Account:
    ctx.on_query(current, lambda: account)

    @ctx.on_update(change_plan, validate=costs_something)
    async def _(plan: Plan) -> Proration:
        nonlocal account
        proration = await prorate(account.plan, plan)
        account = replace(account, plan=plan)
        return proration

    reason = await ctx.wait_for_signal(unsubscribe, timeout=period, default=None)
    if reason is not None:
        await ctx.handlers_done()
        ctx.set_status(f"ended: {reason}")
        return account
    paid = await charge(account.customer, account.plan.monthly_cents)
    account = replace(account, periods=account.periods + 1, paid_cents=account.paid_cents + paid)
    await ctx.handlers_done()  # of a plan that is being changed the next run would know nothing
    ctx.continue_as_new(subscription, account, period)
