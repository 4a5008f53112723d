"""For all tests: how long an example of hypothesis takes says nothing on a machine that has other work to do."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("tidegrid", deadline=None)
settings.load_profile("tidegrid")
