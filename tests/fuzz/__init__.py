"""Random peers for the HTTP/2 client. A short run is in the tests; ``make fuzz ARGS='--minutes 10'`` runs long."""
