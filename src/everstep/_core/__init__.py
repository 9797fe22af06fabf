"""The pure engine. Importing it lets asyncio's functions ask whether they are called within a workflow: `dispatch`."""

from everstep._core.dispatch import install

install()
