"""Its being here puts this folder on the path, so that tests of any folder can import ``factories``."""

from hypothesis import settings

# A deadline a case measures what else the machine is doing; a test that hangs is ended by pytest-timeout.
settings.register_profile("latentwire", deadline=None)
settings.load_profile("latentwire")
