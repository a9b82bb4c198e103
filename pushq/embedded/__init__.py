"""PostgreSQL and Redis for a laptop: private, on free ports of 127.0.0.1, and gone afterwards."""

from pushq.embedded.errors import EmbeddedError
from pushq.embedded.services import Services

__all__ = ["EmbeddedError", "Services"]
