"""How much may be sent, and what to make of it when much fails: rate limits, pauses, circuit breakers and the guard of the tokens."""
