"""The providers' own host names: the mock's certificate is for them, and its proxy leads to what stands behind them here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Which of the mock's ports answers for a name.
PROVIDERS: Final[Mapping[str, str]] = {
    "api.push.apple.com": "apns",
    "api.sandbox.push.apple.com": "sandbox",
    "api.development.push.apple.com": "sandbox",
    "fcm.googleapis.com": "fcm",
    "oauth2.googleapis.com": "oauth",
    "push-api.cloud.huawei.com": "hms",
    "oauth-login.cloud.huawei.com": "hms_oauth",
}
