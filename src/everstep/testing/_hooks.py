"""How whoever runs the tests says that kept histories are to be written anew."""

from __future__ import annotations

UPDATE_VARIABLE = "EVERSTEP_UPDATE_HISTORIES"
UPDATE_OPTION = "--everstep-update-histories"
