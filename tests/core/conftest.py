"""Settings of the property tests."""

from hypothesis import settings

# No deadline: a shared machine's pauses are not the code's.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
