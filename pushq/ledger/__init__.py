"""The ledger: sends, shards, batches and their outcomes in PostgreSQL, the truth about every send."""
