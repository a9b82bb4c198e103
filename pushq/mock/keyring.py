"""Keys beside the first one: made and revoked while the mock runs, so that a sender can practise rotation.

What is made here is accepted until it is revoked or the mock ends.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Protocol

from pushq.mock.credentials import Credentials, new_apns_key, new_hms_secret, new_service_account_key
from pushq.mock.hms_oauth import HmsOAuthRules
from pushq.mock.oauth import OAuthRules
from pushq.mock.provider_token import ProviderTokenVerifier


class Keyring(Protocol):
    """The keys of one provider."""

    def add(self) -> dict[str, str]:
        """Make a key and accept it. What a client needs for it: ids and the path of a file."""

    def revoke(self, key_id: str) -> bool:
        """Refuse everything that is signed by this key from now on. False: there is no such key."""


class ApnsKeyring:
    """Keys of the one team."""

    def __init__(self, credentials: Credentials, verifier: ProviderTokenVerifier) -> None:
        self._team_id, self._folder = credentials.team_id, _folder(credentials)
        self._verifier = verifier

    def add(self) -> dict[str, str]:
        key_id, key_file, public_key = new_apns_key(self._folder)
        self._verifier.accept(key_id, public_key)
        return {"team_id": self._team_id, "key_id": key_id, "key_file": str(key_file)}

    def revoke(self, key_id: str) -> bool:
        return self._verifier.refuse(key_id)


class FcmKeyring:
    """Keys of the one service account. As at Google, access tokens that a key has brought outlive it (``POST /expire/fcm``)."""

    def __init__(self, credentials: Credentials, oauth: OAuthRules) -> None:
        self._credentials, self._oauth = credentials, oauth

    def add(self) -> dict[str, str]:
        key_id, key = new_service_account_key()
        path = _folder(self._credentials) / f"service-account-{key_id}.json"
        self._credentials.write_account(path, key_id, key, self._oauth.audience)
        self._oauth.accept(key_id, key.public_key())
        return {"key_id": key_id, "service_account_file": str(path)}

    def revoke(self, key_id: str) -> bool:
        return self._oauth.refuse(key_id)


class HmsKeyring:
    """Secrets of the one OAuth client; as at Google, access tokens outlive them (``POST /expire/hms_oauth``)."""

    def __init__(self, credentials: Credentials, oauth: HmsOAuthRules) -> None:
        self._credentials, self._oauth = credentials, oauth

    def add(self) -> dict[str, str]:
        key_id, path = secrets.token_hex(8), _folder(self._credentials) / "hms-client-secret"
        path = path.with_name(f"{path.name}-{key_id}")
        secret = new_hms_secret(path)
        self._oauth.accept(key_id, secret)
        return {"key_id": key_id, "client_secret_file": str(path)}

    def revoke(self, key_id: str) -> bool:
        return self._oauth.refuse(key_id)


def _folder(credentials: Credentials) -> Path:
    """Apart, so that a mock that is started again in the folder takes its first key and no other."""
    folder = credentials.folder / "keys"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
