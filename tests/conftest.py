"""Hypothesis makes the same examples every time, so that `make test` does not fail by chance; the nightly forms
look for new ones (`derandomize=False`)."""

from hypothesis import settings

settings.register_profile("steady", derandomize=True)
settings.load_profile("steady")
