"""Lines of tests that both checkers must accept, with the types that they must find."""

from datetime import datetime
from pathlib import Path
from typing import Any, assert_type

from tests.api.examples.subscription import Account, Proration, change_plan, current, subscription
from tests.api.examples.order import (
    Ledger,
    Order,
    Receipt,
    app,
    check_inventory,
    fulfil_order,
    notify_customer,
    open_ledger,
    process_payment,
)

from everstep import Client, Run, days, hours
from everstep.testing import (
    AttemptRecord,
    Calls,
    Elsewhere,
    HistoryEvent,
    Replayed,
    WorkflowEnvironment,
    assert_history,
    attempt,
    replay_elsewhere,
    replay_file,
)
from everstep.testing.pytest_plugin import EnvironmentFactory


async def pays(order: Order) -> Receipt:
    return Receipt("c", order.quantity)


async def pays_with(order: Order, *, ledger: Ledger) -> Receipt:
    return await ledger.charge(order, idempotency_key="k")


def counts(order: Order) -> bool:
    return order.quantity > 1


async def everything(start: datetime, workflow_environment: EnvironmentFactory) -> None:
    async with WorkflowEnvironment(app, start=start, auto_skip=False, replay_every_event=True) as env:
        assert_type(env, WorkflowEnvironment)
        assert_type(env.client, Client)
        assert_type(env.now(), datetime)
        await env.skip(days(1))
        await env.settle()
        await env.sleep(hours(1))
        counted = env.replace(check_inventory, counts)
        assert_type(counted.count, int)
        assert_type(counted.args, list[tuple[Any, ...]])
        assert_type(counted.fail(OSError(), times=2).delay(days(1)).count, int)
        env.replace(check_inventory, returns=True)
        env.replace(check_inventory, lambda order: order.quantity > 1)
        env.replace(process_payment, pays)
        env.replace(process_payment, pays_with)
        env.replace(process_payment, returns=Receipt("c", 1))
        env.replace("archive", counts)
        assert_type(env.replace("archive", returns=3), Calls[..., Any])
        env.spy(notify_customer)
        env.provide(open_ledger, Ledger())
        run = await env.client.start(
            fulfil_order,
            Order("17", "A", 1),
            id="x",
            attributes={"region": "eu"},
            memo={"note": 1},
            start_at=start,
            timeout=days(1),
            with_signal=("hello", 1),
        )
        assert_type(run, Run[str])
        assert_type(env.history(run), list[HistoryEvent])
        assert_type(env.history("x", 1), list[HistoryEvent])
        assert_history(run, "histories/x.jsonl")
        billed = env.client.run("y", of=subscription)
        assert_type(await billed.query(current), Account)
        assert_type(await billed.query("n", returns=int), int)
        assert_type(await billed.update(change_plan, Account("a", (await billed.query(current)).plan).plan), Proration)
        await env.client.callback("token").complete(3)
    async with workflow_environment(app, auto_skip=False) as env:
        await env.settle()
    assert_type(replay_file(app, Path("x")), Replayed)
    assert_type(replay_elsewhere([]), Elsewhere)
    with attempt(number=2, idempotency_key="k", last_heartbeat=3) as running:
        assert_type(running, AttemptRecord)
        assert_type(running.heartbeats, list[Any])
        running.cancel()


