"""Print the Debian packages of the servers that the tests need and cannot find: nothing when all are there."""

from __future__ import annotations

import sys

from pushq.embedded.errors import EmbeddedError
from pushq.embedded.programs import find_postgres, find_redis
from pushq.embedded.rabbitmq import find_rabbitmq
from tests.services.http2_servers import find_nghttpd, find_nginx
from tests.services.prometheus import find_prometheus
from tests.services.tools import find_chromedriver, find_chromium, find_kubectl, find_systemd_analyze

FINDERS = {
    "postgresql": find_postgres,
    "redis-server": find_redis,
    "rabbitmq-server": find_rabbitmq,
    "nginx": find_nginx,
    "nghttp2-server": find_nghttpd,
    "prometheus": find_prometheus,
    "chromium": find_chromium,
    "chromium-driver": find_chromedriver,
    "kubernetes-client": find_kubectl,
    "systemd": find_systemd_analyze,
}


def missing() -> list[str]:
    """Names of the Debian packages to install."""
    packages = []
    for package, find in FINDERS.items():
        try:
            find()
        except EmbeddedError:
            packages.append(package)
    return packages


if __name__ == "__main__":
    sys.stdout.write("".join(f"{package}\n" for package in missing()))
