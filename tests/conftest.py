import os
os.environ.setdefault('MPLBACKEND', 'Agg')                      # pictures are written, never shown
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')             # threads that wait leave their core to the tests beside

import pytest                                                   # noqa: E402

@pytest.fixture
def accelerator(monkeypatch):
    "CPU tensors are run as those of an accelerator"
    from genopt.run import foreach
    monkeypatch.setattr(foreach, 'hosts', set())
