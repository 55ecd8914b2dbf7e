"""`make demo`: the Aspire dashboard, a Valkey that tells it everything, and a little traffic to look at."""
