"""What a configuration is made of: the TOML file and every file that a setting in it names.

Digests are SHA-256 over contents, never over times; :func:`digest`, which hosts compare, not over paths either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from pushq.app_settings import AppSettings, LimitSettings, ProviderSettings

#: Digits of a digest that people compare.
SHOWN: Final = 12


class Stamp(NamedTuple):
    """What changes when a file does, also where its size or its time of modification stay (rsync, a mounted secret)."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int


def named_files(apps: Mapping[str, AppSettings]) -> dict[str, Path]:
    """Every file that a setting names, by the setting: ``apps.shop.apns.key_file``."""
    return {
        f"apps.{app}.{platform}.{setting}": path
        for app, providers in sorted(apps.items())
        for platform, section in providers.platforms().items()
        for setting, path in section_files(section).items()
    }


def section_files(section: ProviderSettings) -> dict[str, Path]:
    """The files of one provider's table, by the name of the setting."""
    found = {name: getattr(section, name) for name in type(section).model_fields}
    return {name: value for name, value in sorted(found.items()) if isinstance(value, Path)}


def stamps(paths: Iterable[Path]) -> dict[Path, Stamp | None]:
    """How the files look from outside; None for one that cannot be looked at."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def digest(config: Path, apps: Mapping[str, AppSettings]) -> str:
    """Of the configuration file and of the files that it names, in hex.

    Raises:
        OSError: one of them cannot be read.
    """
    found = sha256(content_of(config))
    for setting, path in named_files(apps).items():
        found.update(setting.encode() + b"\0" + sha256(content_of(path)).digest())
    return found.hexdigest()


def section_digest(section: ProviderSettings) -> str:
    """Of what a provider's client is made from: its settings but for the limits, and the path and content of its files.

    The path, for a client goes on reading some of them: to trust another authority, and to say when a certificate ends.

    Raises:
        OSError: a file cannot be read.
    """
    settings = section.model_dump(exclude=set(LimitSettings.model_fields))
    found = sha256(repr(sorted(settings.items())).encode())
    for setting, path in section_files(section).items():
        found.update(setting.encode() + b"\0" + sha256(content_of(path)).digest())
    return found.hexdigest()


def content_of(path: Path) -> bytes:
    """The file's content; secrets and certificates are a few kilobytes."""
    return path.read_bytes()
