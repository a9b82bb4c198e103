"""Who may do what through the HTTP door, and what was done: API keys, users of the console, their sessions, the audit log."""
