"""`python -m everstep_schemas.documents DIRECTORY` writes `asyncapi.json` and `jsonschema/*.json` there."""

import sys
from pathlib import Path

from everstep_schemas.documents.files import files

if len(sys.argv) != 2:
    sys.exit(__doc__)
for name, content in files().items():
    path = Path(sys.argv[1]) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
