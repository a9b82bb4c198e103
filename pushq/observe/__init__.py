"""What operators see of pushq from outside: the endpoint of each process, its health, and the exporter."""
