"""``python -m pushq.mock SETTINGS``: serve with the settings given as one JSON object. People use ``pushq mock``."""

import json
import logging
import sys
from pathlib import Path

from pushq.errors import PushqError
from pushq.mock.server import run
from pushq.mock.settings import MockSettings


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    given = json.loads(sys.argv[1])
    for name in ("folder", "faults_file"):
        if given.get(name) is not None:
            given[name] = Path(given[name])
    try:
        run(MockSettings(**given), lambda ready: None)
    except PushqError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
