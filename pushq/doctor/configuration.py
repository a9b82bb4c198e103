"""The settings, as far as they are right: what is wrong with one must not keep the others from being looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pushq.app_settings import AppSettings, load_apps, parse_apps, read_document
from pushq.doctor.findings import Finding, failed, ok, warning
from pushq.errors import SettingsError
from pushq.platforms import TITLES
from pushq.settings import PREFIX, Settings, load

_SUBJECT = "configuration"
_CONFIG = f"{PREFIX}CONFIG"
_ADVICE = "Correct what the line names, then run `pushq doctor` again; README.md lists every setting."


def read(environ: Mapping[str, str]) -> tuple[Settings, list[Finding]]:
    """As much of the settings as can be used, and what there is to say about them."""
    ours = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    others = {name: value for name, value in environ.items() if name not in ours}
    findings: list[Finding] = []
    good: dict[str, str] = {}
    for name, value in ours.items():
        if name == _CONFIG:
            continue
        try:
            load({name: value})
            good[name] = value
        except SettingsError as exc:
            findings += _wrong(exc)
    try:
        settings = load(others | good)
    except SettingsError as exc:  # HTTPS_PROXY, where PUSHQ_PROXY_FROM_ENVIRONMENT says that it counts
        findings += _wrong(exc)
        settings = load(good | {f"{PREFIX}PROXY_FROM_ENVIRONMENT": "false"})
    if ours.get(_CONFIG):
        path = Path(ours[_CONFIG])
        apps, wrong = _apps(path)
        findings += wrong
        settings = settings.model_copy(update={"config": path, "apps": apps})
    else:
        findings.append(
            failed(
                _SUBJECT,
                f"{_CONFIG} is not set: there is no app to send for",
                "Write a TOML file with a table such as [apps.shop.fcm] and name it in PUSHQ_CONFIG.",
            )
        )
    if not findings:
        count = len(settings.apps)
        described = "; ".join(
            f"{name} ({', '.join(TITLES[platform] for platform in app.platforms())})"
            for name, app in list(settings.apps.items())[:20]
        )
        more = f"; and {count - 20} more" if count > 20 else ""
        findings.append(ok(_SUBJECT, f"{len(ours)} settings, {count} app(s): {described}{more}"))
    findings += [
        warning(
            _SUBJECT,
            f"app {name!r} has no provider",
            f"Add a table such as [apps.{name}.fcm], or remove [apps.{name}].",
        )
        for name, app in settings.apps.items()
        if not app.platforms()
    ]
    return settings, findings


def _apps(path: Path) -> tuple[Mapping[str, AppSettings], list[Finding]]:
    try:
        return load_apps(path), []
    except SettingsError as exc:
        wrong = _wrong(
            exc,
            " Workers that run keep the configuration that they have (pushq_config_reload_failed is 1); none can start.",
        )
    try:
        document = read_document(path)
    except SettingsError:
        return {}, wrong
    # Each table by itself: the others are still worth a look.
    apps: dict[str, AppSettings] = {}
    tables = document.get("apps")
    for name, table in tables.items() if isinstance(tables, dict) else ():
        for platform, section in table.items() if isinstance(table, dict) else ():
            try:
                one = parse_apps({"apps": {name: {platform: section}}}, path)[name]
            except SettingsError:
                continue
            have = apps.get(name, AppSettings())
            apps[name] = have.model_copy(update={platform: getattr(one, platform)})
    return apps, wrong


def _wrong(error: SettingsError, more: str = "") -> list[Finding]:
    return [failed(_SUBJECT, line, _ADVICE + more) for line in str(error).splitlines()]
