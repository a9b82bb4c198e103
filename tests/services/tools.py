"""Programs that tests run beside the servers: a browser with its driver, and the judges of deploy/."""

from __future__ import annotations

import shutil

from pushq.embedded.errors import EmbeddedError


def find_chromium() -> str:
    """Raises EmbeddedError when there is none."""
    return _find("chromium", "chromium", "chromium-browser", "google-chrome")


def find_chromedriver() -> str:
    """Raises EmbeddedError when it is not installed. It must be of the browser's version, as one release of Debian's packages is."""
    return _find("chromium-driver", "chromedriver")


def find_kubectl() -> str:
    """For its Kustomize. Raises EmbeddedError when it is not installed."""
    return _find("kubernetes-client", "kubectl")


def find_systemd_analyze() -> str:
    """Raises EmbeddedError when it is not installed. It needs no systemd that runs."""
    return _find("systemd", "systemd-analyze")


def _find(package: str, *programs: str) -> str:
    path = next(filter(None, map(shutil.which, programs)), None)
    if path is None:
        raise EmbeddedError(
            f"No `{programs[0]}` on PATH.", f"Install it (Debian, Ubuntu: apt-get install {package})."
        )
    return path
