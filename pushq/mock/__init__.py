"""Mock providers: APNs, FCM and Google's OAuth endpoint over real TLS and HTTP/2, with faults and exact counts."""

from pushq.mock.process import MockProcess

__all__ = ["MockProcess"]
