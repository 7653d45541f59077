import os
os.environ.setdefault('MPLBACKEND', 'Agg')                      # pictures are written, never shown
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')             # threads that wait leave their core to the tests beside
