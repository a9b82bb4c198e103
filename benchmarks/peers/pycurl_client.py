"""pycurl's multi interface over libcurl and nghttp2: multiplexed, 100 easy handles per connection that are used again and again."""

from __future__ import annotations

from itertools import repeat

import pycurl  # type: ignore[import-untyped]

from benchmarks.peers.load import HEADERS, PATH_PREFIX, Clock, Load, main

IN_FLIGHT = 100
TIMEOUT_S = 60


def run(load: Load) -> dict[str, float]:
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
    multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, load.connections)
    multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, IN_FLIGHT)
    prefix, body = f"{load.url}{PATH_PREFIX}", load.body
    handles = [_easy(load, body) for _ in range(IN_FLIGHT * load.connections)]
    # Every connection is opened and every handle has been used.
    _send(multi, handles, prefix, ("00" for _ in range(len(handles))))
    clock = Clock()
    codes = _send(multi, handles, prefix, load.tokens())
    report = clock.report(len(codes), codes.count(200))
    for handle in handles:
        handle.close()
    multi.close()
    return report


def _easy(load: Load, body: bytes) -> pycurl.Curl:
    handle = pycurl.Curl()
    handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
    handle.setopt(pycurl.CAINFO, str(load.cafile))
    handle.setopt(pycurl.PROXY, "")
    handle.setopt(pycurl.PIPEWAIT, 1)
    handle.setopt(pycurl.NOSIGNAL, 1)
    handle.setopt(pycurl.TIMEOUT, TIMEOUT_S)
    handle.setopt(pycurl.POST, 1)
    handle.setopt(pycurl.POSTFIELDS, body)
    # No "Expect: 100-continue", and no content type that the others do not send.
    handle.setopt(
        pycurl.HTTPHEADER,
        [*(f"{name}: {value}" for name, value in HEADERS), "Expect:", "Content-Type:", "Accept:"],
    )
    handle.setopt(pycurl.WRITEFUNCTION, len)
    return handle


def _send(multi, handles, prefix, tokens) -> list[int]:  # type: ignore[no-untyped-def]  # pycurl has no types
    """Send one request per token; the statuses."""
    codes: list[int] = []
    running = 0
    for handle, token in zip(handles, tokens, strict=False):
        handle.setopt(pycurl.URL, prefix + token)
        multi.add_handle(handle)
        running += 1
    while running:
        for _ in repeat(None):
            status, _ = multi.perform()
            if status != pycurl.E_CALL_MULTI_PERFORM:
                break
        while True:
            queued, succeeded, failed = multi.info_read()
            for _, number, text in failed:
                raise SystemExit(f"curl error {number}: {text}")
            for handle in succeeded:
                codes.append(handle.getinfo(pycurl.RESPONSE_CODE))
                multi.remove_handle(handle)
                token = next(tokens, None)
                if token is None:
                    running -= 1
                else:
                    handle.setopt(pycurl.URL, prefix + token)
                    multi.add_handle(handle)
            if not queued:
                break
        # Handles that were just added have nothing to wait for, which libcurl says by a time-out of 0.
        wait_ms = multi.timeout()
        if running and wait_ms:
            multi.select(min(1.0, wait_ms / 1000) if wait_ms > 0 else 1.0)
    return codes


if __name__ == "__main__":
    main(run, __doc__)
