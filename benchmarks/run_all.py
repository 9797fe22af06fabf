"""Measures Everstep beside its peers and prints the table: see README.md, or `run_all.py --help`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.suite import main

if __name__ == "__main__":
    main()
