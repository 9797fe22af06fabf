"""Metrics are declared once, belong to one kind of process, and cannot be filled from outside."""

from __future__ import annotations

from prometheus_client import generate_latest

from everstep import telemetry
from everstep.telemetry import METRICS, ORCHESTRATOR, WORKER, known


def test_every_metric_is_in_the_registry_of_its_process_alone() -> None:
    exported = {
        "orchestrator": {family.name for family in ORCHESTRATOR.collect()},
        "worker": {family.name for family in WORKER.collect()},
    }
    assert not exported["orchestrator"] & exported["worker"]
    for metric in METRICS:
        assert metric.name.removesuffix("_total") in exported[metric.process]
    assert sum(map(len, exported.values())) == len(METRICS)


def test_the_module_names_each_metric_after_itself() -> None:
    for metric in METRICS:
        assert hasattr(telemetry, metric.name.removeprefix("everstep_").removesuffix("_total").upper())


def test_labels_never_carry_ids() -> None:
    labels = {label for metric in METRICS for label in metric.labels}
    assert labels
    assert not labels & {"workflow_id", "run", "run_key", "token", "id", "worker"}


def test_names_from_outside_share_one_label_value() -> None:
    registered = {"fulfil_order": object()}
    assert known("fulfil_order", registered) == "fulfil_order"
    assert {known(f"w{n}", registered) for n in range(5000)} == {"_unknown"}


def test_a_counted_fact_is_exported() -> None:
    telemetry.ARGUMENT_DIFFERENCES.labels(workflow="of_this_test").inc()
    assert b'everstep_argument_differences_total{workflow="of_this_test"} 1.0' in generate_latest(ORCHESTRATOR)
