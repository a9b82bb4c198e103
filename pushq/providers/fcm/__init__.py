"""Firebase Cloud Messaging, by its HTTP v1 API."""
