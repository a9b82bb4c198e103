"""The control API: plain HTTP on loopback, for tests and for the curious.

GET    /healthz                      ok
GET    /stats                        all counts, JSON
GET    /accepted/<platform>          "token count" lines of what was accepted
GET    /requests/<platform>?last=N   the last requests, JSON (strict engine only)
GET    /topics/<name>                tokens that are subscribed to FCM's topic, one a line
POST   /faults                       replace the fault table: [{...}] or {"faults": [...], "seed": 0}
DELETE /faults                       no faults
POST   /expire/<platform>            every credential issued so far is expired
POST   /keys/<platform>              make another key and accept it; its ids and file
DELETE /keys/<platform>/<key id>     what this key signs is refused from now on
POST   /latency                      {"latency_ms": 80, "spread_ms": 0}
POST   /reset                        all counts to zero, no faults, no requests kept
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from pushq.errors import InvalidRequest
from pushq.mock.endpoint import Endpoint, Latency
from pushq.mock.exchange import Request
from pushq.mock.faults import FaultTable
from pushq.mock.http1 import Reply
from pushq.mock.keyring import Keyring
from pushq.mock.tally import Tally

DEFAULT_LAST = 100


class Control:
    """Answers control requests.

    Args:
        endpoints: by platform; APNs has two, production and sandbox, which share the counts.
        recent: the last requests by platform; empty where they are not kept.
        keyrings: of the platforms whose keys can be made and revoked.
        topics: tokens by FCM topic.
    """

    def __init__(
        self,
        engine: str,
        endpoints: Mapping[str, Sequence[Endpoint]],
        tallies: Mapping[str, Tally],
        faults: FaultTable,
        recent: Mapping[str, deque[Request]],
        keyrings: Mapping[str, Keyring],
        topics: Mapping[str, set[str]],
    ) -> None:
        self._engine = engine
        self._endpoints = endpoints
        self._tallies = tallies
        self._faults = faults
        self._recent = recent
        self._keyrings = keyrings
        self._topics = topics
        self._started = time.monotonic()

    def handle(self, request: Request) -> Reply:
        url = urlsplit(request.path)
        area, _, name = url.path.strip("/").partition("/")
        try:
            return self._route(request.method, area, name, request, parse_qs(url.query))
        except (InvalidRequest, orjson.JSONDecodeError) as error:
            return _json({"error": str(error)}, 400)

    def _route(
        self, method: str, area: str, name: str, request: Request, query: Mapping[str, list[str]]
    ) -> Reply:
        match method, area:
            case "GET", "healthz":
                return _text(b"ok\n")
            case "GET", "stats":
                return _json(self._stats())
            case "GET", "accepted" if name in self._tallies:
                return Reply(200, (("content-type", "text/plain"),), self._tallies[name].lines())
            case "GET", "requests" if name in self._endpoints:
                return self._requests(name, query)
            case "GET", "topics" if name:
                return _text("".join(f"{each}\n" for each in sorted(self._topics.get(name, ()))).encode())
            case "POST", "faults":
                return self._replace_faults(request)
            case "DELETE", "faults":
                self._faults.replace([])
                return _json({"faults": 0})
            case "POST", "expire" if name in self._endpoints:
                for endpoint in self._endpoints[name]:
                    endpoint.expire_credentials(time.time())
                return _json({"expired": name})
            case "POST", "keys" if name in self._keyrings:
                return _json(self._keyrings[name].add())
            case "DELETE", "keys" if name.partition("/")[0] in self._keyrings:
                return self._revoke(*name.partition("/")[::2])
            case "POST", "latency":
                return self._set_latency(request)
            case "POST", "reset":
                self._faults.replace([])
                for tally in self._tallies.values():
                    tally.reset()
                for requests in self._recent.values():
                    requests.clear()
                return _json({"reset": True})
        return _json({"error": f"{method} {request.path}: no such place"}, 404)

    def _stats(self) -> dict[str, Any]:
        return {
            "engine": self._engine,
            "uptime_s": round(time.monotonic() - self._started, 3),
            "cpu_s": round(time.process_time(), 3),
            "platforms": {platform: tally.as_dict() for platform, tally in self._tallies.items()},
        }

    def _requests(self, platform: str, query: Mapping[str, list[str]]) -> Reply:
        if platform not in self._recent:
            return _json({"error": "requests are kept by the strict engine only"}, 409)
        text = query.get("last", [str(DEFAULT_LAST)])[0]
        if not text.isdigit():
            raise InvalidRequest("last", repr(text), "a whole number")
        kept = list(self._recent[platform])
        found = kept[max(0, len(kept) - int(text)) :]
        return _json(
            [
                {
                    "method": request.method,
                    "path": request.path,
                    "headers": list(request.headers),
                    "body": request.body.decode("utf-8", "replace"),
                }
                for request in found
            ]
        )

    def _revoke(self, platform: str, key_id: str) -> Reply:
        if not self._keyrings[platform].revoke(key_id):
            return _json({"error": f"no key {key_id!r} is accepted"}, 404)
        for endpoint in self._endpoints[platform]:
            endpoint.generation += 1  # requests that were good are looked at again
        return _json({"revoked": key_id})

    def _replace_faults(self, request: Request) -> Reply:
        document = orjson.loads(request.body)
        if isinstance(document, list):
            document = {"faults": document}
        faults = document.get("faults") if isinstance(document, dict) else None
        seed = document.get("seed", 0) if isinstance(document, dict) else 0
        if not isinstance(faults, list) or not isinstance(seed, int):
            raise InvalidRequest("faults", "something else", 'a list, or {"faults": [...], "seed": 0}')
        self._faults.replace(faults, seed)
        return _json({"faults": len(faults)})

    def _set_latency(self, request: Request) -> Reply:
        document = orjson.loads(request.body)
        if not isinstance(document, dict):
            raise InvalidRequest("latency", "no object", '{"latency_ms": 80, "spread_ms": 0}')
        latency, spread = (_milliseconds(document, name) for name in ("latency_ms", "spread_ms"))
        for endpoints in self._endpoints.values():
            for endpoint in endpoints:
                endpoint.latency = Latency(latency / 1000, spread / 1000)
        return _json({"latency_ms": latency, "spread_ms": spread})


def _milliseconds(document: Mapping[str, Any], name: str) -> float:
    value = document.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise InvalidRequest(name, repr(value), "milliseconds, at least 0")
    return float(value)


def _text(body: bytes) -> Reply:
    return Reply(200, (("content-type", "text/plain"),), (body,), len(body))


def _json(document: Any, status: int = 200) -> Reply:
    body = orjson.dumps(document) + b"\n"
    return Reply(status, (("content-type", "application/json"),), (body,), len(body))
