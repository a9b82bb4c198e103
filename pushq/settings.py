"""The settings: environment variables and one TOML file, parsed once into frozen objects.

``load()`` raises :class:`~pushq.errors.SettingsError` with one message that names every wrong setting, what was found and what is
expected. Nothing else in pushq reads the environment. Values that hold a password are :class:`Secret`: their ``repr`` hides it.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from pushq.errors import SettingsError
from pushq.platforms import PLATFORMS

PREFIX: Final = "PUSHQ_"


class Secret:
    """A string that must not be printed: ``repr`` and ``str`` show only that it is there."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself: for the call that needs it, never for a message."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class ServiceUrl(Secret):
    """A URL that may carry a password; it prints with the password (and any query) left out."""

    __slots__ = ()

    def redacted(self) -> str:
        return ";".join(_redacted(one) for one in _each(self._value))

    def passwords(self) -> frozenset[str]:
        """The passwords in it, as written and decoded: what a log line must not show."""
        found = (urlsplit(one).password for one in _each(self._value))
        return frozenset(form for one in found if one for form in (one, unquote(one)))

    def each(self) -> list[ServiceUrl]:
        """One for each server, where several stand with ``;`` between them."""
        return [ServiceUrl(one) for one in _each(self._value)]

    def __repr__(self) -> str:
        return f"ServiceUrl({self.redacted()!r})"

    __str__ = redacted


def _each(text: str) -> list[str]:
    """Celery takes several broker URLs with ``;`` between them, to fail over."""
    return re.split(r";(?=[a-z+]+://)", text)


def _redacted(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "***"
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    user = f"{parts.username}:***@" if parts.password else f"{parts.username}@" if parts.username else ""
    return f"{parts.scheme}://{user}{host}{port}{parts.path}"


def _url(schemes: tuple[str, ...], example: str) -> Any:
    def parse(value: object) -> ServiceUrl:
        if isinstance(value, ServiceUrl):
            return value
        text = str(value)
        for one in _each(text):
            found = _fault(one, schemes)
            if found is not None:
                raise ValueError(f"found {found}; expected one like {example}")
        return ServiceUrl(text)

    return BeforeValidator(parse)


def _fault(text: str, schemes: tuple[str, ...]) -> str | None:
    """What is wrong with a URL, in words that cannot hold its password; None when nothing is."""
    scheme = text.partition("://")[0] if "://" in text else ""
    if not scheme:
        return "a value that is no URL"
    if scheme not in schemes:
        return f"a URL that begins with {scheme + '://'!r}"
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return "a URL whose host and port cannot be read (are all special characters of the password percent-encoded?)"
    if "@" in parts.path + parts.fragment:
        # Half a password would be taken for the host and the other half printed with the path.
        return "a URL with an @ after its host (are all special characters of the password percent-encoded?)"
    return None


DatabaseUrl = Annotated[
    ServiceUrl,
    _url(("postgresql", "postgres", "postgresql+psycopg"), "postgresql://pushq@localhost/pushq"),
]
RedisUrl = Annotated[ServiceUrl, _url(("redis", "rediss", "unix"), "redis://localhost:6379/0")]
BrokerUrl = Annotated[
    ServiceUrl,
    _url(
        ("amqp", "amqps", "pyamqp", "redis", "rediss"),
        "amqp://user@localhost:5672// or redis://localhost:6379/1",
    ),
]
ProxyUrl = Annotated[
    ServiceUrl,
    _url(("http", "https"), "http://proxy.example:3128 or http://user:password@proxy.example:3128"),
]


ManagementUrl = Annotated[
    ServiceUrl,
    _url(("http", "https"), "https://rabbitmq.example:15671 or http://user:password@localhost:15672"),
]


def _readable(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"found {str(path)!r}, which is not a file; expected a readable file")
    if not os.access(path, os.R_OK):
        raise ValueError(f"found {str(path)!r}, which cannot be read; expected a readable file")
    return path


ReadableFile = Annotated[Path, AfterValidator(_readable)]


def _https(value: str) -> str:
    expected = "expected https://HOST or https://HOST:PORT (TLS is always on)"
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError(f"found {value!r}, whose host and port cannot be read; {expected}") from None
    if "@" in parts.netloc:
        raise ValueError(f"found a URL with a user in it; {expected}")
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"found {value!r}; {expected}")
    return value.rstrip("/")


HttpsOrigin = Annotated[str, AfterValidator(_https)]


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,  # a limit of nan is no limit: it compares with nothing
    )


def _rate(value: object) -> object:
    if value == "unlimited" or (type(value) is int and 60 <= value <= 1_000_000_000):
        return value
    # 0 would rather mean that nothing may be sent.
    raise ValueError(f'found {value!r}; expected a whole number from 60 to 1000000000, or "unlimited"')


RatePerMinute = Annotated[int | Literal["unlimited"], BeforeValidator(_rate)]


class LimitSettings(_Frozen):
    """How fast the whole fleet may send for one app, and when it stops asking a provider that fails.

    Attributes:
        rate_per_minute: requests in any window of a minute.
        ramp_up_s: how long an idle fleet takes to reach the full rate, from a tenth of it; 0 is at once.
        transactional_share: of the burst; broadcasts leave it to transactional sends.
        local_share: of the limit; what each process may send by itself while Redis is gone.
        breaker_share: of the requests of the last 10 to 20 s; when so many fail, nothing is sent for a while.
        breaker_minimum: fewer requests than this say nothing.
    """

    rate_per_minute: RatePerMinute = "unlimited"
    ramp_up_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    transactional_share: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    local_share: Annotated[float, Field(gt=0, le=1)] = 0.125
    breaker_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    breaker_minimum: Annotated[int, Field(ge=1, le=1_000_000)] = 50


AppleId = Annotated[str, Field(pattern=r"^[A-Z0-9]{10}$")]


class ApnsSettings(LimitSettings):
    """One app's access to APNs, by provider token (a .p8 key) or by TLS client certificate. Apple publishes no limit of a rate.

    Attributes:
        topic: the bundle id.
        key_id, key_file: the key for both environments, or for production where the sandbox has one of its own.
        sandbox_key_id, sandbox_key_file: a key that Apple bound to the sandbox.
        certificate_file: .p12, or PEM with the key in it or in ``certificate_key_file``. It holds for both environments.
        certificate_password_file: of the .p12 file or of the key.
        manage_url, sandbox_manage_url: where broadcast channels are made and deleted.
    """

    topic: Annotated[str, Field(min_length=1, pattern=r"^[\x21-\x7e]+$")]
    team_id: AppleId | None = None
    key_id: AppleId | None = None
    key_file: ReadableFile | None = None
    sandbox_key_id: AppleId | None = None
    sandbox_key_file: ReadableFile | None = None
    certificate_file: ReadableFile | None = None
    certificate_key_file: ReadableFile | None = None
    certificate_password_file: ReadableFile | None = None
    url: HttpsOrigin = "https://api.push.apple.com"
    sandbox_url: HttpsOrigin = "https://api.sandbox.push.apple.com"
    manage_url: HttpsOrigin = "https://api-manage-broadcast.push.apple.com:2196"
    sandbox_manage_url: HttpsOrigin = "https://api-manage-broadcast.sandbox.push.apple.com:2195"
    ca_file: ReadableFile | None = None
    min_connections: Annotated[int, Field(ge=1, le=1000)] = 1
    max_connections: Annotated[int, Field(ge=1, le=1000)] = 8
    idle_close_seconds: Annotated[float, Field(ge=1, le=86400)] = 600.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        token = ("team_id", "key_id", "key_file")
        keys = [
            name
            for name in (*token[1:], "sandbox_key_id", "sandbox_key_file")
            if getattr(self, name) is not None
        ]
        if self.certificate_file is not None:
            if keys:
                raise ValueError(
                    f"found certificate_file and {', '.join(keys)}; expected one of the two ways"
                )
            return self
        spare = [
            name
            for name in ("certificate_key_file", "certificate_password_file")
            if getattr(self, name) is not None
        ]
        if spare:
            raise ValueError(f"found {' and '.join(spare)} without certificate_file; expected all of them")
        missing = [name for name in token if getattr(self, name) is None]
        if missing:
            raise ValueError(
                f"found no {' and no '.join(missing)}; expected team_id, key_id and key_file (a .p8 key), or certificate_file"
            )
        if (self.sandbox_key_id is None) != (self.sandbox_key_file is None):
            raise ValueError("found one of sandbox_key_id and sandbox_key_file; expected both or neither")
        return self

    @property
    def limit_name(self) -> str:
        """What the provider counts by: apps that have it in common share one limit."""
        return f"apns:{self.team_id or 'certificate'}:{self.topic}"

    @property
    def secret_file(self) -> Path:
        found = self.key_file or self.certificate_file
        assert found is not None  # by _consistent
        return found


class FcmSettings(LimitSettings):
    """One app's access to FCM by service account. 600,000 a minute is a project's quota unless Google raised it.

    Attributes:
        iid_url: where registrations are subscribed to topics.
    """

    rate_per_minute: RatePerMinute = 600_000
    project_id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")]
    service_account_file: ReadableFile
    url: HttpsOrigin = "https://fcm.googleapis.com"
    iid_url: HttpsOrigin = "https://iid.googleapis.com"
    ca_file: ReadableFile | None = None
    min_connections: Annotated[int, Field(ge=1, le=1000)] = 2
    max_connections: Annotated[int, Field(ge=1, le=1000)] = 64
    idle_close_seconds: Annotated[float, Field(ge=1, le=86400)] = 600.0

    @property
    def limit_name(self) -> str:
        """What the provider counts by: apps that have it in common share one limit."""
        return f"fcm:{self.project_id}"

    @property
    def secret_file(self) -> Path:
        return self.service_account_file


class HmsSettings(LimitSettings):
    """One app's access to HMS Push Kit. Huawei counts devices, and lets every app have at least 6,000 of them a second.

    Attributes:
        api: ``v1`` (path by app) and ``v2`` (path by project) reach phones up to HarmonyOS 4, ``v3`` those from HarmonyOS 5 on.
        app_id: for ``v1``, where it is not the OAuth client's id.
        tokens_per_request: an answer that is lost speaks of so many devices.
        breaker_minimum: devices, too: one failed request is not yet an outage.
    """

    rate_per_minute: RatePerMinute = 360_000
    breaker_minimum: Annotated[int, Field(ge=1, le=1_000_000)] = 5000
    api: Literal["v1", "v2", "v3"]
    client_id: Annotated[str, Field(pattern=r"^[0-9]{1,32}$")] | None = None
    client_secret_file: ReadableFile | None = None
    service_account_file: ReadableFile | None = None
    app_id: Annotated[str, Field(pattern=r"^[0-9]{1,32}$")] | None = None
    project_id: Annotated[str, Field(pattern=r"^[0-9]{1,32}$")] | None = None
    url: HttpsOrigin = "https://push-api.cloud.huawei.com"
    oauth_url: HttpsOrigin = "https://oauth-login.cloud.huawei.com"
    ca_file: ReadableFile | None = None
    tokens_per_request: Annotated[int, Field(ge=1, le=1000)] = 1000
    max_connections: Annotated[int, Field(ge=1, le=1000)] = 64
    idle_close_seconds: Annotated[float, Field(ge=1, le=86400)] = 60.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Huawei, "Push Kit REST API": v3 takes no OAuth token, v1 names the app in its path and the others the project."""
        secrets = [
            name for name in ("client_secret_file", "service_account_file") if getattr(self, name) is not None
        ]
        if len(secrets) != 1:
            raise ValueError(
                f"found {' and '.join(secrets) or 'no secret'}; expected either client_id and client_secret_file, "
                "or service_account_file"
            )
        if self.api == "v3" and self.service_account_file is None:
            raise ValueError(
                "found client_secret_file with api 'v3', which takes no OAuth token; expected service_account_file"
            )
        if self.client_secret_file is not None and self.client_id is None:
            raise ValueError("found client_secret_file without client_id; expected both")
        if self.api == "v1" and not (self.app_id or self.client_id):
            raise ValueError("found api 'v1' without client_id and app_id; expected one of them for its path")
        if self.api != "v1" and self.project_id is None:
            raise ValueError(f"found api {self.api!r} without project_id; expected it for its path")
        return self

    @property
    def path_id(self) -> str:
        """Whose messages these are, in the path of a request."""
        found = (self.app_id or self.client_id) if self.api == "v1" else self.project_id
        assert found is not None  # by _consistent
        return found

    @property
    def limit_name(self) -> str:
        """What the provider counts by: apps that have it in common share one limit."""
        return f"hms:{self.app_id or self.client_id or self.project_id}"

    @property
    def secret_file(self) -> Path:
        found = self.client_secret_file or self.service_account_file
        assert found is not None  # by _consistent
        return found


ProviderSettings = ApnsSettings | FcmSettings | HmsSettings


class AppSettings(_Frozen):
    """One app and the providers it uses. A platform without a section cannot be sent to."""

    apns: ApnsSettings | None = None
    fcm: FcmSettings | None = None
    hms: HmsSettings | None = None

    def platforms(self) -> dict[str, ProviderSettings]:
        """The sections there are, in the order of :data:`pushq.platforms.PLATFORMS`."""
        found = {platform: getattr(self, platform) for platform in PLATFORMS}
        return {platform: settings for platform, settings in found.items() if settings is not None}


AppName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class _ConfigFile(_Frozen):
    apps: dict[AppName, AppSettings] = Field(default_factory=dict)


class RetrySettings(_Frozen):
    """How often and how late a delivery is tried again. Seconds; ``max_attempts`` counts the first try as well."""

    max_attempts: Annotated[int, Field(ge=0, le=20)] = 3
    initial_delay: Annotated[float, Field(gt=0, le=3600)] = 1.0
    max_delay: Annotated[float, Field(gt=0, le=86400)] = 30.0


class Settings(_Frozen):
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
        problems += [_line(e, _variable(str(e["loc"][0]), environ), values) for e in exc.errors()]
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


def load_apps(path: Path) -> Mapping[str, AppSettings]:
    """Parse the TOML file at ``path``; relative file names in it are relative to its folder.

    Raises:
        SettingsError: the file is no TOML, a table in it is wrong, or two that share a limit contradict each other.
    """
    return parse_apps(read_document(path), path)


def read_document(path: Path) -> Mapping[str, Any]:
    """The TOML file at ``path`` as it stands.

    Raises:
        SettingsError: it cannot be read, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(
            f"PUSHQ_CONFIG: found {str(path)!r}, which is not TOML ({exc}); expected a TOML file"
        ) from None
    except OSError as exc:
        raise SettingsError(
            f"PUSHQ_CONFIG: found {str(path)!r}, which cannot be read ({exc.strerror})"
        ) from None


def parse_apps(document: Mapping[str, Any], path: Path) -> Mapping[str, AppSettings]:
    """The apps of a document that stood at ``path``.

    Raises:
        SettingsError: a table is wrong, or two that share a limit contradict each other.
    """
    try:
        apps = _ConfigFile.model_validate(_absolute(document, path.resolve().parent)).apps
    except ValidationError as exc:
        lines = [_line(e, ".".join(str(part) for part in e["loc"]), document) for e in exc.errors()]
        raise SettingsError("\n".join(f"{path}: {line}" for line in lines)) from None
    if lines := _contradictions(apps):
        raise SettingsError("\n".join(f"{path}: {line}" for line in lines))
    return apps


#: What apps with one limit have in common.
_SHARED_BY: Final = {"apns": "APNs team and topic", "fcm": "FCM project", "hms": "HMS app"}


def _contradictions(apps: Mapping[str, AppSettings]) -> list[str]:
    """Where tables that share a limit say different things about it: each worker would change it for the others."""
    first: dict[str, tuple[str, LimitSettings]] = {}
    lines = []
    for app, providers in apps.items():
        for platform, settings in providers.platforms().items():
            table = f"apps.{app}.{platform}"
            other, theirs = first.setdefault(settings.limit_name, (table, settings))
            for field in LimitSettings.model_fields:
                found, expected = getattr(settings, field), getattr(theirs, field)
                if found != expected:
                    lines.append(
                        f"{table}.{field}: found {found!r}; expected {expected!r} as in {other}, "
                        f"which has the same {_SHARED_BY[platform]} and so shares the limit"
                    )
    return lines


def _absolute(node: Any, folder: Path) -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: str(folder / value)
        if key.endswith("_file") and isinstance(value, str)
        else _absolute(value, folder)
        for key, value in node.items()
    }


_EXPECTED: Final = {
    "missing": "it is required",
    "extra_forbidden": "no such key",
    "int_parsing": "a whole number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
}


def _line(error: Any, name: str, source: Mapping[str, Any]) -> str:
    kind, message = error["type"], error["msg"]
    if kind == "value_error":
        return f"{name}: {message.removeprefix('Value error, ')}"
    if kind == "missing":
        return f"{name}: found nothing; expected a value (it is required)"
    found = _dig(source, error["loc"])
    shown = "a value" if found is None or "url" in name.lower() else repr(found)
    if kind == "extra_forbidden":
        return f"{name}: found a key that pushq does not know; expected it removed or its spelling corrected"
    context = error.get("ctx") or {}
    if kind == "string_pattern_mismatch":
        return f"{name}: found {shown}; expected text of the form {context.get('pattern')}"
    return f"{name}: found {shown}; expected {_EXPECTED.get(kind, message[:1].lower() + message[1:])}"


def _dig(source: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        if not isinstance(source, Mapping) or part not in source:
            return None
        source = source[part]
    return source
