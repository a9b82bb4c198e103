"""The histograms that count in bulk, and labels that only come from tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest
from prometheus_client import Histogram as Reference
from prometheus_client.metrics import MetricWrapperBase

from pushq import metrics
from pushq.ledger.outcomes import Outcome
from pushq.platforms import PLATFORMS
from pushq.providers import error_metrics
from pushq.providers.apns import responses as apns
from pushq.providers.error_metrics import count_errors
from pushq.providers.fcm import responses as fcm

BUCKETS = (0.05, 1, 2.5)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def samples(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_a_bulk_histogram_says_what_the_librarys_says() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bulk = metrics.Histogram("wait_seconds", "Waits.", ("lane",), BUCKETS, registry=ours)
    reference = Reference("wait_seconds", "Waits.", ("lane",), buckets=BUCKETS, registry=theirs)
    for seconds, count in ((0.0, 2), (0.05, 3), (0.051, 1), (1.0, 4), (2.5, 1), (1000.0, 2)):
        bulk.observe(("fast",), seconds, count)
        for _ in range(count):
            reference.labels("fast").observe(seconds)
    assert samples(ours) == pytest.approx(samples(theirs))
    text = generate_latest(ours).decode()
    assert 'wait_seconds_bucket{lane="fast",le="1.0"} 10.0' in text
    assert 'wait_seconds_bucket{lane="fast",le="+Inf"} 13.0' in text


def test_a_series_can_begin_at_zero() -> None:
    registry = CollectorRegistry()
    bulk = metrics.Histogram("wait_seconds", "Waits.", ("lane",), BUCKETS, registry=registry)
    bulk.observe(("fast",), 0.0, 0)
    assert registry.get_sample_value("wait_seconds_count", {"lane": "fast"}) == 0
    with pytest.raises(ValueError, match="has the labels"):
        bulk.observe(("fast", "furious"), 1.0)


def test_an_app_begins_with_all_its_series() -> None:
    metrics.expect("begun", "apns")
    for reason in metrics.FAILURES:
        labels = {"app": "begun", "platform": "apns", "lane": "broadcast", "reason": reason}
        assert REGISTRY.get_sample_value("push_failed_total", labels) == 0
    assert (
        REGISTRY.get_sample_value("push_provider_latency_seconds_count", {"app": "begun", "platform": "apns"})
        == 0
    )


def test_every_failure_of_the_ledger_has_a_label() -> None:
    final = {outcome.name.lower() for outcome in Outcome if outcome > Outcome.ACCEPTED}
    assert set(metrics.FAILURES) == final


def test_a_providers_word_is_a_label_only_if_its_table_knows_it() -> None:
    before = value("fcm_errors_total", code="UNREGISTERED"), value("fcm_errors_total", code="other")
    count_errors("fcm", {"UNREGISTERED": 2, "apns_Made up": 1, "BUY_NOW": 4})
    after = value("fcm_errors_total", code="UNREGISTERED"), value("fcm_errors_total", code="other")
    assert (after[0] - before[0], after[1] - before[1]) == (2, 5)
    assert REGISTRY.get_sample_value("fcm_errors_total", {"code": "BUY_NOW"}) is None


def test_every_reason_of_a_table_is_known() -> None:
    assert {word for _, word in apns.RULES} <= apns.REASONS
    assert {"status_410", "other_4xx", "other_5xx"} <= apns.REASONS
    assert {
        "UNREGISTERED",
        "QUOTA_EXCEEDED",
        "QUOTA_EXCEEDED_DEVICE",
        "INVALID_ARGUMENT",
        "INVALID_TOKEN",
        "status_503",
    } <= fcm.REASONS
    assert "" not in fcm.REASONS


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_platform_has_a_counter_of_errors(platform: str) -> None:
    _, known = error_metrics._ERRORS[platform]
    assert known, "the reasons of its table"


def documented() -> dict[str, tuple[str, ...]]:
    """Metrics of the page's table, by name as Prometheus sees it, with their labels."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| ([a-z_, ]*)\|", page, re.MULTILINE)
    return {
        name: tuple(label.strip() for label in labels.split(",") if label.strip()) for name, labels in rows
    }


def test_the_page_lists_every_metric_with_its_labels() -> None:
    defined: dict[str, tuple[str, ...]] = {}
    for value in vars(metrics).values():
        if isinstance(value, metrics.Family):
            defined[value.name] = value.labels
        elif isinstance(value, metrics.Histogram):
            defined[value._name] = value._labels
        elif isinstance(value, MetricWrapperBase):
            suffix = "_total" if isinstance(value, Counter) else ""
            defined[value._name + suffix] = tuple(value._labelnames)
    assert documented() == defined
