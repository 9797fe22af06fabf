"""`python -m everstep.cli` is `everstep`."""

from __future__ import annotations

from everstep.cli import main

main()
