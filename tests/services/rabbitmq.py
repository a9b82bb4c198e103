"""Several private RabbitMQs as one cluster, and what tests do to virtual hosts."""

from __future__ import annotations

import contextlib
from urllib.parse import quote

import httpx

from pushq.embedded.errors import EmbeddedError
from pushq.embedded.rabbitmq import RabbitMqServer
from pushq.embedded.sandbox import Sandbox


class RabbitMqCluster:
    """Three nodes that hold every quorum queue three times. ``nodes`` can be killed and started again one by one."""

    def __init__(self, sandbox: Sandbox, size: int = 3) -> None:
        first = RabbitMqServer(sandbox, "rabbitmq-1")
        others = [RabbitMqServer(sandbox, f"rabbitmq-{n}", joins=first) for n in range(2, size + 1)]
        self.nodes = [first, *others]

    def start(self) -> None:
        """Start all nodes, and return when they know each other: a queue declared before has fewer replicas for ever.

        Raises:
            EmbeddedError: a node did not start, or did not join.
        """
        self.nodes[0].start()
        for node in self.nodes[1:]:
            node.launch()
            node.wait_ready()
        running = self.running()
        if len(running) != len(self.nodes):
            raise EmbeddedError(
                f"Of {len(self.nodes)} nodes only {', '.join(running)} are in the cluster.", ""
            )

    def running(self) -> list[str]:
        """Names of the nodes that run, as the first one that answers knows."""
        for node in self.nodes:
            with contextlib.suppress(httpx.HTTPError):
                return sorted(one["name"] for one in node.api("GET", "/nodes") if one["running"])
        return []

    def leader(self, queue: str, vhost: str = "/") -> RabbitMqServer:
        """The node that leads a quorum queue."""
        for node in self.nodes:
            with contextlib.suppress(httpx.HTTPError):
                path = f"/queues/{quote(vhost, safe='')}/{quote(queue, safe='')}"
                name = node.api("GET", path)["leader"]
                return next(one for one in self.nodes if one.node == name)
        raise EmbeddedError(f"No node knows the leader of {queue}.", "")

    def url(self, vhost: str = "/") -> str:
        """All nodes' URLs with ``;`` between them: Celery goes on to the next when one does not answer."""
        return ";".join(node.url(vhost) for node in self.nodes)


def delete_vhost_quietly(server: RabbitMqServer, name: str) -> None:
    """Delete a virtual host after a test that may have left the server dead."""
    with contextlib.suppress(httpx.HTTPError):
        server.delete_vhost(name)
