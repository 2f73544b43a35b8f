"""The fleet as it runs: who is in it, how each is, and the places that are held there."""
