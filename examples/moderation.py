"""A task for a person in another system, answered by callback: whoever holds the token decides, once.

everstep dev examples.moderation:app
everstep start moderate '{"id": "p-1", "text": "buy now!"}' --id p-1
everstep query p-1 ticket
everstep callback complete TOKEN '"remove"'
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from everstep import App, CallbackError, Context, WaitTimeout, days

app = App("moderation")
Verdict = Literal["keep", "remove"]


@dataclass
class Post:
    id: str
    text: str


@app.activity
async def open_ticket(post: Post, token: str) -> str:
    """Would post the text and the token to the moderators' tool."""
    return f"ticket-{post.id}"


@app.activity
async def close_ticket(ticket: str) -> None:
    """Would close it there."""


@app.workflow
async def moderate(ctx: Context, post: Post, patience: timedelta = days(3)) -> Verdict:
    verdict = ctx.callback(Verdict, timeout=patience, heartbeat_timeout=patience / 6)
    ticket = await open_ticket(post, verdict.token)
    ctx.expose(ticket={"ticket": ticket, "token": verdict.token})
    ctx.set_status(f"waiting for a moderator: {ticket}")
    try:
        return await verdict
    except WaitTimeout:  # nobody answered, or nobody was at it any more
        return "remove"
    except CallbackError as refusal:
        ctx.milestone(f"no verdict: {refusal}")
        return "keep"
    finally:
        await close_ticket(ticket)
