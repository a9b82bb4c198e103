"""Apple Push Notification service, by its HTTP/2 provider API."""
