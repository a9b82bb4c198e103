"""The servers: PostgreSQL, the broker, Redis, and the workers that announce themselves there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import redis
from amqp.exceptions import NotFound
from kombu import Connection
from kombu.exceptions import OperationalError

from pushq.app import CORE_QUEUES, PLATFORM_QUEUES, POISON, tls_options
from pushq.database import Database
from pushq.doctor import clocks
from pushq.doctor.clocks import Reading, judge_clock
from pushq.doctor.findings import Finding, failed, ok, warning
from pushq.errors import ServiceUnavailable
from pushq.ledger import schema
from pushq.redis_client import open_redis
from pushq.reload import announced, digest
from pushq.reload.files import SHOWN
from pushq.service_urls import ServiceUrl
from pushq.settings import Settings

#: The oldest that are tested.
POSTGRES: Final = (15, 0)
RABBITMQ: Final = (3, 10)
REDIS: Final = (6, 2)
CONNECT_S: Final = 5.0
#: A share of maxmemory from which little is left.
NEARLY_FULL: Final = 0.9

DATABASE_ADVICE: Final = "Check that PostgreSQL runs, that PUSHQ_DATABASE_URL is right, and that a firewall lets this machine through."
BROKER_ADVICE: Final = "Check that the broker runs, that PUSHQ_BROKER_URL is right, and that a firewall lets this machine through."
REDIS_ADVICE: Final = (
    "Check that Redis runs, that PUSHQ_REDIS_URL is right, and that a firewall lets this machine through."
)


def database(settings: Settings) -> Sequence[Finding]:
    """Reachable, writable, recent, at this version's schema, and its clock."""
    url = settings.database_url
    if url is None:
        return [_unset("database", "PUSHQ_DATABASE_URL", "postgresql://pushq@localhost/pushq")]
    opened = Database(url, pool_size=1, application_name="pushq-doctor")
    try:
        with opened.begin() as connection:
            asked = clocks.now()
            row = connection.exec_driver_sql(
                "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),"
                " extract(epoch FROM clock_timestamp())::float8"
            ).one()
            reading = Reading(float(row[2]), asked, clocks.now())
        findings = [*_postgres(url, (row[0] // 10_000, row[0] % 10_000), standby=row[1])]
        found, newest = schema.current(opened), schema.HEAD
    except ServiceUnavailable as exc:
        return [failed("database", f"{url.redacted()}: {exc.detail}", DATABASE_ADVICE)]
    finally:
        opened.close()
    if found != newest:
        text = f"the schema is {found or 'missing'}, this version of pushq needs {newest}"
        findings.append(failed("database", text, "Run: pushq db upgrade"))
    return [*findings, judge_clock("clock", "the database's", reading)]


def _postgres(url: ServiceUrl, version: tuple[int, int], *, standby: bool) -> list[Finding]:
    text = f"{url.redacted()} answers, PostgreSQL {version[0]}.{version[1]}"
    if standby:
        return [
            failed(
                "database",
                f"{text}, but it is a standby, which cannot be written to",
                "Name the primary in PUSHQ_DATABASE_URL (with libpq: target_session_attrs=read-write).",
            )
        ]
    if version < POSTGRES:
        return [failed("database", text, f"Use PostgreSQL {POSTGRES[0]} or newer.")]
    return [ok("database", text)]


def broker(settings: Settings) -> Sequence[Finding]:
    """Reachable, recent, and on RabbitMQ: the queues, who takes from them, and what came back too often."""
    url = settings.broker_url
    if url is None:
        return [
            _unset("broker", "PUSHQ_BROKER_URL", "amqp://user@localhost:5672// or redis://localhost:6379/1")
        ]
    if url.reveal().startswith("redis"):
        return _redis_server(ServiceUrl(url.reveal().partition(";")[0]), "broker", BROKER_ADVICE)
    connection = Connection(url.reveal(), connect_timeout=CONNECT_S, ssl=tls_options(url.reveal()))
    try:
        connection.ensure_connection(max_retries=1, timeout=CONNECT_S)
        return _rabbitmq(connection, settings)
    except (OperationalError, OSError) as exc:
        cause = exc.__cause__ or exc
        return [failed("broker", f"{url.redacted()}: {cause}"[:300], BROKER_ADVICE)]
    finally:
        connection.release()


def _rabbitmq(connection: Connection, settings: Settings) -> list[Finding]:
    properties: Mapping[str, Any] = connection.connection.server_properties
    version = _version(str(properties.get("version", "")))
    text = f"{properties.get('product', 'the broker')} {'.'.join(map(str, version))} answers"
    if version and version < RABBITMQ:
        findings = [
            failed("broker", text, f"Use RabbitMQ {'.'.join(map(str, RABBITMQ))} or newer: quorum queues.")
        ]
    else:
        findings = [ok("broker", text)]
    wanted = dict.fromkeys(CORE_QUEUES, "core")
    platforms = {platform for app in settings.apps.values() for platform in app.platforms()}
    wanted |= {name: p for (p, _), name in PLATFORM_QUEUES.items() if p in platforms}
    missing, idle = [], []
    for name, kind in wanted.items():
        found = _queue(connection, name)
        if found is None:
            missing.append((name, kind))
        elif found[1] == 0:
            idle.append((name, kind))
    for what, queues in (("there is no queue", missing), ("no worker takes from", idle)):
        if queues:
            names, kinds = ", ".join(name for name, _ in queues), sorted({kind for _, kind in queues})
            start = " and ".join(f"`pushq worker {kind}`" for kind in kinds)
            findings.append(
                warning("broker", f"{what} {names}", f"Start {start}; workers make their queues.")
            )
    poison = _queue(connection, POISON)
    if poison is not None and poison[0]:
        findings.append(
            warning(
                "broker",
                f"{poison[0]} message(s) in {POISON}: they came back too often",
                "See what the workers' logs say. Calls (pushq.send_...) whose id `pushq show` does not know: move them back to their queue;"
                " all else the ledger has issued again, so it may be purged.",
            )
        )
    return findings


def _queue(connection: Connection, name: str) -> tuple[int, int] | None:
    """How many messages wait and how many consumers there are; None if there is no such queue."""
    # A refusal closes its channel.
    channel = connection.channel()
    try:
        declared = channel.queue_declare(queue=name, passive=True)
    except NotFound:
        return None
    else:
        return declared.message_count, declared.consumer_count
    finally:
        channel.close()


def redis_server(settings: Settings) -> Sequence[Finding]:
    """Reachable, recent, forgets nothing, keeps it over a restart, and its clock."""
    if settings.redis_url is None:
        return [_unset("Redis", "PUSHQ_REDIS_URL", "redis://localhost:6379/0")]
    return _redis_server(settings.redis_url, "Redis", REDIS_ADVICE, clock=True)


def _redis_server(url: ServiceUrl, subject: str, advice: str, *, clock: bool = False) -> list[Finding]:
    client = open_redis(url, max_connections=1, connect_timeout=CONNECT_S, command_timeout=CONNECT_S)
    try:
        info: Any = client.info()
        asked = clocks.now()
        seconds, microseconds = client.time()
        reading = Reading(seconds + microseconds / 1e6, asked, clocks.now())
    except redis.RedisError as exc:
        return [failed(subject, f"{url.redacted()}: {exc}"[:300], advice)]
    finally:
        client.close()
    findings = [*_memory(subject, info), *_persistence(subject, info)]
    version = _version(str(info.get("redis_version", "")))
    text = f"{url.redacted()} answers, Redis {'.'.join(map(str, version))}"
    if version and version < REDIS:
        findings.insert(0, failed(subject, text, f"Use Redis {'.'.join(map(str, REDIS))} or newer."))
    else:
        findings.insert(0, ok(subject, text))
    return [*findings, judge_clock("clock", "that of Redis", reading)] if clock else findings


def _memory(subject: str, info: Mapping[str, Any]) -> list[Finding]:
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        text = f"maxmemory-policy is {policy}: journals and queues may be forgotten when memory is full"
        advice = "Set maxmemory-policy noeviction: better an error than a recipient of whom nobody knows."
        return [failed(subject, text, advice) if limit else warning(subject, text, advice)]
    if limit and used > NEARLY_FULL * limit:
        text = (
            f"{used / limit:.0%} of maxmemory is used; when it is full, writes are refused and batches wait"
        )
        return [warning(subject, text, "Raise maxmemory, or clear the token cache: pushq cache clear")]
    return []


def _persistence(subject: str, info: Mapping[str, Any]) -> list[Finding]:
    if info.get("aof_enabled"):
        return []
    lost = (
        "accepted calls and queued work" if subject == "broker" else "what at_most_once sends have in flight"
    )
    return [
        warning(
            subject,
            f"no append-only file: a restart of Redis loses {lost}",
            "Set appendonly yes (CONFIG SET appendonly yes, and in redis.conf).",
        )
    ]


def workers(settings: Settings) -> Sequence[Finding]:
    """Who has announced itself, for which platforms, and with which configuration."""
    if settings.redis_url is None:
        return []  # said by the check of Redis
    if settings.reload_seconds == 0:
        return [ok("workers", "PUSHQ_RELOAD_SECONDS is 0: they do not say what they run with")]
    client = open_redis(
        settings.redis_url, max_connections=1, connect_timeout=CONNECT_S, command_timeout=CONNECT_S
    )
    try:
        found = announced(client)
    except redis.RedisError as exc:
        return [warning("workers", f"cannot be asked for: {type(exc).__name__}", REDIS_ADVICE)]
    finally:
        client.close()
    findings: list[Finding] = []
    try:
        ours = digest(settings.config, settings.apps)[:SHOWN] if settings.config and settings.apps else ""
    except OSError:
        ours = ""  # said by the check of the files
    kinds = {kind for each in found for kind in each.kind.split()}
    expected = {"core", *(platform for app in settings.apps.values() for platform in app.platforms())}
    if absent := sorted(expected - kinds):
        start = " and ".join(f"`pushq worker {kind}`" for kind in absent)
        findings.append(
            warning("workers", f"none of kind {', '.join(absent)} runs", f"Start {start} where they belong.")
        )
    for each in found:
        name = f"{each.worker} ({each.kind})"
        if each.state.failed:
            findings.append(
                failed(
                    "workers",
                    f"{name} cannot use the configuration as it is and keeps {each.state.digest}: {each.state.failed}",
                    "Correct what it names on that machine; it looks again by itself.",
                )
            )
        elif ours and each.state.digest != ours:
            findings.append(
                warning(
                    "workers",
                    f"{name} runs with configuration {each.state.digest}, the files here are {ours}",
                    f"It looks every {settings.reload_seconds:g} s. If it stays, compare its files with these.",
                )
            )
    same = f", all with this configuration ({ours})" if ours else ""
    return findings or [ok("workers", f"{len(found)} run{same}")]


def _unset(subject: str, variable: str, example: str) -> Finding:
    return failed(subject, f"{variable} is not set", f"Set it, for example to {example}")


def _version(text: str) -> tuple[int, ...]:
    """The first two numbers."""
    digits = [part for part in text.split(".")[:2] if part.isdigit()]
    return tuple(map(int, digits))
