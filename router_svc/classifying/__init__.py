"""Requests → scores while a router serves: what is read of them, batches, a time budget, whether it goes as meant."""
