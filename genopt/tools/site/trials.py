"""What `genopt trials` has found, on the page of an algorithm: its row of `docs/trials.json`, where that is."""

import json

__all__ = ['load', 'rows_of']

def load(docs):
    path = docs/'trials.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else None

def rows_of(n, tried):
    yield ''
