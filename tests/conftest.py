"""Its being here puts this folder on the path, so that tests of any folder can import ``factories``."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from latentwire.codec import coder

# A deadline a case measures what else the machine is doing; a test that hangs is ended by pytest-timeout.
settings.register_profile("latentwire", deadline=None)
settings.load_profile("latentwire")

if "LATENTWIRE_CODER" in os.environ:  # as the command does: the whole suite with the coder of that name
    coder.use(os.environ["LATENTWIRE_CODER"])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: its sums, and so its weights, depend on how many there are."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
