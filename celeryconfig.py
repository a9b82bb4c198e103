"""Celery's configuration, for tools that look for this module: a translation of pushq's settings, nothing of its own.

celery -A pushq.app --config celeryconfig inspect ping
"""

from pushq.app import configuration
from pushq.settings import load

globals().update(configuration(load()))
