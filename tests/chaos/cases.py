"""The fault cases. The numbers are those of the list in docs/chaos.md; letters are variants of one."""

from __future__ import annotations

import signal
import time
import uuid
from typing import Final

import psycopg
from sqlalchemy import text

from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.embedded.redis import RedisServer
from pushq.embedded.server import Server
from tests.chaos.crew import run_python
from tests.chaos.servers import heal
from tests.chaos.site import ChaosError, Cohort
from tests.chaos.stage import Case, Fault, Stage
from tests.services.faults import crash, paused, restart

PROVIDER_WORKERS: Final = ("apns", "fcm")
#: Seconds that a process has to end after SIGTERM: the default of PUSHQ_SHUTDOWN_GRACE.
GRACE_S: Final = 20.0
BROKER_STOP_S: Final = 90.0


def kill_workers(stage: Stage) -> Fault:
    """kill -9 both provider workers in mid-batch; new ones start at once."""
    stage.send_and_meet()
    crew = stage.site.crew
    crew.kill(*PROVIDER_WORKERS)
    ended = time.monotonic()
    in_flight = stage.in_flight()
    for name in PROVIDER_WORKERS:
        crew.start(name)
    return Fault(ended, in_flight)


def terminate(stage: Stage) -> Fault:
    """SIGTERM to all workers under load: they end in time, and nothing is repeated."""
    stage.send_and_meet()
    crew, fault = stage.site.crew, Fault(0.0)
    names = ("core", *PROVIDER_WORKERS)
    began = time.monotonic()
    for name in names:
        crew.signal(name, signal.SIGTERM)
    stage.strike()
    for name in names:
        if crew.await_end(name, began + GRACE_S + 2 - time.monotonic()) is None:
            fault.problems.append(f"{name} had not ended {GRACE_S + 2:g} s after SIGTERM")
    fault.notes.append(f"gone after {time.monotonic() - began:.1f} s")
    crew.kill(*names)
    fault.ended = time.monotonic()
    for name in names:
        crew.start(name)
    return fault


def terminate_then_kill(stage: Stage) -> Fault:
    """SIGTERM while the providers are slow, and SIGKILL after a second: a supervisor without patience."""
    stage.site.mock.set_latency(3000.0)
    stage.send_and_meet(0.02)
    crew = stage.site.crew
    for name in PROVIDER_WORKERS:
        crew.signal(name, signal.SIGTERM)
    time.sleep(1.0)
    crew.kill(*PROVIDER_WORKERS)
    ended = time.monotonic()
    stage.site.mock.set_latency(300.0)
    in_flight = stage.in_flight()
    for name in PROVIDER_WORKERS:
        crew.start(name)
    return Fault(ended, in_flight)


def quit_workers(stage: Stage) -> Fault:
    """SIGQUIT: Celery's cold shutdown, which acknowledges what it cuts off."""
    stage.send_and_meet()
    crew, fault = stage.site.crew, Fault(0.0)
    for name in PROVIDER_WORKERS:
        crew.signal(name, signal.SIGQUIT)
    for name in PROVIDER_WORKERS:
        if crew.await_end(name, 30.0) is None:
            fault.problems.append(f"{name} had not ended 30 s after SIGQUIT")
    crew.kill(*PROVIDER_WORKERS)
    fault.ended = time.monotonic()
    fault.in_flight = stage.in_flight()
    for name in PROVIDER_WORKERS:
        crew.start(name)
    return fault


def kill_leader(stage: Stage) -> Fault:
    """kill -9 the RabbitMQ node that leads the queue while an application publishes: whatever was confirmed is executed."""
    site, cluster = stage.site, stage.site.servers.cluster
    assert cluster is not None
    fault = Fault(0.0)
    stage.send_and_meet(0.1)
    leader = cluster.leader("push.apns")
    people = site.cohort("at_least_once", 60)
    with site.database.begin() as connection:
        users = connection.execute(
            text("SELECT id, user_id FROM device_tokens WHERE id = ANY(:ids)"), {"ids": list(people.tokens)}
        ).all()
    confirmed: dict[str, uuid.UUID] = {}
    refused = 0
    for number, (device, user) in enumerate(users):
        if number == 15:
            crash(leader)
            stage.strike()
        answer = site.caller.call("send_notification", user_ids=[user], notification={"title": "Hello"})
        if "send_id" in answer:
            confirmed[people.tokens[device]] = uuid.UUID(answer["send_id"])
        else:
            refused += 1
    heal(leader)
    fault.ended = time.monotonic()
    cohorts = [Cohort("at_least_once", "", {}, {}, send_id=send) for send in confirmed.values()]
    if site.await_finished(cohorts, time.monotonic() + 90) is None:
        missing = [cohort for cohort in cohorts if not site.finished(cohort)]
        fault.problems.append(f"{len(missing)} confirmed calls were not executed")
    counted = site.provider_counts()
    if missed := sum(token not in counted for token in confirmed):
        fault.problems.append(f"{missed} devices of confirmed calls were not reached")
    # No worker was killed: nothing is repeated, not even a call whose confirmation was lost.
    if again := sum(counted.get(token, 0) > 1 for token in people.tokens.values()):
        fault.problems.append(f"{again} devices were reached more than once")
    fault.notes.append(f"{len(confirmed)} calls confirmed, {refused} refused")
    return fault


def lose_majority(stage: Stage) -> Fault:
    """Two of three RabbitMQ nodes down, and back: callers are told, consumption resumes unaided."""
    cluster = stage.site.servers.cluster
    assert cluster is not None
    stage.send_and_meet(0.1)
    fault = Fault(0.0)
    for node in cluster.nodes[1:]:
        crash(node)
    stage.strike()
    spare = stage.site.cohort("at_most_once", 1)
    answer = stage.site.caller.call("send_broadcast", **stage.site.arguments(spare))
    if "error" in answer:
        fault.notes.append(f"the caller was told after {answer['seconds']:.0f} s")
    else:
        fault.problems.append("a call was accepted without a majority")
    for node in cluster.nodes[1:]:
        node.launch()
    for node in cluster.nodes[1:]:
        node.wait_ready()
    fault.ended = time.monotonic()
    return fault


def close_connections(stage: Stage) -> Fault:
    """All connections of the broker are closed in mid-send, three times."""
    stage.site.mock.set_latency(
        1500.0
    )  # RabbitMQ takes seconds to close them, and the third time must meet something
    stage.send_and_meet(0.02)
    for _ in range(3):
        _close_connections(stage.site.servers.brokers[0])
        stage.strike()
        time.sleep(0.5)
    stage.site.mock.set_latency(300.0)
    return Fault(time.monotonic())


def _close_connections(server: Server) -> None:
    if isinstance(server, RabbitMqServer):
        server.close_all_connections()
    else:
        assert isinstance(server, RedisServer)
        with server.client() as client:
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind)


def stop_broker(stage: Stage) -> Fault:
    """SIGSTOP the broker: connections stay open and nothing answers."""
    stage.send_and_meet(0.1)
    with paused(stage.site.servers.brokers[0]):
        stage.strike()
        time.sleep(BROKER_STOP_S)
    return Fault(time.monotonic())


def kill_broker(stage: Stage) -> Fault:
    """kill -9 the broker, and start it again on its data."""
    return _kill_broker(stage, empty=False)


def kill_broker_and_lose_it(stage: Stage) -> Fault:
    """kill -9 the broker, and start it again with nothing in it."""
    return _kill_broker(stage, empty=True)


def _kill_broker(stage: Stage, *, empty: bool) -> Fault:
    server = stage.site.servers.brokers[0]
    if isinstance(server, RabbitMqServer):
        time.sleep(RabbitMqServer.QUEUE_SETTLES_S)
    stage.send_and_meet(0.1)
    crash(server)
    stage.strike()
    time.sleep(3.0)
    if empty:
        assert isinstance(server, RedisServer)
        server.lose_data()
    heal(server)
    return Fault(time.monotonic())


def stop_publish_kill(stage: Stage) -> Fault:
    """SIGSTOP the workers, publish, kill -9: Redis hands out messages to a connection whose reader will never read them."""
    crew = stage.site.crew
    for name in PROVIDER_WORKERS:
        crew.signal(name, signal.SIGSTOP)
    stage.send()
    stage.site.until(
        lambda: all(stage.site.state(cohort) == "sending" for cohort in stage.cohorts), "everything published"
    )
    time.sleep(1.0)
    crew.kill(*PROVIDER_WORKERS)
    stage.strike()
    ended = time.monotonic()
    for name in PROVIDER_WORKERS:
        crew.start(name)
    return Fault(ended)


#: Beyond the visibility timeout of Redis and beyond RabbitMQ's consumer_timeout as this case sets it.
LONG_WAIT_S: Final = 50
#: Of each send.
LONG_WAITERS: Final = 60


def wait_beyond_timeouts(stage: Stage) -> Fault:
    """429 with a long Retry-After for some APNs tokens: never more attempts than the maximum, and each is a dead letter.

    A 429 of APNs speaks about one device. Of 503 the breaker would make an outage, and let the repetitions through one by one.
    """
    site, fault = stage.site, Fault(0.0)
    broker = site.servers.brokers[0]
    if isinstance(broker, RabbitMqServer):
        broker.control("eval", "application:set_env(rabbit, consumer_timeout, 20000).")
        broker.control("eval", "application:set_env(rabbit, channel_tick_interval, 5000).")
        site.crew.kill("apns")  # the timeout is read when a channel opens
        site.crew.start("apns")
        site.crew.await_ready(["apns"])
    answer = {"status": 429, "reason": "TooManyRequests", "retry_after": LONG_WAIT_S}
    chosen = {cohort.guarantee: sorted(cohort.of("apns"))[:LONG_WAITERS] for cohort in stage.cohorts}
    site.mock.set_faults(
        [
            {"platform": "apns", "token": cohort.tokens[device], "answer": answer}
            for cohort in stage.cohorts
            for device in chosen[cohort.guarantee]
        ]
    )
    stage.send()
    stage.strike()
    end = site.await_finished(stage.cohorts, time.monotonic() + 3 * LONG_WAIT_S + 60)
    fault.ended = time.monotonic() if end is None else end
    apns = sum(len(cohort.of("apns")) for cohort in stage.cohorts)
    asked = site.mock.stats()["platforms"]["apns"]["requests"]
    waiters = LONG_WAITERS * len(stage.cohorts)
    if asked > apns + 2 * waiters:
        fault.problems.append(
            f"{asked} requests for {apns} recipients, {waiters} of them with three attempts"
        )
    for cohort in stage.cohorts:
        with site.database.begin() as connection:
            letters = connection.execute(
                text("SELECT device_id FROM dead_letters WHERE send_id = :id AND outcome = 'exhausted'"),
                {"id": cohort.send_id},
            ).scalars()
            if sorted(letters) != chosen[cohort.guarantee]:
                fault.problems.append(f"{cohort.guarantee}: the dead letters are not who was exhausted")
    fault.notes.append(f"{asked} requests for {apns} recipients, {waiters} of them asked to wait")
    if isinstance(broker, RabbitMqServer):
        broker.control("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")
    return fault


def poison(stage: Stage) -> Fault:
    """A batch during which its worker always dies is parked; the others are delivered.

    at_most_once may be done with it sooner: whoever was claimed when the worker died is unknown, and nobody is left to send to.
    """
    site, fault = stage.site, Fault(0.0)
    site.mock.set_latency(1500.0)  # a run must take longer than the look for it
    stage.send()
    site.until(
        lambda: all(site.state(cohort) == "sending" for cohort in stage.cohorts), "everything is planned"
    )
    victims = {
        cohort.guarantee: site.scalar(
            "SELECT min(batch_no) FROM send_batches WHERE send_id = :id AND platform = 'apns' AND state <> 'done'",
            id=cohort.send_id,
        )
        for cohort in stage.cohorts
    }
    # By the count of its runs: after a kill the row says "running" until its lease is over.
    states, killed_at = dict.fromkeys(victims, ""), dict.fromkeys(victims, 0)
    in_flight, kills = dict.fromkeys(victims, 0), 0
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and not all(state in ("parked", "done") for state in states.values()):
        dies = False
        for cohort in stage.cohorts:
            with site.database.begin() as connection:
                row = connection.execute(
                    text("SELECT state, runs FROM send_batches WHERE send_id = :id AND batch_no = :no"),
                    {"id": cohort.send_id, "no": victims[cohort.guarantee]},
                ).one()
            states[cohort.guarantee] = row.state
            if row.state == "running" and row.runs > killed_at[cohort.guarantee]:
                killed_at[cohort.guarantee], dies = row.runs, True
        if dies:
            site.crew.kill("apns")
            kills += 1
            found = stage.in_flight(("apns",))
            # What was claimed at an earlier kill is still claimed, or unknown; what was with the provider has been repeated.
            for guarantee, count in found.items():
                in_flight[guarantee] = count + (in_flight[guarantee] if guarantee == "at_least_once" else 0)
            site.crew.start("apns")
            site.crew.await_ready(["apns"])
        time.sleep(0.02)
    site.mock.set_latency(300.0)
    if states.get("at_least_once", "parked") != "parked" or not set(states.values()) <= {"parked", "done"}:
        fault.problems.append(f"the batch was not parked: {states}")
    others = site.scalar(
        "SELECT count(*) FROM send_batches b WHERE send_id = ANY(:ids) AND state = 'parked'",
        ids=[cohort.send_id for cohort in stage.cohorts],
    ) - list(states.values()).count("parked")
    if others:
        fault.problems.append(f"{others} other batches were parked as well")
    fault.notes.append(f"{kills} kills")
    fault.ended, fault.in_flight = time.monotonic(), in_flight
    return fault


def kill_planner(stage: Stage) -> Fault:
    """kill -9 the worker that plans, at several points of the way: every device is planned, none twice."""
    site, crew = stage.site, stage.site.crew
    stage.send()
    total = sum(len(cohort.tokens) for cohort in stage.cohorts)
    seen = []
    for share in (0.0, 0.2, 0.5, 0.8):
        site.until(
            lambda share=share: (  # type: ignore[misc]
                _planned(stage) >= share * total and all(site.state(c) is not None for c in stage.cohorts)
            ),
            f"{share:.0%} planned",
            timeout=150,
            poll=0.01,
        )
        crew.kill("core")
        stage.strike()
        seen.append(_planned(stage) / total)
        crew.start("core")
        crew.await_ready(["core"])
    return Fault(time.monotonic(), notes=[f"killed at {', '.join(f'{share:.0%}' for share in seen)} planned"])


def _planned(stage: Stage) -> int:
    ids = [cohort.send_id for cohort in stage.cohorts]
    return int(
        stage.site.scalar(
            "SELECT coalesce(sum(recipients), 0) FROM send_batches WHERE send_id = ANY(:ids)", ids=ids
        )
    )


def restart_postgres(stage: Stage) -> Fault:
    """PostgreSQL restarted in mid-batch."""
    stage.send_and_meet()
    stage.strike()
    restart(stage.site.servers.postgres)
    return Fault(time.monotonic())


def kill_postgres(stage: Stage) -> Fault:
    """kill -9 PostgreSQL in mid-batch; back after five seconds."""
    stage.send_and_meet()
    crash(stage.site.servers.postgres)
    stage.strike()
    time.sleep(5.0)
    heal(stage.site.servers.postgres)
    return Fault(time.monotonic())


def exhaust_postgres(stage: Stage) -> Fault:
    """Strangers take every free connection of PostgreSQL for ten seconds, and all our idle ones are cut off."""
    stage.send_and_meet(0.1)
    strangers: list[psycopg.Connection[tuple[object, ...]]] = []
    began = time.monotonic()
    try:
        while time.monotonic() < began + 10:
            try:
                strangers.append(psycopg.connect(stage.site.servers.postgres.url(), connect_timeout=5))
            except psycopg.OperationalError:
                time.sleep(0.1)
                continue
            if len(strangers) == 1:
                stage.strike()
            if len(strangers) == 100:
                strangers[0].execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pushq'"
                )
    finally:
        for connection in strangers:
            connection.close()
    return Fault(time.monotonic(), notes=[f"{len(strangers)} connections taken"])


def storm(stage: Stage) -> Fault:
    """30 % 503, 10 % 429 with Retry-After 2 and some requests never answered on APNs: the dead letters are who was exhausted."""
    site, fault = stage.site, Fault(0.0)
    site.mock.set_faults(
        [
            {"platform": "apns", "probability": 0.002, "stall": True},
            {
                "platform": "apns",
                "probability": 0.3,
                "answer": {"status": 503, "reason": "ServiceUnavailable"},
            },
            {
                "platform": "apns",
                "probability": 0.14,
                "answer": {"status": 429, "reason": "TooManyRequests", "retry_after": 2},
            },
        ],
        seed=4,
    )
    stage.send()
    stage.strike()
    end = site.await_finished(stage.cohorts, time.monotonic() + 170)
    fault.ended = time.monotonic() if end is None else end
    for cohort in stage.cohorts:
        exhausted = {
            device
            for batch in site.batches(cohort)
            for device, outcome in zip(batch.device_ids, batch.outcomes, strict=True)
            if outcome == 5
        }
        with site.database.begin() as connection:
            letters = list(
                connection.execute(
                    text("SELECT device_id FROM dead_letters WHERE send_id = :id AND outcome = 'exhausted'"),
                    {"id": cohort.send_id},
                ).scalars()
            )
        if sorted(letters) != sorted(exhausted):
            fault.problems.append(f"{len(letters)} dead letters for {len(exhausted)} exhausted recipients")
        fault.notes.append(f"{cohort.guarantee}: {len(exhausted)} exhausted")
    early = site.mock.stats()["platforms"]["apns"].get("early", {})
    if early:
        fault.problems.append(f"requests before their Retry-After: {early}")
    # A request that is never answered was not accepted, so it is no duplicate either; at_most_once does not know that.
    unanswered = site.mock.stats()["platforms"]["apns"]["unanswered"]
    fault.in_flight = {"at_most_once": sum(unanswered.values())}
    return fault


def kill_beat(stage: Stage) -> Fault:
    """Beat killed in mid-send, then two of them, with two clean-ups at the same time."""
    site, crew = stage.site, stage.site.crew
    stage.send_and_meet(0.1)
    crew.kill("beat")
    stage.strike()
    ended = time.monotonic()
    crew.start("beat")
    crew.start("beat-2")
    code = "from pushq.tasks.maintenance import cleanup; [cleanup.delay() for _ in range(2)]"
    run_python(code, site.environment)
    site.until(lambda: all(site.finished(cohort) for cohort in stage.cohorts), "both sends ended", 120)
    return Fault(ended)


def flush_journal(stage: Stage) -> Fault:
    """FLUSHALL in mid-send, with all workers alive."""
    stage.send_and_meet()
    _flush(stage)
    stage.strike()
    return Fault(time.monotonic())


def flush_journal_and_kill(stage: Stage) -> Fault:
    """FLUSHALL in mid-send, and kill -9 the workers: nobody knows how far they came."""
    stage.send_and_meet()
    crew = stage.site.crew
    for name in PROVIDER_WORKERS:
        crew.signal(name, signal.SIGSTOP)
    _flush(stage)
    crew.kill(*PROVIDER_WORKERS)
    ended = time.monotonic()
    in_flight = stage.in_flight(journal=False)
    for name in PROVIDER_WORKERS:
        crew.start(name)
    return Fault(ended, in_flight)


def _flush(stage: Stage) -> None:
    with stage.site.servers.redis.client() as client:
        client.flushall()


def kill_redis(stage: Stage) -> Fault:
    """kill -9 the Redis of the journals, and start it again on its append-only file."""
    return _kill_redis(stage, empty=False)


def kill_redis_and_lose_it(stage: Stage) -> Fault:
    """kill -9 the Redis of the journals, and start it again with nothing in it."""
    return _kill_redis(stage, empty=True)


def _kill_redis(stage: Stage, *, empty: bool) -> Fault:
    stage.send_and_meet()
    server = stage.site.servers.redis
    crash(server)
    stage.strike()
    time.sleep(3.0)
    if empty:
        server.lose_data()
    heal(server)
    return Fault(time.monotonic())


def rewind_redis_and_kill(stage: Stage) -> Fault:
    """Redis comes back with older data than it had, and the workers are killed: its journals may lack claims."""
    stage.site.mock.set_latency(1500.0)
    stage.send()
    stage.site.until_share(stage.cohorts, 0.05)
    server = stage.site.servers.redis
    with server.client() as client:
        keys = list(client.scan_iter("pushq:journal:*"))
        old = {key: client.dump(key) for key in keys}
    stage.site.until_share(stage.cohorts, 0.2)
    crew = stage.site.crew
    crew.kill(*PROVIDER_WORKERS)
    stage.site.mock.set_latency(300.0)
    crash(server)
    ended = time.monotonic()
    in_flight = stage.in_flight(journal=False)
    server.lose_data()
    heal(server)
    with server.client() as client:
        for key, value in old.items():
            if value is not None:
                client.restore(key, 0, value)
    for name in PROVIDER_WORKERS:
        crew.start(name)
    return Fault(max(ended, time.monotonic()), in_flight)


def wake_sleepers(stage: Stage) -> Fault:
    """Of two workers for each provider one is stopped until the other has finished its batches, and goes on: it finds itself fenced."""
    site, crew = stage.site, stage.site.crew
    others = [f"{name}-2" for name in PROVIDER_WORKERS]
    for name in others:
        crew.start(name)
    crew.await_ready(others)
    site.mock.set_latency(1500.0)
    stage.send_and_meet(0.05)
    before = {name: crew.log_size(name) for name in PROVIDER_WORKERS}
    for name in (*PROVIDER_WORKERS, *others):
        crew.signal(name, signal.SIGSTOP)
    ended = time.monotonic()
    stage.strike()
    held = [(site.running(cohort), site.runs(cohort)) for cohort in stage.cohorts]
    for name in others:
        crew.signal(name, signal.SIGCONT)
    site.mock.set_latency(300.0)
    fault, in_flight = Fault(ended), dict[str, int]()
    try:
        site.until(lambda: all(site.finished(cohort) for cohort in stage.cohorts), "the others finished", 120)
        settled = [site.batches(cohort) for cohort in stage.cohorts]
        for cohort, (running, runs) in zip(stage.cohorts, held, strict=True):
            # The sleepers' batches are those that were taken up again. All that was open in them may be repeated: once awake,
            # a worker writes what already waits for a connection before it learns that its lease is lost.
            later = site.runs(cohort)
            in_flight[cohort.guarantee] = sum(n for no, n in running.items() if later[no] > runs[no])
        fault.in_flight = in_flight
        fault.notes.append(f"taken over and finished after {time.monotonic() - ended:.1f} s")
    finally:
        for name in PROVIDER_WORKERS:
            crew.signal(name, signal.SIGCONT)
    time.sleep(WAKING_S)
    if [site.batches(cohort) for cohort in stage.cohorts] != settled:
        fault.problems.append("a worker that had lost its leases changed the ledger")
    for name in PROVIDER_WORKERS:
        if b"lease_lost" not in crew.logged(name, before[name]):
            fault.problems.append(
                f"{name} held no batch when it was stopped, or did not notice that it lost it"
            )
    return fault


#: For a worker to find its leases lost (a third of a lease), to send what it still sends, and to try to settle.
WAKING_S: Final = 8.0

#: For cases that need leases to run out.
SHORT: Final = {"PUSHQ_LEASE_SECONDS": "4", "PUSHQ_SWEEP_SECONDS": "1"}

CASES: Final = (
    Case("1", "kill -9 the provider workers in mid-batch", kill_workers, cuts_off=True),
    Case("2", "SIGTERM to all workers under load", terminate),
    Case("3", "SIGTERM, then SIGKILL at the deadline", terminate_then_kill, cuts_off=True),
    Case("4", "SIGQUIT to the provider workers", quit_workers, cuts_off=True),
    Case("5", "kill -9 the queue leader's node while publishing", kill_leader, ("cluster",)),
    Case("6", "two of three RabbitMQ nodes down, then back", lose_majority, ("cluster",)),
    Case("7", "all broker connections closed, three times", close_connections),
    Case("8", f"broker stopped for {BROKER_STOP_S:g} s (SIGSTOP)", stop_broker),
    Case("9a", "kill -9 the broker, data kept", kill_broker),
    Case("9b", "kill -9 the broker, data lost", kill_broker_and_lose_it, ("redis",)),
    Case("10", "SIGSTOP the workers, publish, kill -9", stop_publish_kill),
    Case(
        "11",
        f"Retry-After {LONG_WAIT_S} s, beyond the broker's timeouts",
        wait_beyond_timeouts,
        devices=500,
        may_fail=True,
    ),
    Case("12", "a batch that kills its process", poison, settings=SHORT, devices=1500, may_fail=True),
    Case(
        "13",
        "kill -9 the planner at several points",
        kill_planner,
        settings={"PUSHQ_PLAN_PAGE": "100"},
        devices=8000,
    ),
    Case("14a", "PostgreSQL restarted in mid-batch", restart_postgres),
    Case("14b", "kill -9 PostgreSQL, back after 5 s", kill_postgres),
    Case("14c", "PostgreSQL out of connections for 10 s", exhaust_postgres),
    Case("15a", "provider storm: 503, 429 and stalls", storm, may_fail=True),
    Case("15b", "beat killed, then doubled, and two clean-ups", kill_beat),
    Case("16a", "journals flushed in mid-send", flush_journal),
    Case("16b", "journals flushed and workers killed", flush_journal_and_kill, cuts_off=True),
    Case("16c", "kill -9 the journals' Redis, data kept", kill_redis),
    Case("16d", "kill -9 the journals' Redis, data lost", kill_redis_and_lose_it),
    Case("16e", "journals set back to older data, workers killed", rewind_redis_and_kill, cuts_off=True),
    Case(
        "18",
        "SIGSTOP one of two workers, SIGCONT after the other took over",
        wake_sleepers,
        settings=SHORT,
        cuts_off=True,
    ),
)


def case(name: str) -> Case:
    """Raises ChaosError when there is none of that name."""
    for one in CASES:
        if one.name == name:
            return one
    raise ChaosError(f"no case is called {name!r}; there are {', '.join(one.name for one in CASES)}")


def matching(names: list[str]) -> list[Case]:
    """Cases by name; a number without a letter stands for all its variants."""
    chosen = []
    for name in names:
        found = [one for one in CASES if one.name == name or one.name.rstrip("abcde") == name]
        if not found:
            case(name)
        chosen += found
    return chosen
