"""The providers' own host names: the mock's certificate is for them, and its proxy leads to what stands behind them here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Which of the mock's ports answers for a name.
PROVIDERS: Final[Mapping[str, str]] = {
    "api.push.apple.com": "apns",
    "api.sandbox.push.apple.com": "sandbox",
    "api.development.push.apple.com": "sandbox",
    "api-manage-broadcast.push.apple.com": "manage",
    "api-manage-broadcast.sandbox.push.apple.com": "sandbox_manage",
    "fcm.googleapis.com": "fcm",
    "iid.googleapis.com": "topics",
    "oauth2.googleapis.com": "oauth",
    "push-api.cloud.huawei.com": "hms",
    "oauth-login.cloud.huawei.com": "hms_oauth",
}
