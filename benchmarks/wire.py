"""The sender against other HTTP/2 clients: all of them against one nginx over TLS, each in a process of its own, in turn.

Example: make bench-wire          (the whole comparison, about six minutes; writes the results)
         .venv/bin/python -m benchmarks.wire --rounds 1 --scale 0.1      (a quick look; writes nothing)

Prints a table for each combination of body size and number of connections, and whether what was asked for was reached. With
--write: benchmarks/wire.json, the section of benchmarks/RESULTS.md, and the chart docs/img/wire.svg.

Needs nginx, and the clients of the extra "bench"; h2load takes part where it is installed. Where there are two cores, nginx has one
of them for itself and the client the other. Exit code 1 when a goal was missed or a client failed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from benchmarks import nginx, wire_figures
from benchmarks.affinity import pinned, split_cores
from benchmarks.machine import machine, versions
from benchmarks.peers.load import HEADERS, PATH_PREFIX
from benchmarks.results import replace_section
from benchmarks.wire_chart import bar_chart
from benchmarks.wire_figures import DISTINCT, H2LOAD, PUSHQ, Cell, Run
from pushq.bench.message import shared_body

ROOT: Final = Path(__file__).resolve().parents[1]
JSON_FILE: Final = ROOT / "benchmarks" / "wire.json"
RESULTS_FILE: Final = ROOT / "benchmarks" / "RESULTS.md"
CHART_FILE: Final = ROOT / "docs" / "img" / "wire.svg"
CHART_CELL: Final = Cell(150, 1)
BODY_BYTES: Final = (150, 1000)
CONNECTIONS: Final = (1, 4)
PACKAGES: Final = ("pushq", "gevent", "h2", "aioapns", "httpx", "pycurl")
#: A client that takes longer hangs.
RUN_TIMEOUT_S: Final = 120.0
H2LOAD_TOKENS: Final = 10_000
H2LOAD_STREAMS: Final = 1000

REQUEST_IDS: Final = f"{PUSHQ}, apns-id each"
#: Requests of one run, so that each takes about three seconds on a machine of 2026.
REQUESTS: Final = {
    PUSHQ: 400_000,
    DISTINCT: 400_000,
    REQUEST_IDS: 400_000,
    H2LOAD: 300_000,
    "pycurl": 100_000,
    "h2": 20_000,
    "aioapns": 9_000,
    "httpx": 2_000,
}
#: Of a client's requests. nginx closes a connection whose bodies it never reads (its guard against floods: 1,000-byte bodies get
#: there, 150-byte ones do not), and what was in flight then has no answer.
LEAST_OK: Final = 0.999
PUSHQ_OPTIONS: Final = {PUSHQ: (), DISTINCT: ("--body", "distinct"), REQUEST_IDS: ("--request-ids",)}


class RunFailed(Exception):
    """A client is not installed, failed, or took too long; the message ends with what it said."""


@dataclass(frozen=True)
class Bench:
    """Where the clients run.

    Attributes:
        cores: of the client; empty for anywhere.
        scale: of the numbers of requests.
    """

    server: nginx.Nginx
    folder: Path
    cores: Set[int]
    scale: float

    def run(self, client: str, cell: Cell) -> Run:
        """One client, once."""
        requests = max(cell.connections, int(REQUESTS[client] * self.scale))
        found = (self._h2load if client == H2LOAD else self._python)(client, cell, requests)
        if found["ok"] < requests * LEAST_OK:
            raise RunFailed(f"{client}: {found['ok']:,} of {requests:,} requests were answered with 200")
        return Run(cell, client, requests, int(found["ok"]), found["wall_seconds"], found["cpu_seconds"])

    def _python(self, client: str, cell: Cell, requests: int) -> dict[str, float]:
        credentials = self.server.credentials
        options = ["--url", self.server.url, "--cafile", str(credentials.ca_file)]
        options += ["--requests", str(requests), "--connections", str(cell.connections)]
        options += ["--body-bytes", str(cell.body_bytes)]
        if client in PUSHQ_OPTIONS:
            program = [
                "pushq",
                "bench",
                "wire",
                *PUSHQ_OPTIONS[client],
                "--path-prefix",
                PATH_PREFIX,
                "--json",
            ]
        else:
            program = [f"benchmarks.peers.{client}_client", "--key-file", str(credentials.apns_key_file)]
        output, _ = self._process(client, [sys.executable, "-m", *program, *options])
        found: dict[str, float] = json.loads(output)
        return found

    def _h2load(self, client: str, cell: Cell, requests: int) -> dict[str, float]:
        body, uris = self.folder / "body", self.folder / "uris"
        body.write_bytes(shared_body(cell.body_bytes))
        if not uris.exists():
            head = f"{self.server.url}{PATH_PREFIX}{'a' * 56}"
            uris.write_text("".join(f"{head}{number:08x}\n" for number in range(H2LOAD_TOKENS)))
        program = ["h2load", "-t", "1", "-n", str(requests), "-c", str(cell.connections)]
        program += ["-m", str(H2LOAD_STREAMS), "-d", str(body), "-i", str(uris)]
        for name, value in HEADERS:
            program += ["-H", f"{name}: {value}"]
        output, cpu = self._process(client, program)
        rate = re.search(r"finished in .*?, ([\d.]+) req/s", output)
        accepted = re.search(r"status codes: (\d+) 2xx", output)
        if rate is None or accepted is None:
            raise RunFailed(f"h2load printed something unexpected:\n{output[-2000:]}")
        return {"ok": int(accepted[1]), "wall_seconds": requests / float(rate[1]), "cpu_seconds": cpu}

    def _process(self, client: str, program: Sequence[str]) -> tuple[str, float]:
        """What it printed, and the CPU seconds of the whole process."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            with pinned(self.cores):
                done = subprocess.run(
                    program,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=RUN_TIMEOUT_S,
                    check=False,
                )
        except subprocess.TimeoutExpired as error:
            raise RunFailed(f"{client} took more than {RUN_TIMEOUT_S:g} s") from error
        if done.returncode:
            raise RunFailed(f"{client} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return done.stdout, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def clients(wanted: Sequence[str]) -> list[str]:
    """Those that will run, pushq first.

    Raises:
        RunFailed: one of them is not installed. h2load is just left out, unless it was asked for.
    """
    chosen = [name for name in REQUESTS if not wanted or name == PUSHQ or name in wanted]
    absent = [name for name in chosen if name in ("aioapns", "httpx", "pycurl", "h2") and not _has(name)]
    if absent:
        raise RunFailed(f"not installed: {', '.join(absent)}; pip install -c constraints.txt -e '.[bench]'")
    if H2LOAD in chosen and shutil.which("h2load") is None:
        if H2LOAD in wanted:
            raise RunFailed("h2load is not installed (Debian, Ubuntu: apt-get install nghttp2-client)")
        chosen.remove(H2LOAD)
    return chosen


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All rounds: the figures, and ``runs`` as :class:`Run`."""
    chosen = clients(options.client or ())
    cells = [
        Cell(*pair) for pair in product(options.body_bytes or BODY_BYTES, options.connections or CONNECTIONS)
    ]
    server_cores, client_cores = split_cores()
    started, here = time.monotonic(), machine()
    runs: list[Run] = []
    total = options.rounds * len(cells) * len(chosen)
    with tempfile.TemporaryDirectory(prefix="pushq-wire-") as name:
        folder = Path(name)
        with nginx.nginx(folder, server_cores) as server:
            bench = Bench(server, folder, client_cores, options.scale)
            for number, cell, client in _schedule(options.rounds, cells, chosen):
                run = bench.run(client, cell)
                runs.append(run)
                say(
                    f"[{len(runs)}/{total}, {time.monotonic() - started:.0f} s] round {number + 1}, {cell}: {client:22} "
                    f"{run.per_second:9,.0f}/s {run.per_cpu_second:9,.0f} per CPU second"
                )
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks.wire", *sys.argv[1:]]),
        "seconds": round(time.monotonic() - started, 1),
        "rounds": options.rounds,
        "scale": options.scale,
        "machine": here,
        "load_average_after": machine()["load_average"],
        "placement": "nginx on one core, the client on another"
        if client_cores
        else "nginx and the client wherever the system puts them",
        "versions": versions(PACKAGES) | _programs(chosen),
        "runs": runs,
    }


def _schedule(rounds: int, cells: Sequence[Cell], chosen: Sequence[str]) -> Iterator[tuple[int, Cell, str]]:
    """In turn, so that a machine that gets slower or busier does so for all."""
    for number in range(rounds):
        for cell in cells:
            for client in chosen:
                yield number, cell, client


def _programs(chosen: Sequence[str]) -> dict[str, str]:
    found = {"nginx": nginx.version().removeprefix("nginx/")}
    if H2LOAD in chosen:
        done = subprocess.run(["h2load", "--version"], capture_output=True, text=True, timeout=10, check=True)
        found["h2load"] = done.stdout.split()[-1].removeprefix("nghttp2/")
    if "pycurl" in chosen:
        script = "import pycurl; print(pycurl.version)"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=10, check=True
        )
        libraries = dict(part.partition("/")[::2] for part in done.stdout.split())
        found["libcurl"] = f"{libraries['libcurl']} with nghttp2 {libraries['nghttp2']}"
    return found


def write(
    result: dict[str, Any], summary: dict[Cell, list[wire_figures.Row]], plain: dict[str, Any]
) -> list[Path]:
    """JSON, the section of RESULTS.md and the chart; the files written."""
    JSON_FILE.write_text(json.dumps(plain, indent=1) + "\n")
    document = RESULTS_FILE.read_text() if RESULTS_FILE.exists() else ""
    RESULTS_FILE.write_text(replace_section(document, "wire", wire_figures.markdown(result, summary)))
    rows = summary.get(CHART_CELL) or next(iter(summary.values()))
    cell = CHART_CELL if CHART_CELL in summary else next(iter(summary))
    CHART_FILE.parent.mkdir(parents=True, exist_ok=True)
    bars = [(row.client, row.per_cpu_second, row.client.startswith(PUSHQ)) for row in rows]
    CHART_FILE.write_text(
        bar_chart(
            f"Requests per CPU second of the client: nginx, TLS, {cell}", "requests per CPU second", bars
        )
    )
    return [JSON_FILE, RESULTS_FILE, CHART_FILE]


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected a whole number of at least 1")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10:
        raise argparse.ArgumentTypeError(f"found {text}; expected a number above 0 and at most 10")
    return value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=positive, default=3, help="of which the median counts (default: 3)")
    parser.add_argument("--scale", type=share, default=1.0, help="of the numbers of requests (default: 1)")
    parser.add_argument(
        "--client", action="append", choices=list(REQUESTS), help="only this one and pushq; may be repeated"
    )
    parser.add_argument(
        "--body-bytes", action="append", type=positive, help="may be repeated (default: 150, 1000)"
    )
    parser.add_argument(
        "--connections", action="append", type=positive, help="may be repeated (default: 1, 4)"
    )
    parser.add_argument("--write", action="store_true", help="write the JSON, the results and the chart")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that nginx is stopped
    try:
        result = measure(options, lambda line: print(line, file=sys.stderr, flush=True))
    except (RunFailed, nginx.NginxFailed) as error:
        print(error, file=sys.stderr)
        return 1
    summary = wire_figures.summarise(result.pop("runs"))
    plain = {**result, **wire_figures.as_json(summary)}
    goals = wire_figures.goals(summary)
    print(json.dumps(plain) if options.json else wire_figures.table(summary))
    if not options.json:
        print("", *goals, sep="\n")
    if options.write:
        written = write(result, summary, plain)
        print("written:", *(path.relative_to(ROOT) for path in written), file=sys.stderr)
    return 0 if all(goal.reached for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
