"""Makes connections: name, address, proxy, TLS, in this order, under one time-out."""

from __future__ import annotations

import contextlib
import logging
import random as _random
import socket as constants
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import gevent
import gevent.ssl
from gevent import socket

from pushq.http2 import proxy as proxies
from pushq.http2.certificates import TlsContext
from pushq.http2.errors import ConnectFailed
from pushq.http2.network import READ_SIZE, Channel, describe
from pushq.http2.proxy import Proxy
from pushq.http2.racing import Address, AllFailed, arrange, connect_first, resolve
from pushq.http2.reasons import Reason
from pushq.http2.settings import Origin

_log = logging.getLogger("pushq.http2")


@dataclass(slots=True)
class _Step:
    """What a connection attempt waits for, in case that its time runs out."""

    reason: Reason
    what: str


class Dialer:
    """Makes connections to one origin: a fresh DNS look-up for each, always verified, ALPN ``h2``, TLS session reuse."""

    def __init__(
        self,
        origin: Origin,
        proxy: Proxy | None = None,
        *,
        resolver: Callable[[str, int], list[Address]] = resolve,
        random: Callable[[], float] = _random.random,
    ) -> None:
        """``proxy`` is used if it covers the origin.

        Raises:
            SettingsError: a certificate or key file cannot be used.
        """
        self._origin = origin
        self._proxy = proxy if proxy is not None and proxy.covers(origin.host, origin.port) else None
        self._resolver = resolver
        self._tls = TlsContext(origin)
        self._context = self._tls.current()
        self._session: ssl.SSLSession | None = None
        # A fleet that starts together spreads over the addresses, too.
        self._turn = int(random() * 2**16)

    def connect(self, timeout_s: float) -> Channel:
        """A connected channel, after the TLS handshake.

        Raises:
            ConnectFailed: with the reason; also after ``timeout_s``.
        """
        step = _Step(Reason.CONNECT_TIMEOUT, f"{self._where} not connected")
        deadline = gevent.Timeout(timeout_s)
        deadline.start()
        try:
            context = self._tls.current()
            if context is not self._context:
                self._context, self._session = context, None  # a session belongs to its context
            return self._handshake(self._open_socket(step))
        except gevent.Timeout as expired:
            if expired is not deadline:
                raise
            raise ConnectFailed(step.reason, f"{step.what} in {timeout_s:g} s") from None
        finally:
            deadline.close()

    @property
    def _where(self) -> str:
        return f"{self._origin.host}:{self._origin.port}"

    def _open_socket(self, step: _Step) -> socket.socket:
        if self._proxy is None:
            return self._reach(self._origin.host, self._origin.port)
        return self._tunnel(self._proxy, step)

    def _reach(self, host: str, port: int) -> socket.socket:
        try:
            addresses = self._resolver(host, port)
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot even be asked for
            raise ConnectFailed(Reason.DNS, f"{host}: {describe(error)}") from error
        self._turn += 1
        try:
            sock = connect_first(arrange(addresses, self._turn))
        except AllFailed as all_failed:
            failures = all_failed.failures
            if failures and all(isinstance(failure, ConnectionRefusedError) for failure in failures):
                raise ConnectFailed(
                    Reason.CONNECT_REFUSED, f"{host}:{port} refused the connection"
                ) from failures[-1]
            detail = "; ".join(dict.fromkeys(map(describe, failures))) or "no address"
            raise ConnectFailed(Reason.CONNECT_FAILED, f"{host}:{port}: {detail}") from all_failed
        sock.setsockopt(constants.IPPROTO_TCP, constants.TCP_NODELAY, 1)
        sock.setsockopt(constants.SOL_SOCKET, constants.SO_KEEPALIVE, 1)
        return sock

    def _tunnel(self, proxy: Proxy, step: _Step) -> socket.socket:
        step.reason, step.what = Reason.PROXY_UNREACHABLE, f"proxy {proxy} not connected"
        try:
            sock = self._reach(proxy.host, proxy.port)
        except ConnectFailed as failure:
            raise ConnectFailed(Reason.PROXY_UNREACHABLE, f"proxy {proxy}: {failure.detail}") from failure
        try:
            if proxy.tls:
                step.reason, step.what = (
                    Reason.PROXY_TLS_FAILED,
                    f"proxy {proxy} did not finish the TLS handshake",
                )
                sock = _secured(sock, proxy)
            step.reason, step.what = (
                Reason.PROXY_TIMEOUT,
                f"proxy {proxy} did not answer CONNECT {self._where}",
            )
            sock.sendall(proxies.connect_request(proxy, self._origin.host, self._origin.port))
            proxies.await_tunnel(sock.recv, proxy, self._origin.host, self._origin.port)
        except OSError as error:
            sock.close()
            raise ConnectFailed(Reason.PROXY_PROTOCOL, f"proxy {proxy}: {describe(error)}") from error
        except BaseException:  # its refusal, the time-out or a kill; the socket must not leak
            sock.close()
            raise
        step.reason = Reason.CONNECT_TIMEOUT
        step.what = f"{self._where} not connected through proxy {proxy}"
        return sock

    def _handshake(self, sock: socket.socket) -> Channel:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = self._context
        try:
            tls = context.wrap_bio(
                incoming,
                outgoing,
                server_hostname=self._origin.server_name or self._origin.host,
                session=self._session,
            )
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    data = sock.recv(READ_SIZE)
                    if not data:
                        raise ConnectFailed(
                            Reason.TLS_FAILED, f"{self._where} hung up in the handshake"
                        ) from None
                    incoming.write(data)
                else:
                    break
            sock.sendall(outgoing.read())
            if tls.selected_alpn_protocol() != "h2":
                raise ConnectFailed(Reason.NO_ALPN_H2, f"{self._where} does not offer HTTP/2 (ALPN h2)")
        except ssl.SSLCertVerificationError as error:
            self._reject(sock, outgoing)
            raise ConnectFailed(Reason.TLS_VERIFY_FAILED, f"{self._where}: {error.verify_message}") from error
        except OSError as error:  # ssl.SSLError is one too
            self._reject(sock, outgoing)
            raise ConnectFailed(Reason.TLS_FAILED, f"{self._where}: {describe(error)}") from error
        except BaseException:
            sock.close()
            raise
        return Channel(sock, tls, incoming, outgoing, lambda session: self._remember(context, session))

    def _reject(self, sock: socket.socket, outgoing: ssl.MemoryBIO) -> None:
        """Send the TLS alert that explains our refusal, if that is possible without waiting, and close."""
        self._session = None
        with contextlib.suppress(OSError):
            sock.send(outgoing.read(), 0, 0.0)
        sock.close()

    def _remember(self, context: ssl.SSLContext, session: ssl.SSLSession | None) -> None:
        if session is not None and context is self._context:
            self._session = session


def _secured(sock: socket.socket, proxy: Proxy) -> gevent.ssl.SSLSocket:
    """TLS to the proxy itself. Our TLS to the origin runs inside of it.

    Raises:
        ConnectFailed: the proxy's certificate is not trusted, or it does not speak TLS; ``sock`` is closed.
    """
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if proxy.ca_file is not None:
            context.load_verify_locations(proxy.ca_file)
        else:
            context.load_default_certs()
        # The handshake apart: wrap_socket() takes over the file descriptor, and a time-out within it would leave that open.
        secured = context.wrap_socket(sock, server_hostname=proxy.host, do_handshake_on_connect=False)
    except OSError as error:
        sock.close()
        raise ConnectFailed(Reason.PROXY_TLS_FAILED, f"proxy {proxy}: {describe(error)}") from error
    try:
        secured.do_handshake()
    except OSError as error:  # ssl.SSLError is one too
        secured.close()
        raise ConnectFailed(Reason.PROXY_TLS_FAILED, f"proxy {proxy}: {describe(error)}") from error
    except BaseException:
        secured.close()
        raise
    return secured
