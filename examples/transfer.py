"""Polling an outside system until something is true there, with pauses that grow, and giving up after a while.

everstep dev examples.transfer:app
everstep start pay 500 '"DE89"' --id t-1 --wait
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from everstep import App, Backoff, Context, WaitTimeout, hours, minutes, seconds

app = App("bank")


@dataclass
class Transfer:
    id: str
    state: Literal["pending", "settled", "returned"]


@app.activity
async def submit_transfer(amount: int, iban: str) -> Transfer:
    return Transfer(f"{iban}-{amount}", "pending")


@app.activity
async def look_up(transfer_id: str, looks: int) -> Transfer:
    """The bank of this example settles at the third look, returns what goes to XX and never answers for ??."""
    if transfer_id.startswith("XX"):
        return Transfer(transfer_id, "returned")
    settled = looks >= 3 and not transfer_id.startswith("??")
    return Transfer(transfer_id, "settled" if settled else "pending")


@app.workflow
async def pay(
    ctx: Context, amount: int, iban: str, every: timedelta = seconds(5), patience: timedelta = hours(48)
) -> str:
    sent = await submit_transfer(amount, iban)
    looks = 0

    async def look() -> Transfer:
        nonlocal looks
        looks += 1
        return await look_up(sent.id, looks)

    try:
        settled = await ctx.poll(
            look,
            until=lambda transfer: transfer.state != "pending",
            every=Backoff(every, maximum=max(every, minutes(10))),
            timeout=patience,
        )
    except WaitTimeout:
        return f"unknown after {patience}"
    return f"{settled.state} after {looks} looks"
