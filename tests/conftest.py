import os
os.environ.setdefault('MPLBACKEND', 'Agg')                     # pictures are written, never shown
