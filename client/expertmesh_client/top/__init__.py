"""The fleet, live: looked at again and again, and shown."""
