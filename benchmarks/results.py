"""The file of measurements, which `python -m benchmarks` writes and pages are made from."""

import json

def load(path):
    "The measurements in the file `path`; none where there is no file"
    return json.loads(path.read_text())['results'] if path.exists() else []

def save(results, path):
    "Write a line for each measurement. Numbers have six digits: two runs differ in the third"
    path.write_text('{"results": [\n' + ',\n'.join(json.dumps(rounded(r)) for r in results) + '\n]}\n')

def rounded(x):
    if isinstance(x, dict):
        return {k: rounded(v) for k,v in x.items()}
    if isinstance(x, list):
        return [*map(rounded, x)]
    return float(f'{x:.6g}') if isinstance(x, float) else x
