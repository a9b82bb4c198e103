"""What `pushq doctor` looks at: everything that a send needs, and for each failure a sentence that says what to do."""

from pushq.doctor.checks import checks
from pushq.doctor.configuration import read
from pushq.doctor.findings import Check, Finding, Status
from pushq.doctor.running import examine

__all__ = ["Check", "Finding", "Status", "checks", "examine", "read"]
