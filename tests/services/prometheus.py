"""A private Prometheus that scrapes what a test tells it to, and promtool."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import yaml

from pushq.embedded.errors import EmbeddedError
from pushq.embedded.sandbox import Sandbox
from pushq.embedded.server import Server

_API_TIMEOUT_S = 15.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: The exporter may take five seconds by design. A scrape that is cut off counts as down, and three of them would be an alert.
_SLOW = {"pushq-exporter": {"scrape_interval": "6s", "scrape_timeout": "6s"}}
_DURATION = re.compile(r"\b(\d+)([smhd])\b")


def find_prometheus() -> str:
    """Raises EmbeddedError when it is not installed."""
    return _find("prometheus")


def find_promtool() -> str:
    """Raises EmbeddedError when it is not installed: it comes with Prometheus."""
    return _find("promtool")


def _find(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise EmbeddedError(
            f"No `{program}` on PATH.", "Install it (Debian, Ubuntu: apt-get install prometheus)."
        )
    return path


def shortened(rules: str, divisor: int) -> str:
    """The same rules, but that every range, offset and ``for`` is so many times as short; the thresholds stay.

    Raises:
        ValueError: a duration is no multiple of ``divisor`` seconds.
    """

    def shorten(match: re.Match[str]) -> str:
        seconds, rest = divmod(int(match[1]) * _UNITS[match[2]], divisor)
        if rest:
            raise ValueError(f"{match[0]} is no multiple of {divisor} s")
        return f"{seconds}s"

    document = yaml.safe_load(rules)
    for rule in (rule for group in document["groups"] for rule in group["rules"]):
        for key in {"expr", "for"} & rule.keys():
            rule[key] = _DURATION.sub(shorten, rule[key])
    text: str = yaml.safe_dump(document)
    return text


@dataclass(frozen=True)
class Target:
    """What is scraped: a port of 127.0.0.1."""

    job: str
    role: str
    port: int


@dataclass(frozen=True)
class Alert:
    """An alert that is pending or fires; ``labels`` without its name."""

    name: str
    state: str
    labels: dict[str, str]
    annotations: dict[str, str]


class PrometheusServer(Server):
    """One private Prometheus with data of its own.

    Args:
        sandbox: an open sandbox.
        rules: the text of a rules file.
        interval: between two scrapes of a target, and how long one may take; less often of one that may take longer.
    """

    title = "Prometheus"

    def __init__(
        self,
        sandbox: Sandbox,
        targets: Sequence[Target],
        rules: str,
        interval: timedelta = timedelta(seconds=2),
    ) -> None:
        super().__init__(sandbox, f"prometheus-{secrets.token_hex(4)}")
        self._program = find_prometheus()
        every = f"{interval // timedelta(milliseconds=1)}ms"
        self._configuration = self.folder / "prometheus.yml"
        sandbox.file(self.folder / "rules.yml", rules)
        sandbox.file(
            self._configuration,
            yaml.safe_dump(
                {
                    "global": {
                        "scrape_interval": every,
                        "scrape_timeout": every,
                        "evaluation_interval": "1s",
                    },
                    "rule_files": ["rules.yml"],
                    "scrape_configs": [
                        {
                            "job_name": job,
                            **_SLOW.get(job, {}),
                            "static_configs": [
                                {"targets": [f"127.0.0.1:{target.port}"], "labels": {"role": target.role}}
                                for target in targets
                                if target.job == job
                            ],
                        }
                        for job in sorted({target.job for target in targets})
                    ],
                }
            ),
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query, now: ``metric`` (labels) and ``value`` of each series; NaN is no result.

        Raises:
            httpx.HTTPError: Prometheus does not take the expression, or does not answer.
        """
        document = self._get("/api/v1/query", query=expression)
        assert document["data"]["resultType"] == "vector", expression
        return [one for one in document["data"]["result"] if one["value"][1] != "NaN"]

    def values(self, expression: str, label: str) -> dict[str, float]:
        """The result of an instant query, by one of its labels."""
        return {one["metric"].get(label, ""): float(one["value"][1]) for one in self.query(expression)}

    def alerts(self) -> list[Alert]:
        """What is pending or fires now."""
        found = []
        for one in self._get("/api/v1/alerts")["data"]["alerts"]:
            labels = dict(one["labels"])
            found.append(Alert(labels.pop("alertname"), one["state"], labels, one["annotations"]))
        return found

    def rule_errors(self) -> list[str]:
        """Rules whose last evaluation failed, with the reason."""
        groups = self._get("/api/v1/rules")["data"]["groups"]
        return [
            f"{rule['name']}: {rule.get('lastError')}"
            for group in groups
            for rule in group["rules"]
            if rule["health"] == "err"
        ]

    def _get(self, path: str, **parameters: str) -> Any:
        with httpx.Client(timeout=_API_TIMEOUT_S, trust_env=False) as client:
            answer = client.get(f"http://127.0.0.1:{self.port}{path}", params=parameters)
        if answer.status_code == 400:
            raise httpx.HTTPStatusError(answer.text, request=answer.request, response=answer)
        return answer.raise_for_status().json()

    def _prepare(self) -> None:
        """Everything is there since the beginning; the port is an argument."""

    def _spawn(self) -> subprocess.Popen[bytes]:
        return self.sandbox.spawn(
            [
                self._program,
                f"--config.file={self._configuration}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=warn",
            ],
            log=self.log,
        )

    def _answers(self) -> bool:
        try:
            with httpx.Client(timeout=_API_TIMEOUT_S, trust_env=False) as client:
                return client.get(f"http://127.0.0.1:{self.port}/-/ready").status_code == 200
        except httpx.TransportError:
            return False
