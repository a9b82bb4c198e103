"""Device tokens: who has which, which of them are alive, and the hot cache that a delivery reads them from."""

from pushq.tokens.cache import TokenCache
from pushq.tokens.device import Device, parse_device
from pushq.tokens.identity import short_hash, token_hash
from pushq.tokens.importing import ImportReport, import_file
from pushq.tokens.invalidation import InvalidationReport, deactivate_unseen, invalidate_from_dead_letters
from pushq.tokens.registration import Registration, register, unregister
from pushq.tokens.resolved import Resolved
from pushq.tokens.statistics import DeviceCount, stats
from pushq.tokens.warming import WarmReport, warm

__all__ = [
    "Device",
    "DeviceCount",
    "ImportReport",
    "InvalidationReport",
    "Registration",
    "Resolved",
    "TokenCache",
    "WarmReport",
    "deactivate_unseen",
    "import_file",
    "invalidate_from_dead_letters",
    "parse_device",
    "register",
    "short_hash",
    "stats",
    "token_hash",
    "unregister",
    "warm",
]
