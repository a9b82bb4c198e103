"""Faults against a whole pushq, counted at the provider: ``python -m tests.chaos`` runs all cases and writes RESULTS.md.

``servers`` and ``crew`` are what is killed, ``site`` is one pushq with one broker, ``cases`` are the faults, ``verdict`` decides what a
send came to. A fast subset is in ``test_chaos_fast.py``.
"""
