"""What the metrics of this process say, and what was added to them."""

from __future__ import annotations

from prometheus_client import REGISTRY


def value(name: str, **labels: str) -> float | None:
    """A sample as Prometheus would see it; None where there is none."""
    return REGISTRY.get_sample_value(name, labels)


class Counted:
    """What was added to a counter since this was made."""

    def __init__(self, name: str, **labels: str) -> None:
        self._name, self._labels = name, labels
        self._before = self._value()

    def _value(self) -> float:
        return value(self._name, **self._labels) or 0.0

    @property
    def more(self) -> float:
        return self._value() - self._before
