"""`pushq web` from outside: who gets in, for how long, and what stands on every answer and in no log."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from pushq.access import audit, keys, sessions, users
from pushq.access.local import local
from pushq.access.principal import SCOPES
from pushq.web.app import create_app
from pushq.web.headers import CONTENT_SECURITY_POLICY
from pushq.web.security import PUBLIC, routes_of, scopes_of, unguarded
from tests.integration.web_door import PASSWORD, Door, opened_door
from tests.services.fixtures import Fleet

#: Needs a key with sends:read and nothing else.
GUARDED = "/metrics"
#: What stands for a path's parameters.
NOWHERE = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def door(_fleet: Fleet, ledger_url: str) -> Iterator[Door]:
    with opened_door(_fleet, ledger_url) as door:
        yield door


@pytest.fixture(autouse=True)
def _fresh(door: Door) -> None:
    door.forget()
    door.change("TRUNCATE audit_log")


def until(what: Callable[[], bool], why: str, seconds: float = 60.0) -> float:
    """How many seconds it took."""
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < seconds, why
        time.sleep(0.1)
    return time.monotonic() - started


def refused(door: Door) -> list[str]:
    return [row.actor for row in audit.read(door.database, action="login.refused")]


def guarded(door: Door) -> list[tuple[str, str, str]]:
    """(method, path, scope) of every route that asks for something."""
    return [
        (method, re.sub(r"\{[^}]+\}", NOWHERE, route.path), scope)
        for route in routes_of(door.app)
        for scope in scopes_of(route)
        for method in sorted(route.methods - {"HEAD"})
    ]


class TestEveryRoute:
    def test_asks_for_a_scope_or_is_public(self, door: Door) -> None:
        assert unguarded(door.app) == []
        public = {route.path for route in routes_of(door.app) if not scopes_of(route)}
        assert public <= PUBLIC

    def test_an_application_with_an_open_route_does_not_start(self, door: Door) -> None:
        other = create_app(door.settings)

        @other.get("/forgotten")
        def forgotten() -> str:
            return "secret"

        assert unguarded(other) == ["/forgotten"]

        async def start() -> None:
            async with other.router.lifespan_context(other):
                pass

        with pytest.raises(RuntimeError, match="without a scope: /forgotten"):
            asyncio.run(start())

    def test_refuses_who_has_no_key(self, door: Door) -> None:
        with door.client() as client:
            for method, path, scope in guarded(door):
                answer = client.request(method, path, headers={"Accept": "text/html"})
                if scope == "session" or path.startswith("/console"):
                    assert answer.status_code in {303, 401}, (method, path)
                    assert answer.headers.get("location", "/login").startswith("/login"), (method, path)
                else:
                    assert answer.status_code == 401, (method, path)
                    assert answer.headers["www-authenticate"].startswith("Bearer"), (method, path)

    def test_refuses_a_key_with_every_other_scope(self, door: Door) -> None:
        others = {scope: door.key(*(set(SCOPES) - {scope, "admin"})) for scope in SCOPES}
        checked = 0
        with door.client() as client:
            for method, path, scope in guarded(door):
                if scope == "session" or path.startswith("/console"):
                    continue
                answer = client.request(method, path, headers=others[scope])
                assert answer.status_code == 403, (method, path, answer.text)
                assert answer.json()["missing"] == f"scope {scope}"
                checked += 1
        assert checked

    def test_refuses_somebody_signed_in_without_the_scope(self, door: Door) -> None:
        door.user("ada", "audit:read")
        door.user("bob", *(set(SCOPES) - {"audit:read", "admin"}))
        checked = 0
        for name in ("ada", "bob"):
            with door.signed_in(name) as client:
                token = {"X-CSRF-Token": client.headers["X-CSRF-Token"]}
                for method, path, scope in guarded(door):
                    if scope == "session" or (scope == "audit:read") == (name == "ada"):
                        continue
                    answer = client.request(method, path, headers=token)
                    assert answer.status_code == 403, (method, path, answer.text)
                    checked += 1
        assert checked


class TestKeys:
    def test_the_right_key_opens(self, door: Door) -> None:
        with door.client() as client:
            assert client.get(GUARDED, headers=door.key("sends:read")).status_code == 200
            assert client.get(GUARDED, headers=door.key("admin")).status_code == 200

    def test_wrong_secret_and_wrong_id_are_told_apart_by_nothing(self, door: Door) -> None:
        good = door.key("admin")["Authorization"]
        key_id, secret = good.removeprefix("Bearer pushq_").split("_")
        wrong = [
            f"Bearer pushq_{key_id}_{'0' * 43}",
            f"Bearer pushq_{'0' * 16}_{secret}",
            "Bearer pushq_nothing",
            f"Bearer {good}",
            "Bearer",
            "Basic YWRhOmFkYQ==",
            good.replace("pushq", "PUSHQ"),
            f"{good}{'0' * 5000}",
        ]
        with door.client() as client:
            answers = [client.get(GUARDED, headers={"Authorization": value}) for value in wrong]
        assert {answer.status_code for answer in answers} == {401}
        assert len({answer.content for answer in answers}) == 1

    def test_two_keys_in_one_request_are_none(self, door: Door) -> None:
        good = door.key("admin")["Authorization"]
        both = [("Authorization", good), ("Authorization", good)]
        with door.client() as client:
            assert client.get(GUARDED, headers=both).status_code == 401

    def test_a_key_in_the_address_is_none(self, door: Door) -> None:
        key = door.key("admin")["Authorization"].removeprefix("Bearer ")
        with door.client() as client:
            assert client.get(GUARDED, params={"access_token": key, "key": key}).status_code in {401, 422}

    def test_a_key_that_ends_is_refused_within_seconds(self, door: Door) -> None:
        revoked, first = keys.issue(door.database, local(), name="short", scopes=["sends:read"])
        over, second = keys.issue(door.database, local(), name="short", scopes=["sends:read"])
        opens = [{"Authorization": f"Bearer {key}"} for key in (first, second)]
        with door.client() as client:
            assert {client.get(GUARDED, headers=headers).status_code for headers in opens} == {200}
            keys.revoke(door.database, local(), revoked.id)
            door.change("UPDATE api_keys SET expires_at = now() WHERE id = :id", id=over.id)
            for headers in opens:
                until(
                    lambda: client.get(GUARDED, headers=headers).status_code == 401,  # noqa: B023 - called at once
                    "the key still opens",
                )

    def test_a_key_has_its_own_rate(self, door: Door) -> None:
        slow, other = door.key("sends:read", rate=1), door.key("sends:read")
        with door.client() as client:
            statuses = []
            while 429 not in statuses:
                answer = client.get(GUARDED, headers=slow)
                statuses.append(answer.status_code)
                assert len(statuses) < 500, "nothing limits the key"
            assert set(statuses) == {200, 429}
            assert int(answer.headers["retry-after"]) >= 1
            assert client.get(GUARDED, headers=other).status_code == 200

    def test_invented_keys_cannot_keep_the_database_busy(self, door: Door) -> None:
        """10,000 of them do not matter to who has a good one."""
        good = door.key("sends:read")
        with door.client() as client:
            assert client.get(GUARDED, headers=good).status_code == 200
            statuses: list[int] = []
            while 429 not in statuses:
                key = f"Bearer pushq_{len(statuses):016x}_{'a' * 43}"
                statuses.append(client.get(GUARDED, headers={"Authorization": key}).status_code)
                assert len(statuses) < 1000, "every one of them is looked up"
            assert set(statuses) == {401, 429}
            assert client.get(GUARDED, headers=good).status_code == 200


class TestSigningIn:
    def test_name_and_password_open_a_session(self, door: Door) -> None:
        door.user("ada")
        with door.client() as client:
            assert client.get(GUARDED).status_code == 401
            form = door.login_form(client)
            answer = client.post("/login", data={**form, "name": "ada", "password": PASSWORD})
            assert (answer.status_code, answer.headers["location"]) == (303, "/console/")
            (cookie,) = [c for c in answer.headers.get_list("set-cookie") if c.startswith("pushq_session=")]
            attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
            assert {"httponly", "samesite=lax", "path=/"} <= attributes
            assert "secure" not in attributes, "browsers would not take it without TLS"
            assert client.get(GUARDED).status_code == 200

    def test_behind_tls_the_cookie_is_bound_to_host_and_tls(self, door: Door) -> None:
        door.user("ada")
        with door.client({"X-Forwarded-Proto": "https", "Host": "push.example"}) as client:
            shown = client.get("/login")
            assert shown.headers["strict-transport-security"].startswith("max-age=")
            cookie = shown.headers["set-cookie"]
            assert "secure" in cookie.lower()
            answer = client.post(
                "/login",
                data={**door.fields(shown), "name": "ada", "password": PASSWORD},
                # httpx keeps no cookie of another host than the one it connects to.
                headers={"Cookie": cookie.partition(";")[0], "Origin": "https://push.example"},
            )
            assert answer.status_code == 303, answer.text
            (session,) = [c for c in answer.headers.get_list("set-cookie") if c.startswith("__Host-pushq=")]
            attributes = {part.strip().lower() for part in session.split(";")[1:]}
            assert {"secure", "httponly", "path=/"} <= attributes
            assert not any(each.startswith("domain") for each in attributes)
            token = session.partition(";")[0]
            assert client.get(GUARDED, headers={"Cookie": token}).status_code == 200
            plain = token.replace("__Host-pushq", "pushq_session")
            assert client.get(GUARDED, headers={"Cookie": plain}).status_code == 401

    def test_no_password_travels_in_the_clear(self, door: Door) -> None:
        door.user("ada")
        with door.client() as client:
            form = door.login_form(client)
            answer = client.post(
                "/login",
                data={**form, "name": "ada", "password": PASSWORD},
                headers={"Host": "push.example", "Cookie": door.cookies(client)},
            )
            assert answer.status_code == 403
            assert "https://" in answer.text
            assert not any("session" in cookie for cookie in answer.headers.get_list("set-cookie"))

    def test_a_wrong_name_and_a_wrong_password_look_alike(self, door: Door) -> None:
        door.user("ada")
        with door.client() as client:
            form = door.login_form(client)
            answers = [
                client.post("/login", data={**form, "name": name, "password": "wrong and long enough"})
                for name in ("ada", "eve")
            ]
            assert {answer.status_code for answer in answers} == {401}
            assert answers[0].text.replace("ada", "eve") == answers[1].text
            assert client.get(GUARDED).status_code == 401
        until(lambda: bool(refused(door)), "the refusal is not on record")
        assert refused(door) == ["ada"], "whatever else was typed may be a password"

    def test_tries_are_throttled_and_the_right_password_waits_as_well(self, door: Door) -> None:
        door.user("ada")
        with door.client() as client:
            form = door.login_form(client)
            statuses: list[int] = []
            while 429 not in statuses:
                answer = client.post("/login", data={**form, "name": "ada", "password": "wrong" * 4})
                statuses.append(answer.status_code)
                assert len(statuses) <= 60, "nothing throttles"
            assert int(answer.headers["retry-after"]) >= 1
            right = client.post("/login", data={**form, "name": "ADA", "password": PASSWORD})
            assert right.status_code == 429

    def test_it_needs_the_form_that_this_browser_got(self, door: Door) -> None:
        door.user("ada")
        with door.client() as mine, door.client() as theirs:
            form = door.login_form(theirs)
            data = {**form, "name": "ada", "password": PASSWORD}
            assert mine.post("/login", data=data).status_code == 403, "no cookie"
            door.login_form(mine)
            assert mine.post("/login", data=data).status_code == 403, "another browser's form"
            for headers in (
                {"Origin": "https://evil.example"},
                {"Sec-Fetch-Site": "cross-site"},
                {"Origin": "null"},
            ):
                assert theirs.post("/login", data=data, headers=headers).status_code == 403
            assert theirs.post("/login", data=data).status_code == 303

    @pytest.mark.parametrize(
        "target",
        [
            "//evil.example",
            "https://evil.example/",
            "/\\evil.example",
            "javascript:alert(1)",
            "/a\r\nSet-Cookie: x=y",
            "\\/evil",
        ],
    )
    def test_nobody_is_led_elsewhere(self, door: Door, target: str) -> None:
        door.user("ada")
        with door.client() as client:
            form = door.fields(client.get("/login", params={"next": target})) | {"next": target}
            answer = client.post("/login", data={**form, "name": "ada", "password": PASSWORD})
            assert (answer.status_code, answer.headers["location"]) == (303, "/console/")

    def test_the_way_back_is_kept(self, door: Door) -> None:
        door.user("ada")
        way = f"/console/sends/{NOWHERE}?tab=reasons"
        with door.client() as client:
            form = door.fields(client.get("/login", params={"next": way}))
            answer = client.post("/login", data={**form, "name": "ada", "password": PASSWORD})
            assert answer.headers["location"] == way

    def test_what_is_typed_is_shown_as_text(self, door: Door) -> None:
        with door.client() as client:
            form = door.login_form(client)
            for hostile in (
                "<script>alert(1)</script>",
                '"><img src=x onerror=alert(1)>',
                "{{7*7}}",
                "{% raw %}",
            ):
                shown = client.post("/login", data={**form, "name": hostile, "password": "x"}).text
                assert "<script>alert" not in shown
                assert "<img src=x" not in shown
                assert "49" not in re.sub(r'value="[A-Za-z0-9_-]{43}"', "", shown)
                door.forget()

    def test_a_link_signs_in_once(self, door: Door) -> None:
        door.user("ada")
        token = sessions.login_link(door.database, local(), "ada")
        with door.client() as first, door.client() as second:
            early = first.get(f"/login/link/{token}", headers={"Sec-Purpose": "prefetch;prerender"})
            assert early.status_code == 503
            assert first.get(f"/login/link/{token}").status_code == 303
            assert first.get(GUARDED).status_code == 200
            assert second.get(f"/login/link/{token}").status_code == 401
            assert second.get("/login/link/nonsense").status_code == 401
            assert second.get(GUARDED).status_code == 401

    def test_bodies_that_are_no_form_are_refused(self, door: Door) -> None:
        with door.client() as client:
            assert client.post("/login", json={"name": "ada"}).status_code == 415
            big = {"name": "x" * 100_000, "password": "x"}
            assert client.post("/login", data=big).status_code == 413
            many = {f"f{n}": "x" for n in range(100)}
            assert client.post("/login", data=many).status_code == 422
            binary = client.post(
                "/login",
                content=b"\xff\xfe=%ff",
                headers={"Content-Type": "application/x-www-form-urlencoded"},
            )
            assert binary.status_code == 422


class TestSessionsEnd:
    def test_within_seconds(self, door: Door) -> None:
        endings: dict[str, Callable[[], object]] = {
            "password": lambda: users.set_password(door.database, local(), "password", PASSWORD + "!"),
            "delete": lambda: users.delete(door.database, local(), "delete"),
            "sign-out": lambda: users.sign_out(door.database, local(), "sign-out"),
            "over": lambda: door.change(
                "UPDATE console_sessions SET ends_at = now() WHERE user_name = 'over'"
            ),
            "idle": lambda: door.change(
                "UPDATE console_sessions SET seen_at = now() - interval '3 hours' WHERE user_name = 'idle'"
            ),
        }
        with ExitStack() as stack:
            clients = {}
            for name in (*endings, "stays"):
                door.user(name)
                clients[name] = stack.enter_context(door.signed_in(name))
                assert clients[name].get(GUARDED).status_code == 200
            for end in endings.values():
                end()
            for name in endings:
                until(lambda: clients[name].get(GUARDED).status_code == 401, f"{name}: the session goes on")  # noqa: B023 - called at once
            assert clients["stays"].get(GUARDED).status_code == 200

    def test_signing_out_ends_it_at_once_for_whoever_has_the_cookie(self, door: Door) -> None:
        door.user("ada")
        with door.signed_in("ada") as client, door.client() as thief:
            stolen = {"Cookie": door.cookies(client)}
            assert thief.get(GUARDED, headers=stolen).status_code == 200
            answer = client.post("/logout")
            assert (answer.status_code, answer.headers["location"]) == (303, "/login")
            assert 'pushq_session=""' in answer.headers["set-cookie"]
            assert thief.get(GUARDED, headers=stolen).status_code == 401

    def test_who_is_not_signed_in_is_shown_the_way(self, door: Door) -> None:
        with door.client() as client:
            assert client.post("/logout", headers={"Accept": "text/html"}).status_code == 401


class TestForgedRequests:
    @pytest.mark.parametrize(
        "headers",
        [
            {"X-CSRF-Token": ""},
            {"X-CSRF-Token": "A" * 43},
            {"X-CSRF-Token": "\u00fc".encode().decode("latin-1")},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://["},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
    )
    def test_a_page_of_somebody_else_changes_nothing(self, door: Door, headers: dict[str, str]) -> None:
        door.user("ada")
        with door.signed_in("ada") as client:
            encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            assert client.post("/logout", headers=encoded).status_code == 403
            assert client.get(GUARDED).status_code == 200, "still signed in"

    def test_the_token_of_another_session_is_none(self, door: Door) -> None:
        door.user("ada")
        with door.signed_in("ada") as first, door.signed_in("ada") as second:
            theirs = {"X-CSRF-Token": second.headers["X-CSRF-Token"]}
            assert first.post("/logout", headers=theirs).status_code == 403

    def test_the_token_goes_into_a_field_or_the_header(self, door: Door) -> None:
        door.user("ada")
        for way in ("field", "header"):
            with door.signed_in("ada") as client:
                token = client.headers.pop("X-CSRF-Token")
                assert client.post("/logout").status_code == 403
                twice = client.post("/logout", data={"csrf_token": ["x", token]})
                assert twice.status_code == 403
                if way == "field":
                    answer = client.post("/logout", data={"csrf_token": token})
                else:
                    ours = {"X-CSRF-Token": token, "Origin": door.url, "Sec-Fetch-Site": "same-origin"}
                    answer = client.post("/logout", headers=ours)
                assert answer.status_code == 303

    def test_the_api_takes_a_session_only_with_the_header(self, door: Door) -> None:
        door.user("ada", "admin")
        unsafe = [
            (method, path)
            for method, path, scope in guarded(door)
            if method not in {"GET", "HEAD"} and path.startswith("/v1/") and scope != "session"
        ]
        with door.signed_in("ada") as client:
            token = client.headers.pop("X-CSRF-Token")
            for method, path in unsafe:
                answer = client.request(method, path, data={"csrf_token": token})
                assert answer.status_code == 403, (method, path)


EXPECTED = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class TestHeaders:
    def test_they_are_on_every_answer(self, door: Door) -> None:
        requests: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "/healthz", {}),
            ("GET", GUARDED, {}),
            ("GET", GUARDED, {"headers": door.key("sends:read")}),
            ("GET", GUARDED, {"headers": door.key("send")}),
            ("GET", "/login", {}),
            ("GET", "/nowhere", {}),
            ("DELETE", "/healthz", {}),
            ("POST", "/login", {"content": b"x"}),
            ("GET", "/openapi.json", {}),
            ("GET", "/" + "a" * 9000, {}),
        ]
        seen = set()
        with door.client() as client:
            for method, path, options in requests:
                answer = client.request(method, path, **options)
                seen.add(answer.status_code)
                for name, value in EXPECTED.items():
                    assert answer.headers.get_list(name) == [value], (method, path, answer.status_code)
                assert "server" not in answer.headers
                assert answer.headers["cache-control"]
                assert "strict-transport-security" not in answer.headers, "not without TLS"
        assert {200, 401, 403, 404, 405, 415} <= seen

    def test_the_policy_allows_nothing_inline_and_nobody_else(self) -> None:
        assert "unsafe" not in CONTENT_SECURITY_POLICY
        assert "http" not in CONTENT_SECURITY_POLICY
        directives = dict(each.strip().split(" ", 1) for each in CONTENT_SECURITY_POLICY.split(";"))
        assert (
            directives["default-src"] == directives["base-uri"] == directives["frame-ancestors"] == "'none'"
        )

    def test_an_error_of_ours_says_nothing_and_has_them_too(
        self, door: Door, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def broken(*_: object) -> float:
            raise ValueError("the secret of the shop is 4711")

        monkeypatch.setattr(door.app.state.security.limiter, "take", broken)
        with door.client(door.key("sends:read")) as client:
            answer = client.get(GUARDED)
        assert answer.status_code == 500
        assert "4711" not in answer.text
        assert "Traceback" not in answer.text
        for name, value in EXPECTED.items():
            assert answer.headers[name] == value


class TestHostileRequests:
    @pytest.mark.parametrize(
        "lines",
        [
            [b"Authorization: Bearer pushq_\x00"],
            [b"Cookie: " + b"a=b; " * 2000],
            [b"Cookie: pushq_session=" + b"\xff" * 43],
            [b"Cookie: pushq_session=" + b"A" * 43],
            [b"Cookie: pushq_session=" + b"A" * 10_000],
            [b"X-Forwarded-For: ' OR 1=1 --"],
            [b"X-Forwarded-For: " + b"9" * 5000],
            [b"X-Forwarded-Proto: javascript"],
            [b"Host: [::1"],
            [b"Host: "],
            [b"Host: a, b"],
            [b"Origin: " + b"x" * 5000],
            [b"Authorization: Bearer"],
            [b"Authorization: " + b"Bearer " * 500],
            [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
            [b"Content-Length: 5", b"Content-Length: 6"],
            [b"Content-Length: -1"],
            [b"X: y\r\n z: folded"],
            [b": empty"],
            [b"No colon"],
            [b"X-" + b"a" * 100_000 + b": b"],
            [b"X-%d: y" % number for number in range(10_000)],
        ],
    )
    def test_headers_get_an_answer_below_500_and_open_nothing(self, door: Door, lines: list[bytes]) -> None:
        has_host = any(line.lower().startswith(b"host:") for line in lines)
        head = [
            b"GET /metrics HTTP/1.1",
            *([] if has_host else [b"Host: localhost"]),
            b"Connection: close",
            *lines,
        ]
        status = speak(door, b"\r\n".join(head) + b"\r\n\r\n")
        assert status is None or 400 <= status < 500
        with door.client(door.key("sends:read")) as client:
            assert client.get(GUARDED).status_code == 200


def speak(door: Door, data: bytes) -> int | None:
    """The status of the first answer; None when the connection is closed without one."""
    host, port = httpx.URL(door.url).host, httpx.URL(door.url).port
    with socket.create_connection((host, port), timeout=60) as connection:
        try:
            connection.sendall(data)
            answer = b""
            while b"\r\n" not in answer and (more := connection.recv(4096)):
                answer += more
        except ConnectionError:
            return None
    return int(answer.split(b" ")[1]) if answer else None


class TestNothingLeaks:
    def test_no_secret_is_in_a_log_or_on_record(self, door: Door, caplog: pytest.LogCaptureFixture) -> None:
        door.user("ada")
        with caplog.at_level(logging.DEBUG):
            made, key = keys.issue(door.database, local(), name="leak", scopes=["sends:read"])
            link = sessions.login_link(door.database, local(), "ada")
            wrong_key = f"pushq_{made.id}_{'Z' * 43}"
            with door.client() as client:
                client.get(GUARDED, headers={"Authorization": f"Bearer {key}"})
                client.get(GUARDED, headers={"Authorization": f"Bearer {wrong_key}"})
                client.get(f"/login/link/{link}")
                client.cookies.clear()
                client.post(
                    "/login", data={**door.login_form(client), "name": "ada", "password": "wrong pass phrase"}
                )
                client.post(
                    "/login", data={**door.login_form(client), "name": "typed pass phrase", "password": "x"}
                )
            with door.signed_in("ada") as client:
                session, token = door.cookies(client), client.headers["X-CSRF-Token"]
                client.get(GUARDED)
                until(lambda: bool(refused(door)), "the refusal is not on record")
                client.post("/logout", headers={"X-CSRF-Token": "x"})
                client.post("/logout")
        in_redis = " ".join(name.decode() for name in door.redis.scan_iter("*"))
        assert "login:" in in_redis
        with door.database.begin() as connection:
            rows = connection.execute(text("SELECT to_jsonb(a)::text FROM audit_log a")).scalars().all()
        written = "\n".join(
            [
                *rows,
                in_redis,
                *(
                    f"{record.getMessage()} {record.__dict__}"
                    for record in caplog.records
                    # The client's own; and the one that `pushq web` turns off.
                    if not record.name.startswith(("httpx", "httpcore", "uvicorn.access"))
                ),
            ]
        )
        assert "login.refused" in written
        for secret in (
            key,
            key.rpartition("_")[2],
            wrong_key,
            "Z" * 43,
            link,
            "wrong pass phrase",
            "typed pass phrase",
            PASSWORD,
            session.partition("=")[2],
            token,
            hashlib.sha256(key.rpartition("_")[2].encode()).hexdigest(),
        ):
            assert secret not in written
