"""What the pytest plugin and the environments know of each other. Imports nothing: the plugin is always loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everstep.testing._elsewhere import Recorded

# Takes the history of each run that a test leaves; set for the length of a pytest session.
collector: Callable[[Recorded], None] | None = None

UPDATE_VARIABLE = "EVERSTEP_UPDATE_HISTORIES"
UPDATE_OPTION = "--everstep-update-histories"
