"""The apps and their providers: the TOML file that ``PUSHQ_CONFIG`` names, parsed once into frozen objects."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from pushq.errors import SettingsError
from pushq.platforms import PLATFORMS
from pushq.settings_objects import Frozen, line


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


def _rate(value: object) -> object:
    if value == "unlimited" or (type(value) is int and 60 <= value <= 1_000_000_000):
        return value
    # 0 would rather mean that nothing may be sent.
    raise ValueError(f'found {value!r}; expected a whole number from 60 to 1000000000, or "unlimited"')


RatePerMinute = Annotated[int | Literal["unlimited"], BeforeValidator(_rate)]


class LimitSettings(Frozen):
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


class AppSettings(Frozen):
    """One app and the providers it uses. A platform without a section cannot be sent to."""

    apns: ApnsSettings | None = None
    fcm: FcmSettings | None = None
    hms: HmsSettings | None = None

    def platforms(self) -> dict[str, ProviderSettings]:
        """The sections there are, in the order of :data:`pushq.platforms.PLATFORMS`."""
        found = {platform: getattr(self, platform) for platform in PLATFORMS}
        return {platform: settings for platform, settings in found.items() if settings is not None}


AppName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class _ConfigFile(Frozen):
    apps: dict[AppName, AppSettings] = Field(default_factory=dict)


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
        lines = [line(e, ".".join(str(part) for part in e["loc"]), document) for e in exc.errors()]
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
