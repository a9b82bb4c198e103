"""Questions to somebody who may not answer."""

from __future__ import annotations

import threading

import pytest

from pushq.observe.errand import Errand, Unanswered

PATIENT = 30.0


def test_an_answer_is_given_out_again_while_it_is_fresh() -> None:
    now, asked = [0.0], list[int]()

    def ask() -> int:
        asked.append(1)
        return len(asked)

    errand = Errand("test", ask, fresh_s=5.0, clock=lambda: now[0])
    assert errand.start().result(PATIENT) == 1
    now[0] = 4.9
    assert errand.start().result(PATIENT) == 1
    now[0] = 5.0
    assert errand.start().result(PATIENT) == 2


def test_a_failure_is_an_answer_in_one_line() -> None:
    def ask() -> None:
        raise ConnectionError("away\nfor long")

    with pytest.raises(Unanswered, match=r"^ConnectionError: away$"):
        Errand("test", ask).start().result(PATIENT)


def test_who_hangs_is_asked_once_and_his_late_answer_counts() -> None:
    release, asked = threading.Event(), list[int]()

    def ask() -> str:
        asked.append(1)
        assert release.wait(PATIENT)
        return "late"

    errand = Errand("test", ask)
    first = errand.start()
    with pytest.raises(Unanswered, match="no answer in time"):
        first.result(0.0)
    assert errand.start() is first
    release.set()
    assert first.result(PATIENT) == "late"
    assert asked == [1]


def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    errand = Errand("test", lambda: "here")
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError, match="new thread"):
            errand.start()
    assert errand.start().result(PATIENT) == "here"


def test_an_answer_that_is_no_ordinary_error_ends_the_round_as_well() -> None:
    def ask() -> None:
        raise SystemExit(3)

    with pytest.raises(Unanswered, match=r"^SystemExit: 3$"):
        Errand("test", ask).start().result(PATIENT)
