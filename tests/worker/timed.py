"""`python -m everstep_worker` with the times in WORKER_TESTS_TIMES."""

from __future__ import annotations

import json
import os
import sys

from everstep_worker.__main__ import main
from everstep_worker.times import Times

if __name__ == "__main__":
    sys.exit(main(times=Times(**json.loads(os.environ["WORKER_TESTS_TIMES"]))))
