"""An answer that comes byte by byte: every read is in time, and the request has to end all the same. In a patched process, as a worker is."""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pushq.mock.credentials import make_credentials

#: A worker's pool, asked for two requests of which the first never comes to its end.
CHILD = """
from gevent import monkey
monkey.patch_all()
import json, sys
from pathlib import Path
from pushq.http2 import HeaderTemplate
from pushq.http2.figures import NullObserver
from pushq.providers.dialling import Dialling
from pushq.providers.hms.burst import Request, TokenBurst
from pushq.providers.hms.pool import HmsPool

url, ca_file = sys.argv[1:]
pool = HmsPool("hms/test", url, Dialling(url, Path(ca_file)), max_connections=1, request_timeout_s=3.0,
               idle_close_s=5, observer=NullObserver())
bursts = []
for _ in range(2):
    burst = TokenBurst(HeaderTemplate(b"/v2/1/messages:send", ()), 2, [Request(range(2), [b"a", b"b"], b"{}")])
    pool.submit(burst, 5)
    bursts.append(burst)
for burst in bursts:
    assert burst.wait(20), burst
pool.close(1)
print(json.dumps([[list(burst.codes), sorted(set(burst.reasons.values()))] for burst in bursts]))
"""
ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\n{"code":"80000000"}'


class Trickler:
    """Answers the first connection with a byte in a tenth of a second, the others at once."""

    def __init__(self, folder: Path) -> None:
        credentials = make_credentials(folder)
        self.ca_file = credentials.ca_file
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(credentials.certificate_file, credentials.certificate_key_file)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            for number in itertools.count():
                raw, _ = self._listener.accept()
                with suppress(OSError), self._context.wrap_socket(raw, server_side=True) as channel:
                    # All of it: a socket closed with octets unread resets the connection, and the answer is lost.
                    asked = b""
                    while not asked.endswith(b"{}") and (more := channel.recv(65_536)):
                        asked += more
                    for byte in ANSWER if number == 0 else ():
                        channel.sendall(bytes((byte,)))
                        time.sleep(0.1)
                    channel.sendall(ANSWER)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=20)


@pytest.fixture
def trickler(tmp_path: Path) -> Iterator[Trickler]:
    server = Trickler(tmp_path)
    yield server
    server.close()


def test_an_answer_that_trickles_ends_its_request_and_no_other(trickler: Trickler) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, trickler.url, str(trickler.ca_file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[[6, 6], ["timeout"]], [[2, 2], []]]
