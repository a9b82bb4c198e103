"""Runs checks side by side, each under a time limit: one that hangs or breaks hides no other."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pushq.doctor.findings import Check, Finding, failed

log = logging.getLogger("pushq.doctor")

#: Checks that run at the same time.
SIDE_BY_SIDE: Final = 16


@dataclass(frozen=True)
class _Running:
    check: Check
    began: float


def examine(checks: Sequence[Check], timeout_s: float, *, side_by_side: int = SIDE_BY_SIDE) -> list[Finding]:
    """The findings of all checks, in the order of the checks.

    A check that takes longer than ``timeout_s`` is a failure of its own and is left behind in its thread.
    """
    found: dict[int, list[Finding]] = {}
    waiting = deque(enumerate(checks))
    running: dict[int, _Running] = {}
    done: queue.SimpleQueue[tuple[int, list[Finding]]] = queue.SimpleQueue()
    while waiting or running:
        while waiting and len(running) < side_by_side:
            number, check = waiting.popleft()
            running[number] = _Running(check, time.monotonic())
            # A daemon: the command must end although a check hangs.
            threading.Thread(target=_run, args=(number, check, done), daemon=True).start()
        oldest = min(each.began for each in running.values())
        try:
            number, findings = done.get(timeout=max(0.0, oldest + timeout_s - time.monotonic()))
        except queue.Empty:
            pass
        else:
            if running.pop(number, None) is not None:
                found[number] = findings
        for number, each in list(running.items()):
            if time.monotonic() - each.began >= timeout_s:
                del running[number]
                text = f"no result within {timeout_s:g} s"
                found[number] = [
                    replace(failed(each.check.subject, text, each.check.advice), seconds=timeout_s)
                ]
    return [finding for number in sorted(found) for finding in found[number]]


def _run(number: int, check: Check, done: queue.SimpleQueue[tuple[int, list[Finding]]]) -> None:
    began = time.monotonic()
    try:
        findings = list(check.run())
    except Exception as exc:
        log.debug("check_broke", exc_info=True)
        findings = [failed(check.subject, f"{type(exc).__name__}: {exc}"[:300], check.advice)]
    seconds = round(time.monotonic() - began, 3)
    done.put((number, [replace(finding, seconds=seconds) for finding in findings]))
