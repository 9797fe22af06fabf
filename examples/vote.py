"""A quorum, and races: enough answers are enough, the rest is called off.

everstep dev examples.vote:app
everstep start elect '["ann", "bob", "cem", "dee", "eve"]' 3 --id vote-1 --wait
"""

from dataclasses import dataclass

from everstep import App, Context, MapError, NonRetryable, Retry

app = App("votes", retry=Retry(max_attempts=2))


@dataclass
class Ballot:
    member: str
    yes: bool


@app.activity
async def ask_for_vote(member: str) -> Ballot:
    if member.startswith("absent"):
        raise NonRetryable(f"{member} does not answer")
    return Ballot(member, yes=True)


@app.activity
async def quote(shop: str) -> int:
    return len(shop)


@app.workflow
async def elect(ctx: Context, members: list[str], quorum: int) -> str:
    try:
        votes = await ctx.map(ask_for_vote, members, enough=quorum)
    except MapError as error:
        return f"no quorum: {len(error.result.failed)} of {len(error.result)} did not vote"
    return f"{len(votes.values)} votes are enough"


@app.workflow
async def cheapest_of_two(ctx: Context, a: str, b: str) -> int:
    return await ctx.first(quote(a), quote(b))
