"""firebase-admin as an application uses it. Cases come as JSON on standard input, what it says about them goes out as JSON."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import firebase_admin
from firebase_admin import credentials, messaging
from firebase_admin.exceptions import FirebaseError

from pushq.mock.process import MockProcess

warnings.simplefilter("ignore", DeprecationWarning)


def rich(token: str) -> messaging.Message:
    """Every part that a message can have."""
    return messaging.Message(
        token=token,
        data={"order": "42"},
        notification=messaging.Notification("Sale", "20 % off", "https://example.com/a.png"),
        android=messaging.AndroidConfig(
            collapse_key="sale",
            priority="high",
            ttl=3600,
            restricted_package_name="com.example.shop",
            data={"a": "b"},
            notification=messaging.AndroidNotification(
                title="t",
                body="b",
                icon="i",
                color="#aabbcc",
                sound="default",
                tag="sale",
                click_action="OPEN",
                channel_id="c",
                notification_count=3,
                visibility="public",
                priority="max",
                light_settings=messaging.LightSettings("#aabbcc", 200, 300),
                vibrate_timings_millis=[100, 200],
                event_timestamp=None,
                sticky=True,
                local_only=False,
            ),
            fcm_options=messaging.AndroidFCMOptions("label"),
            direct_boot_ok=True,
        ),
        apns=messaging.APNSConfig(
            headers={"apns-priority": "10"},
            payload=messaging.APNSPayload(
                messaging.Aps(
                    alert=messaging.ApsAlert(title="t", body="b", loc_key="k", loc_args=["a"]),
                    badge=1,
                    sound=messaging.CriticalSound("default", critical=True, volume=0.5),
                    content_available=True,
                    category="c",
                    thread_id="t",
                    mutable_content=True,
                ),
                custom="x",
            ),
            fcm_options=messaging.APNSFCMOptions("label", "https://example.com/a.png"),
        ),
        webpush=messaging.WebpushConfig(
            headers={"Urgency": "high"},
            data={"c": "d"},
            notification=messaging.WebpushNotification("t", "b", "i"),
            fcm_options=messaging.WebpushFCMOptions("https://example.com/"),
        ),
        fcm_options=messaging.FCMOptions("label"),
    )


def outcome(response: messaging.SendResponse) -> list[Any]:
    error = response.exception
    return [
        response.success,
        None if error is None else type(error).__name__,
        None if error is None else error.code,
    ]


def main() -> None:
    asked = json.load(sys.stdin)
    ready = asked["ready"]
    mock = MockProcess()  # not started: it speaks to the one that is
    mock.ready = ready
    firebase_admin.initialize_app(credentials.Certificate(ready["fcm"]["service_account_file"]))
    said: dict[str, Any] = {"answers": {}}
    for name, fault in asked["faults"].items():
        mock.set_faults([{"platform": "fcm", **fault}])
        said["answers"][name] = outcome(
            messaging.send_each([messaging.Message(token=asked["alive"])]).responses[0]
        )
    mock.set_faults([])
    said["rich"] = outcome(messaging.send_each([rich(asked["alive"])]).responses[0])
    said["topic"] = messaging.send(messaging.Message(topic="news", data={"a": "b"}), dry_run=True)
    said["multicast"] = [
        outcome(each)
        for each in messaging.send_each_for_multicast(
            messaging.MulticastMessage(tokens=[asked["alive"], asked["dead"], "short"])
        ).responses
    ]
    subscribed = messaging.subscribe_to_topic([asked["alive"], asked["dead"], "short"], "news")
    said["subscribed"] = [subscribed.success_count, [each.reason for each in subscribed.errors]]
    said["unsubscribed"] = messaging.unsubscribe_from_topic([asked["alive"]], "news").success_count
    try:
        messaging.send(messaging.Message(token=asked["alive"], data={"google.x": "y"}))
    except FirebaseError as error:
        said["reserved"] = type(error).__name__
    json.dump(said, sys.stdout)


main()
