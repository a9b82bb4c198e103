"""One HTTP/2 connection: reads for the engine, and writes its answers when they fall due."""

from __future__ import annotations

import time

import gevent
from gevent.event import Event

from pushq.mock.channel import Channel
from pushq.mock.endpoint import Endpoint
from pushq.mock.engine import TICK_S, Engine

# A write costs as much as ten answers: with a long latency nobody misses a few milliseconds, and the lots become larger.
MAX_PAUSE_S = 0.005
PAUSES_PER_LATENCY = 16


def serve_http2(channel: Channel, engine: Engine, endpoint: Endpoint) -> None:
    """Returns when the connection is over; what the engine said last has been written then."""
    work = Event()
    both = [
        gevent.spawn(_read, channel, engine, endpoint, work),
        gevent.spawn(_write_when_due, channel, engine, endpoint, work),
    ]
    try:
        gevent.wait(both, count=1)
        channel.flush()
    finally:
        gevent.killall(both)
    if engine.ended == "cut":
        channel.cut()


def _read(channel: Channel, engine: Engine, endpoint: Endpoint, work: Event) -> None:
    try:
        channel.send(engine.opening())
        while not _over(engine):
            data = channel.receive()
            if not data or _over(engine):
                # The writer may have said goodbye while this came in: who reads it knows that none of it was processed.
                return
            tick = time.monotonic()
            out = engine.receive(data, tick, time.time())
            if not endpoint.latency.seconds:
                out += engine.release(tick + TICK_S)
            if out:
                channel.send(out)
            if engine.pending:
                work.set()
            # gevent's recv returns without switching while there is something to read: leave the others their turn.
            gevent.sleep(0)
    except OSError:
        # The client is gone, or does not read.
        return


def _write_when_due(channel: Channel, engine: Engine, endpoint: Endpoint, work: Event) -> None:
    try:
        while not _over(engine):
            if not engine.pending:
                work.clear()
                work.wait()
            latency = endpoint.latency.seconds
            # What comes meanwhile falls due a latency later, so nobody waits longer for this.
            rest = min(engine.rest(time.monotonic()), latency)
            gevent.sleep(max(min(max(latency / PAUSES_PER_LATENCY, TICK_S), MAX_PAUSE_S), rest))
            if _over(engine):
                # Meanwhile the reader has said the last word, and may still be writing it: half a frame, for one.
                return
            out = engine.release(time.monotonic())
            if out:
                channel.send(out)
    except OSError:
        return


def _over(engine: Engine) -> bool:
    return engine.ended is not None
