"""A sandbox of every backend that works here."""

import pytest

from .fixtures.sandboxes import sandbox_or_skip

ISOLATING = ("bubblewrap", "namespaces")
BACKENDS = (*ISOLATING, "rlimits")


@pytest.fixture(scope="module", params=BACKENDS)
def sandbox(request):
    return sandbox_or_skip(request.param)


@pytest.fixture(scope="module", params=ISOLATING)
def isolated(request):
    return sandbox_or_skip(request.param)


@pytest.fixture(scope="module", params=BACKENDS)
def hiding(request):
    """A sandbox that hides files: namespaces do, and so does Landlock."""
    sandbox = sandbox_or_skip(request.param)
    if sandbox.backend == "rlimits" and not sandbox.landlock:
        pytest.skip("without Landlock rlimits hide no files, and say so")
    return sandbox
