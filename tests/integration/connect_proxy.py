"""A small HTTP proxy that knows CONNECT, on threads and blocking sockets."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class ConnectProxy:
    """Answers each CONNECT with ``answer(head)`` and connects the two ends if that is a 200. Use it as a context manager.

    ``answer`` may return None: then nothing is said, and the line stays open until the end.

    Attributes:
        heads: what was asked.
        carried: octets that went through, both ways.
        tunnels: how many are open.
    """

    def __init__(
        self,
        answer: Callable[[str], bytes | None] = lambda head: ESTABLISHED,
        *,
        certificate: Path | None = None,
    ) -> None:
        self.heads: list[str] = []
        self.carried = 0
        self.tunnels = 0
        self._answer = answer
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._cut = threading.Event()
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://localhost:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Close all tunnels that are open."""
        self._cut.set()
        while self.tunnels:
            self._stopping.wait(0.005)
        self._cut.clear()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a proxy thread hangs"
        self._listener.close()

    def _start(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                sock, _ = self._listener.accept()
                self._start(lambda sock=sock: self._serve(sock))  # type: ignore[misc]

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(5)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            if self._context is not None:
                sock = stack.enter_context(self._context.wrap_socket(sock, server_side=True))
            head = b""
            while b"\r\n\r\n" not in head:
                part = sock.recv(4096)
                if not part:
                    return
                head += part
            text = head.decode()
            with self._lock:
                self.heads.append(text)
            said = self._answer(text)
            if said is None:
                self._stopping.wait(10)
                return
            sock.sendall(said)
            if b" 200 " in said and said.endswith((b"\r\n\r\n", b"\n\n")):
                host, _, port = text.split(" ", 2)[1].rpartition(":")
                far = stack.enter_context(socket.create_connection((host.strip("[]"), int(port)), 5))
                self._join(sock, far)

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        with self._lock:
            self.tunnels += 1
        try:
            while not (self._stopping.is_set() or self._cut.is_set()):
                pending = [near] if isinstance(near, ssl.SSLSocket) and near.pending() else None
                for end in pending or select.select([near, far], [], [], 0.02)[0]:
                    data = end.recv(65_536)
                    if not data:
                        return
                    (far if end is near else near).sendall(data)
                    with self._lock:
                        self.carried += len(data)
        finally:
            with self._lock:
                self.tunnels -= 1
