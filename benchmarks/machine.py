"""What a benchmark ran on: a figure without its machine says little."""

from __future__ import annotations

import os
import platform
import ssl
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path


def machine() -> dict[str, str | int | float]:
    """CPU model, cores, memory, kernel and the load that other programs make."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 2),
    }


def cpu_model() -> str:
    """As /proc/cpuinfo names it, or as Python does where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Python, its OpenSSL, and these packages as far as they are installed."""
    found = {"Python": platform.python_version(), "Python's OpenSSL": ssl.OPENSSL_VERSION}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
