"""A send that reaches nobody: the audience is counted, and providers that can look a message over without delivering it do so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from pushq.delivery.composing import compose, values_of
from pushq.http2 import Burst, Code
from pushq.ledger.sends import Send
from pushq.notification import Notification
from pushq.providers.answers import Effect, Verdict
from pushq.providers.client import CredentialRefused, CredentialUnavailable, ProviderClient
from pushq.rendering.contents import Renderer
from pushq.rendering.templates import default_of
from pushq.tokens.lookup import AddressedDevice

#: Tokens that are tried: one may be dead, which says nothing about the message.
SAMPLE: Final = 5
_SUBMIT_TIMEOUT_S: Final = 30.0
_ANSWER_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class Objection:
    """Why a provider would not take the message.

    Attributes:
        language: the variant that it refused; None: the message as it is without any, or it is not about a variant.
        reason: the provider's word, or ours where there was no answer.
    """

    language: str | None
    status: int | None
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Rehearsal:
    """What one provider says about a message.

    Attributes:
        validated: requests that the provider looked at and took; one for each language.
        note: why it has not looked, where it has not.
    """

    validated: int = 0
    objections: tuple[Objection, ...] = ()
    note: str | None = None


def needed_values(notification: Notification) -> tuple[str, ...]:
    """Names of the values without which some recipient gets nothing."""
    found = [p.name for p in notification.placeholders() if default_of(p, notification.defaults) is None]
    return tuple(dict.fromkeys(found))


def rehearse(client: ProviderClient, send: Send, devices: Sequence[AddressedDevice]) -> Rehearsal:
    """Let the provider look at the message in each of its languages, on one live device's behalf.

    Args:
        devices: some of the audience; for a topic and its like none are needed.
    """
    message, notification = compose(send, client.platform)
    if send.target is not None:
        devices = [AddressedDevice(0, 0, client.platform, send.target.environment, "")]
    if not devices:
        return Rehearsal(note="no device to try it with")
    renderer = Renderer(notification, client.format(message))
    tags = (None, *notification.languages) if send.target is None else (None,)
    stand_ins = dict.fromkeys(needed_values(notification), "x")
    try:
        for device in devices[:SAMPLE]:
            known = {
                k: v for k, v in (values_of(send, device.user_id, device.attributes) or {}).items() if v != ""
            }
            contents = [renderer.write(tag, {**stand_ins, **known}) for tag in tags]
            burst = client.rehearse(
                replace(message, environment=device.environment),
                [device.token.encode()] * len(tags),
                contents,
            )
            if burst is None:
                return Rehearsal(note="checked by pushq alone: this provider cannot check without delivering")
            client.pool(device.environment).submit(burst, _SUBMIT_TIMEOUT_S)
            burst.wait(_ANSWER_TIMEOUT_S)
            told = [_told(client, burst, index) for index in range(len(tags))]
            if not any(isinstance(each, Verdict) and each.effect is Effect.TOKEN_DEAD for each in told):
                return _summed_up(client, tags, told)
    except (CredentialRefused, CredentialUnavailable) as exc:
        return Rehearsal(objections=(Objection(None, None, "credential", str(exc)),))
    return Rehearsal(note=f"not checked: none of the {len(devices[:SAMPLE])} devices tried has a live token")


def _told(client: ProviderClient, burst: Burst, index: int) -> Verdict | str | None:
    """The answer to one request: None when it was taken, a text when there was none."""
    code = burst.codes[index]
    if code == Code.OK:
        return None
    answer = burst.answers.get(index)
    if answer is None:
        return burst.reasons.get(index, "no_answer")
    now = datetime.now(UTC)
    return client.judge(answer, sent_at=now, now=now)


def _summed_up(
    client: ProviderClient, tags: Sequence[str | None], told: Sequence[Verdict | str | None]
) -> Rehearsal:
    objections = []
    for tag, each in zip(tags, told, strict=True):
        if isinstance(each, Verdict):
            setup = each.effect is Effect.CONFIGURATION
            detail = client.explain(each) if setup else each.detail
            objections.append(Objection(tag, each.status, each.reason, detail))
        elif each is not None:
            objections.append(Objection(tag, None, each, "no answer from the provider"))
    return Rehearsal(len(tags) - len(objections), tuple(objections))
