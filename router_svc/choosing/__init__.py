"""Scores, the fleet's state and a request's wishes → one replica, and why: pure functions."""
