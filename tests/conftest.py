"""Settings of the whole suite."""

from hypothesis import settings

# A loaded machine is no failure: no example has a deadline.
settings.register_profile("mesh", deadline=None)
settings.load_profile("mesh")
