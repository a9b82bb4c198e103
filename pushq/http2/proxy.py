"""An HTTP proxy that connections go through: CONNECT (RFC 9110 section 9.3.6), with Basic credentials (RFC 7617).

What is asked and what an answer means; the socket is the caller's.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from pushq.errors import SettingsError
from pushq.http2.errors import ConnectFailed
from pushq.http2.reasons import Reason

#: An answer's head, interim answers included, may not be longer than this.
MAX_HEAD = 16 * 1024
_EXPECTED = (
    "expected http://HOST:PORT or http://USER:PASSWORD@HOST:PORT (https:// for a proxy that speaks TLS)"
)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
#: An IPv6 address without brackets has no port.
_WITH_PORT = re.compile(r"(\[.+\]|[^:]+):([0-9]+)")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: ([^\r\n]*))?\r?\n")


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where the proxy is and who it goes for. Its ``str`` and ``repr`` hold no credential.

    Attributes:
        tls: the proxy itself is spoken to over TLS.
        password_file: holds the password and is read for every connection, so that a new one needs no restart.
        ca_file: PEM with the authorities to trust for the proxy's own certificate instead of the system's.
        bypass: hosts that are connected to directly, as ``NO_PROXY`` lists them.
    """

    host: str
    port: int
    tls: bool = False
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    ca_file: Path | None = None
    bypass: tuple[str, ...] = ()

    @classmethod
    def parse(
        cls, url: str, *, no_proxy: str = "", password_file: Path | None = None, ca_file: Path | None = None
    ) -> Self:
        """From a URL; user and password in it are percent-encoded. ``no_proxy`` is a list with commas.

        Raises:
            SettingsError: the message never holds the URL, which may hold a password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise SettingsError(
                f"proxy: found a URL whose host and port cannot be read; {_EXPECTED}"
            ) from None
        if parts.scheme not in ("http", "https"):
            raise SettingsError(
                f"proxy: found a URL that does not begin with http:// or https://; {_EXPECTED}"
            )
        if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise SettingsError(
                f"proxy: found a URL with no host, or with more than host and port; {_EXPECTED}"
            )
        if parts.password is not None and password_file is not None:
            raise SettingsError(
                "proxy: found a password in the URL and a password file; expected one of them"
            )
        if password_file is not None and not parts.username:
            raise SettingsError(
                "proxy: found a password file and no user in the URL; expected http://USER@HOST"
            )
        user = unquote(parts.username) if parts.username else None
        if user is not None and ":" in user:
            raise SettingsError("proxy: found a user with a colon, which Basic credentials cannot carry")
        tls = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=port if port is not None else 443 if tls else 80,
            tls=tls,
            user=user,
            password=unquote(parts.password) if parts.password is not None else None,
            password_file=password_file,
            ca_file=ca_file,
            bypass=tuple(entry for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry),
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def covers(self, host: str, port: int) -> bool:
        """Whether a connection to that host goes through the proxy."""
        return not any(_matches(entry, host.lower(), port) for entry in self.bypass)

    def credentials(self) -> tuple[str, str] | None:
        """User and password; None if the proxy asks for none.

        Raises:
            OSError: the password file cannot be read.
            UnicodeDecodeError: it is not text.
        """
        if self.user is None:
            return None
        if self.password_file is not None:
            return self.user, self.password_file.read_text("utf-8").strip()
        return self.user, self.password or ""


def _matches(entry: str, host: str, port: int) -> bool:
    """``*``, ``example.com`` (and all below), ``.example.com``, ``10.0.0.0/8``, ``[::1]``; each may end in ``:port``."""
    if entry == "*":
        return True
    found = _WITH_PORT.fullmatch(entry)
    if found is not None:
        if int(found[2]) != port:
            return False
        entry = found[1]
    try:
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        suffix = entry.removeprefix("*").lstrip(".")
        return host == suffix or host.endswith(f".{suffix}")
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False


def connect_request(proxy: Proxy, host: str, port: int) -> bytes:
    """The head that asks for a tunnel.

    Raises:
        ConnectFailed: the password file cannot be read.
    """
    if not host.isascii():
        host = host.encode("idna").decode("ascii")  # the host alone: the head as a whole is no name
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    try:
        credentials = proxy.credentials()
    except (OSError, UnicodeDecodeError) as error:
        raise ConnectFailed(
            Reason.PROXY_AUTH, f"password file {proxy.password_file} of proxy {proxy}: {error}"
        ) from error
    if credentials is not None:
        pair = base64.b64encode(":".join(credentials).encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {pair}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def await_tunnel(receive: Callable[[int], bytes], proxy: Proxy, host: str, port: int) -> None:
    """Read the answer to CONNECT from ``receive(at_most)``, which returns ``b""`` at the end. Returns when the tunnel stands.

    Raises:
        ConnectFailed: it says no, or something that is no answer. The detail names what to look at.
    """
    target = f"{host}:{port}"
    data, size = b"", 0
    while True:
        end = _HEAD_END.search(data)
        if end is None:
            if size >= MAX_HEAD:
                raise _broken(proxy, f"sent {size} octets and no end of an answer")
            part = receive(MAX_HEAD - size)
            if not part:
                raise _broken(proxy, "hung up before its answer to CONNECT was complete")
            data += part
            size += len(part)
            continue
        found = _STATUS_LINE.match(data)
        if found is None:
            raise _broken(proxy, "answered CONNECT with something that is not HTTP/1")
        status = int(found[1])
        if status == 101:
            raise _broken(proxy, "answered CONNECT with 101")
        if status < 200:
            data = data[end.end() :]  # an interim answer: the real one follows
            continue
        if status < 300:
            if end.end() != len(data):
                # In TLS it is the client who speaks first, so nobody can have said this who belongs at the far end.
                raise _broken(proxy, f"sent {len(data) - end.end()} octets into the tunnel by itself")
            return
        reason, look = _refusal(status)
        phrase = _readable(found[2] or b"")
        said = f"{status} {phrase}".rstrip()
        raise ConnectFailed(reason, f"proxy {proxy} answered {said} to CONNECT {target}; {look}")


def _refusal(status: int) -> tuple[Reason, str]:
    if status == 407:
        return Reason.PROXY_AUTH, "look at the proxy's user and password"
    if status == 403:
        return Reason.PROXY_FORBIDDEN, "its rules do not let us out to that host and port"
    if status >= 500:
        return Reason.PROXY_BAD_GATEWAY, "it cannot reach that host, or is not well itself"
    return Reason.PROXY_REFUSED, "is it a proxy that allows CONNECT?"


def _broken(proxy: Proxy, what: str) -> ConnectFailed:
    return ConnectFailed(Reason.PROXY_PROTOCOL, f"proxy {proxy} {what}")


def _readable(phrase: bytes) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", phrase[:80].decode("latin-1")).strip()
