import os
os.environ.setdefault('MPLBACKEND', 'Agg')                      # pictures are written, never shown
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')             # threads that wait leave their core to the tests beside

import sys                                                      # noqa: E402
from importlib import import_module                             # noqa: E402
from pathlib import Path                                        # noqa: E402
import pytest                                                   # noqa: E402

@pytest.fixture
def accelerator(monkeypatch):
    "CPU tensors are run as those of an accelerator"
    from genopt.run import foreach
    monkeypatch.setattr(foreach, 'hosts', set())

@pytest.fixture
def benchmark(monkeypatch):
    "A module of the folder benchmarks, by name; the folder stays out of the package, so that the tests look for it beside themselves"
    monkeypatch.setattr(sys, 'path', [*sys.path, str(Path(__file__).parent.parent)])
    return lambda name: import_module(f'benchmarks.{name}')

def pytest_itemcollected(item):
    "Refuse a test whose name has the address of an object: another process, as those of `pytest -n`, would not find it again"
    if ' at 0x' in item.name:
        raise pytest.UsageError(f"{item.nodeid}: the id has the address of an object; leave out ids=str, or give ids")
