"""The configuration file and the secrets that it names, followed while a worker runs."""

from pushq.reload.announce import Announced, announce, announced
from pushq.reload.files import content_of, digest, named_files, section_digest
from pushq.reload.watch import ConfigState, ConfigWatch

__all__ = [
    "Announced",
    "ConfigState",
    "ConfigWatch",
    "announce",
    "announced",
    "content_of",
    "digest",
    "named_files",
    "section_digest",
]
