"""How many requests one core can send: pushq's HTTP/2 client and httpx against the same server, in the same run.

Usage: python benchmarks/fast_lane.py [--requests 400000] [--connections 1] [--httpx-requests 2000] [--url https://localhost:PORT --ca FILE]

Without ``--url`` a server of its own is forked: it reads frames, decodes nothing and answers 200 to every END_STREAM, so that it
is not what is measured. Printed are requests per CPU second of the client (TLS and system calls included) and per second of wall
time. On a busy machine only the first of the two, and the ratio, mean anything.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import hashlib
import ipaddress
import os
import signal
import socket
import ssl
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BODY = b'{"aps":{"alert":{"title":"Sale","body":"20% off until midnight"},"sound":"default"},"campaign":"c-42","link":"https://shop.example.com/sale/42"}'
AUTHORIZATION = "bearer " + "x" * 180
HEADERS = {
    "authorization": AUTHORIZATION,
    "apns-topic": "com.example.app",
    "apns-push-type": "alert",
    "apns-priority": "10",
    "apns-expiration": "0",
}


def make_certificate(folder: Path) -> Path:
    """A self-signed certificate and its key in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def serve(listener: socket.socket, certificate: Path) -> None:
    """Answer for ever, one connection per forked child."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        raw, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            with contextlib.suppress(OSError):
                answer(raw, context)
            os._exit(0)
        raw.close()


def answer(raw: socket.socket, context: ssl.SSLContext) -> None:
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    shaken = False
    data = b""
    head = struct.Struct(">IBI").unpack_from
    # MAX_CONCURRENT_STREAMS 1000, INITIAL_WINDOW_SIZE 1 MiB, and a connection window of 1 GiB.
    start = struct.pack(">IBI", 12 << 8 | 4, 0, 0) + struct.pack(">HIHI", 3, 1000, 4, 1 << 20)
    start += struct.pack(">IBII", 4 << 8 | 8, 0, 0, 1 << 30)
    block = b"\x88\x00\x07apns-id\x24e77a3d12-bc9f-4b1c-9c0e-3b2a2f1d4c55"
    answer_head = struct.pack(">I", len(block))[1:] + b"\x01\x05"
    preface_left = 24
    consumed = 0
    first = True
    while True:
        received = raw.recv(262_144)
        if not received:
            return
        incoming.write(received)
        if not shaken:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                continue
            shaken = True
            tls.write(start)
        parts = [data]
        with contextlib.suppress(ssl.SSLWantReadError):
            while part := tls.read(16_384):
                parts.append(part)
        data = b"".join(parts)
        if preface_left:
            if len(data) < preface_left:
                continue
            data, preface_left = data[preface_left:], 0
        offset, size, out = 0, len(data), []
        while size - offset >= 9:
            word, flags, _ = head(data, offset)
            end = offset + 9 + (word >> 8)
            if end > size:
                break
            kind = word & 255
            if kind == 0:
                consumed += word >> 8
            if kind <= 1 and flags & 1:
                stream = data[offset + 5 : offset + 9]
                if first:  # the update that the client's HEADER_TABLE_SIZE = 0 obliges us to
                    first = False
                    out += (
                        struct.pack(">I", len(block) + 1)[1:],
                        b"\x01\x05",
                        stream,
                        b"\x20",
                        block,
                    )
                else:
                    out += (answer_head, stream, block)
            elif kind == 4 and not flags & 1:
                out.append(struct.pack(">IBI", 4, 1, 0))
            elif kind == 6 and not flags & 1:
                out += (struct.pack(">IBI", 8 << 8 | 6, 1, 0), data[offset + 9 : end])
            offset = end
        data = data[offset:]
        if consumed > 1 << 24:
            out.append(struct.pack(">IBII", 4 << 8 | 8, 0, 0, consumed))
            consumed = 0
        if out:
            tls.write(b"".join(out))
        raw.sendall(outgoing.read())


@contextlib.contextmanager
def own_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """A forked server; its URL and the certificate to trust."""
    certificate = make_certificate(folder)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    child = os.fork()
    if child == 0:
        serve(listener, certificate)
        os._exit(0)
    listener.close()
    try:
        yield f"https://localhost:{port}", certificate
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def run_pushq(url: str, ca_file: Path, count: int, connections: int) -> tuple[float, float]:
    """Requests per CPU second and per second."""
    from pushq.http2 import Burst, Code, HeaderTemplate, Origin, Pool, PoolSettings  # noqa: PLC0415 - after the fork

    parts = urlsplit(url)
    template = HeaderTemplate(
        b"/3/device/", tuple((name.encode(), value.encode()) for name, value in HEADERS.items())
    )
    tokens = [hashlib.sha256(str(number).encode()).hexdigest().encode() for number in range(count)]
    settings = PoolSettings(
        min_connections=connections, max_connections=connections, queue_limit=count + 1, queue_timeout_s=600
    )
    pool = Pool("benchmark", Origin(parts.hostname or "", parts.port or 443, ca_file), settings)
    warm = Burst(template, 1, targets=tokens[:1], bodies=BODY)
    pool.submit(warm, 10)
    warm.wait(10)
    bursts = [
        Burst(template, len(part), targets=part, bodies=BODY)
        for part in (tokens[start : start + 2500] for start in range(0, count, 2500))
    ]
    wall, cpu = time.perf_counter(), time.process_time()
    for burst in bursts:
        pool.submit(burst, 60)
    for burst in bursts:
        burst.wait(600)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    accepted = sum(burst.codes.count(Code.OK) for burst in bursts)
    if accepted != count:
        sys.exit(f"only {accepted} of {count} were accepted: {pool.stats()}")
    pool.close(5)
    return count / cpu, count / wall


def run_httpx(url: str, ca_file: Path, count: int) -> tuple[float, float]:
    """The same requests by httpx, 100 at a time on one connection."""
    import httpx  # noqa: PLC0415 - after the fork

    async def run() -> tuple[float, float]:
        context = ssl.create_default_context(cafile=str(ca_file))
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(
            http1=False, http2=True, verify=context, limits=limits, timeout=60, trust_env=False
        ) as client:
            first = await client.post(f"{url}/3/device/00", content=BODY, headers=HEADERS)
            if first.status_code != 200:
                sys.exit(f"httpx got {first.status_code}")
            numbers = iter(range(count))

            async def worker() -> None:
                for number in numbers:
                    token = hashlib.sha256(str(number).encode()).hexdigest()
                    await client.post(f"{url}/3/device/{token}", content=BODY, headers=HEADERS)

            wall, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(worker() for _ in range(100)))
            return count / (time.process_time() - cpu), count / (time.perf_counter() - wall)

    return asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=400_000)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--httpx-requests", type=int, default=2000, help="0 leaves httpx out")
    parser.add_argument("--url", help="a server that answers 200 to POST, instead of our own")
    parser.add_argument("--ca", type=Path, help="what its certificate is verified with")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if arguments.url:
            url, ca_file = arguments.url, arguments.ca
        else:
            url, ca_file = stack.enter_context(own_server(Path(folder)))
        per_cpu, per_second = run_pushq(url, ca_file, arguments.requests, arguments.connections)
        print(f"pushq  {per_cpu:>10,.0f} requests per CPU second   {per_second:>10,.0f} requests/s")
        if arguments.httpx_requests:
            httpx_cpu, httpx_second = run_httpx(url, ca_file, arguments.httpx_requests)
            print(f"httpx  {httpx_cpu:>10,.0f} requests per CPU second   {httpx_second:>10,.0f} requests/s")
            print(f"ratio  {per_cpu / httpx_cpu:>10,.0f} x")


if __name__ == "__main__":
    main()
