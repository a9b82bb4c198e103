"""What a log line looks like, what is bound to it, and what never stands in one."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from celery.exceptions import InvalidTaskError
from celery.worker.consumer import consumer

from pushq import logs
from pushq.redaction import LONGEST, MASK, Redactor, passwords
from pushq.settings import Settings, load
from pushq.tasks.hooks import subject

APNS_TOKEN = "ab" * 32
FCM_TOKEN = "cF3k9:APA91b" + "x-Y_9" * 28
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJURUFNMTIzNDU2In0.c2lnbmF0dXJl"
KEY = "-----BEGIN PRIVATE KEY-----\nMIGTAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    names = ("pushq", "celery", "celery.beat")
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in names}
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    vars(gevent.get_hub()).pop("print_exception", None)
    logging.captureWarnings(False)
    logs.end()


class Out(io.StringIO):
    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


def configured(**settings: Any) -> Out:
    out = Out()
    logs.configure(Settings(**{"log_format": "json"} | settings), "worker-apns", stream=out)
    return out


class TestLines:
    def test_json(self) -> None:
        out = configured()
        logging.getLogger("pushq.delivery").info("batch_settled", extra={"batch_no": 3, "error": None})
        (line,) = out.lines()
        assert line.pop("time").endswith("+00:00")
        assert line.pop("pid") > 0
        assert line == {
            "level": "info",
            "logger": "pushq.delivery",
            "event": "batch_settled",
            "role": "worker-apns",
            "batch_no": 3,
        }

    def test_a_library_speaks_in_the_same_format(self) -> None:
        out = configured()
        logging.getLogger("kombu.connection").warning("lost %s", "it", extra={"data": {"args": "private"}})
        (line,) = out.lines()
        assert (line["event"], line["message"], line["logger"]) == (
            "library_message",
            "lost it",
            "kombu.connection",
        )
        assert "private" not in out.getvalue()

    def test_levels(self) -> None:
        out = configured(log_level="DEBUG")
        logging.getLogger("pushq.http2").debug("http2_idle_goaway")
        logging.getLogger("celery.worker").info("said")
        for name in ("amqp", "celery.pool"):
            logging.getLogger(name).debug("arguments of tasks")
        assert [line["logger"] for line in out.lines()] == ["pushq.http2", "celery.worker"]

    @pytest.mark.parametrize(
        ("terminal", "chosen", "is_json"),
        [(True, None, False), (False, None, True), (True, "json", True), (False, "console", False)],
    )
    def test_the_console_is_for_terminals(self, terminal: bool, chosen: Any, is_json: bool) -> None:
        out = Out(terminal=terminal)
        logs.configure(Settings(log_format=chosen), "beat", stream=out)
        logging.getLogger("pushq.x").warning("swept", extra={"orders": 3, "error": "two words"})
        assert out.getvalue().startswith("{") == is_json
        if not is_json:
            assert out.getvalue().rstrip().endswith('WARNING pushq.x swept orders=3 error="two words"')

    @pytest.mark.parametrize("chosen", ["json", "console"])
    def test_nobody_writes_a_second_line_through_a_field(self, chosen: Any) -> None:
        out = configured(log_format=chosen)
        logging.getLogger("pushq.x").warning(
            "provider_refused", extra={"detail": "no\n12:00:00.000 ERROR pushq.x send_stopped\x1b[2J"}
        )
        assert len(out.getvalue().splitlines()) == 1
        assert "\x1b" not in out.getvalue()

    @pytest.mark.parametrize("chosen", ["json", "console"])
    def test_a_line_is_written_whatever_stands_in_it(
        self, chosen: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Broken:
            def __repr__(self) -> str:
                raise ValueError("no")

        secret = "hidden" + "-password"
        out = configured(log_format=chosen, broker_url=f"amqp://u:{secret}@h//")
        log = logging.getLogger("pushq.x")
        log.warning("one", extra={"rows": 2**70, "within": [{1: -(2**70)}]})
        log.warning("two", extra={"path": "/etc/\udcff/x"})
        logging.getLogger("library").warning("three %d", f"amqp://u:{secret}@h")
        logging.getLogger("library").warning("four %s", Broken())
        assert [word for word in ("one", "two", "three", "four") if word not in out.getvalue()] == [], (
            out.getvalue()
        )
        assert len(out.getvalue().splitlines()) == 4
        assert secret not in out.getvalue()
        assert capsys.readouterr().err == ""

    def test_a_line_that_cannot_be_written_is_not_printed_past_the_redactor(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Full(Out):
            def write(self, text: str) -> int:
                raise OSError("no space left")

        logs.configure(Settings(log_format="json"), "worker-apns", stream=Full())
        logging.getLogger("library").warning("with %s", APNS_TOKEN)
        assert capsys.readouterr().err == "pushq: a line of library was not written (OSError)\n"

    def test_the_format_is_checked(self) -> None:
        with pytest.raises(Exception, match="PUSHQ_LOG_FORMAT: found 'xml'; expected"):
            load({"PUSHQ_LOG_FORMAT": "xml"})

    def test_warnings_and_crashes_are_lines(self) -> None:
        out = configured()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        thread = threading.Thread(target=lambda: 1 / 0, name="counting")
        thread.start()
        thread.join()
        gevent.spawn(lambda: 1 / 0).join()
        try:
            raise ValueError("end")
        except ValueError as error:
            sys.excepthook(type(error), error, error.__traceback__)
        lines = out.lines()
        assert [line["event"] for line in lines] == [
            "library_message",
            "thread_failed",
            "greenlet_failed",
            "process_failed",
        ]
        assert (lines[1]["thread_name"], "ZeroDivisionError" in lines[1]["traceback"]) == ("counting", True)

    def test_what_a_signal_handler_says_goes_past_the_handlers(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        configured()
        logs.write_at_once("\nworker: Warm shutdown (MainProcess)\n", sys.__stdout__)
        line = json.loads(capfd.readouterr().err)
        assert (line["event"], line["message"]) == ("library_message", "worker: Warm shutdown (MainProcess)")


class TestBinding:
    def test_what_is_bound_stands_on_every_line_until_its_end(self) -> None:
        out = configured()
        log = logging.getLogger("pushq.x")
        with logs.bind(send_id="s", batch_no=1):
            with logs.bind(batch_no=2):
                log.info("inner")
                logging.getLogger("celery").error("failed")
            log.info("outer", extra={"send_id": "own"})
        log.info("after")
        assert [(line.get("send_id"), line.get("batch_no")) for line in out.lines()] == [
            ("s", 2),
            ("s", 2),
            ("own", 1),
            (None, None),
        ]

    def test_greenlets_and_threads_that_a_task_starts_are_not_the_task(self) -> None:
        """The first batch of a process starts the greenlets of connections, which outlive it."""
        out = configured()
        log = logging.getLogger("pushq.x")

        def task(number: int) -> None:
            logs.begin(batch_no=number)
            gevent.sleep(0)
            log.info("task")
            if number == 1:
                gevent.spawn(log.info, "connection").join()

        gevent.joinall([gevent.spawn(task, number) for number in (1, 2)], raise_error=True)
        logs.begin(batch_no=9)
        thread = threading.Thread(target=log.info, args=("thread",))
        thread.start()
        thread.join()
        assert sorted((line["event"], line.get("batch_no", 0)) for line in out.lines()) == [
            ("connection", 0),
            ("task", 1),
            ("task", 2),
            ("thread", 0),
        ]

    @pytest.mark.parametrize(
        ("task", "args", "expected"),
        [
            (
                "pushq.deliver_batch.fcm",
                ("s", 4),
                ("pushq.deliver_batch", {"send_id": "s", "batch_no": 4, "platform": "fcm"}),
            ),
            ("pushq.plan_shard", ("s", 4), ("pushq.plan_shard", {"send_id": "s", "shard_no": 4})),
            (
                "pushq.dead_letters",
                ("s", [4, 5]),
                ("pushq.dead_letters", {"send_id": "s", "batch_nos": [4, 5]}),
            ),
            ("pushq.send_broadcast", ({"kind": "broadcast"},), ("pushq.accept", {"send_id": "id"})),
            ("pushq.sweep", (), None),
        ],
    )
    def test_what_a_task_is_about(self, task: str, args: tuple[Any, ...], expected: object) -> None:
        assert subject(task, "id", args) == expected


class TestSecrets:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (f"token {APNS_TOKEN} is bad", f"token {MASK} is bad"),
            (f"[{FCM_TOKEN}]", f"[{MASK}]"),
            (f"authorization: bearer {JWT}", f"authorization: {MASK}"),
            (f"assertion={JWT}&x", f"assertion={MASK}&x"),
            ("Bearer ya29.a0AfH6SMB-x_1.y", MASK),
            (f"key: {KEY} end", f"key: {MASK} end"),
            ("amqp://pushq:pa55@broker:5672// down", f"amqp://{MASK}@broker:5672// down"),
            ("send 4e0f1c5b-6e0a-5b8e-9d3a-2f6c1f0a7b52", "send 4e0f1c5b-6e0a-5b8e-9d3a-2f6c1f0a7b52"),
            ("https://fcm.googleapis.com/v1/projects/x", "https://fcm.googleapis.com/v1/projects/x"),
            ("0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319c"),
        ],
    )
    def test_text_with_the_shape_of_a_secret_is_masked(self, text: str, expected: str) -> None:
        assert Redactor().text(text) == expected

    def test_known_passwords_are_masked_wherever_they_stand(self) -> None:
        settings = Settings.model_validate(
            {
                "broker_url": "amqp://a:first%2Fpass@h//;amqp://a:second-pass@h//",
                "redis_url": "redis://:short@h",
                "database_url": "postgresql://u:postgres-pass@h/d",
            }
        )
        assert passwords(settings) == ["first%2Fpass", "first/pass", "postgres-pass", "second-pass", "short"]
        redactor = Redactor(passwords(settings))
        assert redactor.text("first/pass second-pass shortly") == f"{MASK} {MASK} shortly"
        assert redactor.value({"a": ["postgres-pass", 7, None, True]}) == {"a": [MASK, 7, None, True]}

    def test_in_fields_messages_and_tracebacks(self) -> None:
        secret = "hidden" + "-password"
        out = configured(database_url=f"postgresql://u:{secret}@h/d")
        try:
            raise ValueError(f"{secret} {APNS_TOKEN}")
        except ValueError:
            logging.getLogger("pushq.x").exception("sweep_step_failed", extra={"error": f"x {FCM_TOKEN}"})
            logging.getLogger("urllib3").error("with %s", secret)
        assert secret not in out.getvalue()
        assert APNS_TOKEN not in out.getvalue()
        assert FCM_TOKEN not in out.getvalue()
        assert out.getvalue().count(MASK) == 4

    def test_long_text_is_cut_at_its_beginning(self) -> None:
        text = Redactor().text("word " * 10_000 + "the end")
        assert len(text) < 9_000
        assert text.endswith("the end")

    @pytest.mark.parametrize("at", [10, 100, 1000])
    def test_a_secret_is_masked_where_the_cut_goes_through_it(self, at: int) -> None:
        known = "hidden" + "-password"
        for secret in (known, KEY, FCM_TOKEN):
            for left in range(1, len(secret), 7):
                text = Redactor([known]).text("x " * at + secret + " " * (LONGEST - left))
                assert set(text) <= set(f"[...] x{MASK}"), left

    def test_what_celery_cannot_use_is_not_written_down(self) -> None:
        """An old worker gets a task of a newer caller: the body has the notification and whom it is for."""
        body = "20% off for user 7"
        out = configured()
        consumer.error(
            consumer.UNKNOWN_TASK_ERROR, KeyError("pushq.send_other"), body, {"h": body}, {"d": body}
        )
        consumer.error(consumer.INVALID_TASK_ERROR, InvalidTaskError("no id"), body)
        consumer.warn(consumer.UNKNOWN_FORMAT, body)
        consumer.crit(
            consumer.MESSAGE_DECODE_ERROR, ValueError("no JSON"), "application/json", "utf-8", "{}", body
        )
        assert body not in out.getvalue()
        assert [line["message"] for line in out.lines()] == [
            "Received unregistered task of type 'pushq.send_other'.",
            "Received invalid task message: no id",
            "Received and deleted unknown message.  Wrong destination?!?",
            "Can't decode message body: ValueError('no JSON') [type:'application/json' encoding:'utf-8' headers:{}]",
        ]
