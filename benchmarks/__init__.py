"""Measurements. Each script prints a table, and one JSON object with `--json`; each says what ran on what."""
