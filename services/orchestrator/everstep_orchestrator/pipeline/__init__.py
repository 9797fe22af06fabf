"""Intake → load → decide → commit → publish: the path of everything that happens to a run."""
