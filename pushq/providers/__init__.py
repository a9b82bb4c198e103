"""The providers: in each folder the request, the table of answers, the credentials and the client."""
