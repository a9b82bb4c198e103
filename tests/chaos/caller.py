"""``python -m tests.chaos.caller``: an application. One JSON object per line in (task, arguments), one out (send_id or error)."""

from __future__ import annotations

import json
import sys
import time

import pushq
from pushq.errors import PushqError

TASKS = {"send_broadcast": pushq.send_broadcast, "send_notification": pushq.send_notification}


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        try:
            answer = {"send_id": TASKS[order["task"]].delay(**order["arguments"]).id}
        except PushqError as error:
            answer = {"error": str(error), "seconds": round(time.monotonic() - began, 1)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
