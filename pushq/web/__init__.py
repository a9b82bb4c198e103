"""The HTTP API and the console, served by ``pushq web``. Needs the extra ``pushq[web]``; nothing else in pushq imports it."""
