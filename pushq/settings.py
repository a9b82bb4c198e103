"""The settings of a process: environment variables, and the apps of the TOML file that one of them names, parsed once into a frozen object.

``load()`` raises :class:`~pushq.errors.SettingsError` with one message that names every wrong setting, what was found and what is
expected. Nothing else in pushq reads the environment.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from pushq.app_settings import AppSettings, ReadableFile, load_apps
from pushq.errors import SettingsError
from pushq.service_urls import BrokerUrl, DatabaseUrl, ManagementUrl, ProxyUrl, RedisUrl, ServiceUrl
from pushq.settings_objects import Frozen, line

PREFIX: Final = "PUSHQ_"


class RetrySettings(Frozen):
    """How often and how late a delivery is tried again. Seconds; ``max_attempts`` counts the first try as well."""

    max_attempts: Annotated[int, Field(ge=0, le=20)] = 3
    initial_delay: Annotated[float, Field(gt=0, le=3600)] = 1.0
    max_delay: Annotated[float, Field(gt=0, le=86400)] = 30.0


class Settings(Frozen):
    """Everything that can be set. ``database_url``, ``broker_url`` and ``redis_url`` are None where a process needs none."""

    database_url: DatabaseUrl | None = None
    broker_url: BrokerUrl | None = None
    redis_url: RedisUrl | None = None
    config: ReadableFile | None = None
    apps: Mapping[str, AppSettings] = Field(default_factory=dict)

    batch_size: Annotated[int, Field(ge=1, le=5000)] = 5000
    release_window: Annotated[int, Field(ge=1, le=10_000)] = 64
    plan_page: Annotated[int, Field(ge=100, le=200_000)] = 50_000
    lease_seconds: Annotated[float, Field(ge=2, le=3600)] = 30.0
    sweep_seconds: Annotated[float, Field(ge=0.2, le=600)] = 5.0
    request_timeout: Annotated[float, Field(ge=1, le=600)] = 30.0
    shutdown_grace: Annotated[float, Field(ge=4, le=3600)] = 20.0
    poison_runs: Annotated[int, Field(ge=1, le=100)] = 3
    reload_seconds: Annotated[float, Field(ge=0, le=3600)] = 5.0
    http_proxy: ProxyUrl | None = None
    http_proxy_password_file: ReadableFile | None = None
    http_proxy_ca_file: ReadableFile | None = None
    no_proxy: str = ""
    proxy_from_environment: bool = False
    token_ttl_days: Annotated[int, Field(ge=1, le=365)] = 30
    unseen_days: Annotated[int, Field(ge=1, le=3650)] = 270
    ledger_days: Annotated[int, Field(ge=1, le=3650)] = 90
    dead_letter_days: Annotated[int, Field(ge=1, le=3650)] = 90
    audit_days: Annotated[int, Field(ge=1, le=3650)] = 365
    web_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    web_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    web_allowed_hosts: str = ""
    web_trusted_proxies: str = ""
    web_key_rate: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    web_session_hours: Annotated[float, Field(ge=0.1, le=720)] = 12.0
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] | None = None
    tracing: bool = False
    events: bool = False
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    exporter_port: Annotated[int, Field(ge=1, le=65535)] = 9808
    rabbitmq_management_url: ManagementUrl | None = None
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    retry_max_attempts: Annotated[int, Field(ge=0, le=20)] = 3
    retry_initial_delay: Annotated[float, Field(gt=0, le=3600)] = 1.0
    retry_max_delay: Annotated[float, Field(gt=0, le=86400)] = 30.0

    @property
    def retry(self) -> RetrySettings:
        return RetrySettings(
            max_attempts=self.retry_max_attempts,
            initial_delay=self.retry_initial_delay,
            max_delay=self.retry_max_delay,
        )

    def need_database(self) -> ServiceUrl:
        return _needed(
            self.database_url, "DATABASE_URL", "a PostgreSQL URL such as postgresql://pushq@localhost/pushq"
        )

    def need_broker(self) -> ServiceUrl:
        return _needed(
            self.broker_url,
            "BROKER_URL",
            "a broker URL such as amqp://user@localhost:5672// or redis://localhost:6379/1",
        )

    def need_redis(self) -> ServiceUrl:
        return _needed(self.redis_url, "REDIS_URL", "a Redis URL such as redis://localhost:6379/0")

    def need_apps(self) -> Mapping[str, AppSettings]:
        if self.config is None:
            raise SettingsError(
                "PUSHQ_CONFIG: found nothing; expected the path of a TOML file with an [apps.NAME.apns], [apps.NAME.fcm] or [apps.NAME.hms] table"
            )
        if not self.apps:
            raise SettingsError(
                f"PUSHQ_CONFIG: found no app in {str(self.config)!r}; expected a table such as [apps.shop.fcm]"
            )
        return self.apps


def _needed(value: ServiceUrl | None, name: str, expected: str) -> ServiceUrl:
    if value is None:
        raise SettingsError(f"{PREFIX}{name}: found nothing; expected {expected}")
    return value


#: Fields of Settings that come from the environment, by variable.
_VARIABLES: Final = {PREFIX + name.upper(): name for name in Settings.model_fields if name != "apps"}
#: URLs hold passwords: each can stand in a file instead, which systemd and Kubernetes hand over without showing it to `ps`.
_FROM_FILES: Final = {
    f"{PREFIX}{name.upper()}_FILE": name
    for name in ("database_url", "broker_url", "redis_url", "rabbitmq_management_url")
}


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from ``environ`` (default: the process's) and the TOML file that ``PUSHQ_CONFIG`` names.

    Raises:
        SettingsError: something is wrong; the message has one line for each wrong setting.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    values: dict[str, Any] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = _VARIABLES.get(variable)
        if variable in _FROM_FILES:
            _read_into(values, problems, variable, Path(value), environ)
        elif name is None:
            known = [*_VARIABLES, *_FROM_FILES]
            near = difflib.get_close_matches(variable, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(sorted(known))}"
            problems.append(f"{variable}: found a variable that pushq does not know; expected {hint}")
        elif value == "":
            problems.append(f"{variable}: found an empty value; expected a value, or the variable unset")
        else:
            values[name] = value
    if str(values.get("proxy_from_environment")).lower() in _TRUE:
        values = {**_common_proxy(environ), **values}
    try:
        settings = Settings(**values)
    except ValidationError as exc:
        problems += [line(e, _variable(str(e["loc"][0]), environ), values) for e in exc.errors()]
        raise SettingsError("\n".join(problems)) from None
    if problems:
        raise SettingsError("\n".join(problems))
    if settings.config is not None:
        settings = settings.model_copy(update={"apps": load_apps(settings.config)})
    return settings


def _read_into(
    values: dict[str, Any], problems: list[str], variable: str, path: Path, environ: Mapping[str, str]
) -> None:
    """Take a value from the file at ``path``, or say what is wrong with it; never what stands in it."""
    direct = variable.removesuffix("_FILE")
    if direct in environ:
        problems.append(f"{variable}: found next to {direct}; expected only one of the two")
        return
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        why = (exc.strerror if isinstance(exc, OSError) else None) or "no UTF-8"
        problems.append(
            f"{variable}: found {str(path)!r}, which cannot be read ({why}); expected a file with a URL in it"
        )
        return
    if text:
        values[_FROM_FILES[variable]] = text
    else:
        problems.append(f"{variable}: found {str(path)!r}, which is empty; expected a file with a URL in it")


def _variable(name: str, environ: Mapping[str, str]) -> str:
    """The variable that a field's value came from."""
    variable = PREFIX + name.upper()
    if variable not in environ and f"{variable}_FILE" in environ:
        return f"{variable}_FILE"
    return "HTTPS_PROXY" if name == "http_proxy" and variable not in environ else variable


#: What pydantic takes for true.
_TRUE: Final = frozenset({"1", "true", "t", "yes", "y", "on"})


def _common_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxy that other programs use, by the variables that curl reads. Without a scheme it is an HTTP proxy."""
    found: dict[str, str] = {}
    url = environ.get("https_proxy") or environ.get("HTTPS_PROXY")
    if url:
        found["http_proxy"] = url if "://" in url else f"http://{url}"
    hosts = environ.get("no_proxy") or environ.get("NO_PROXY")
    if hosts:
        found["no_proxy"] = hosts
    return found
