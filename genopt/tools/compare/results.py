"""The file of results: every training that was done, so that a run goes on where it was interrupted."""

import json
from pathlib import Path
from ..files import dumps,write

__all__ = ['Results']


class Results:
    """The trainings of one data set, model and way of training, which `about` describes. Each is kept in the file `path`, if one is given, as soon as
    it is done. Raises `ValueError` if the file holds results of something else, or is no file of results."""
    def __init__(self, about: dict, path: Path|None=None):
        self.about,self.path = about,path
        self.trainings = {}
        if path and path.exists():
            for t in self.read(path):
                self.trainings[key(t)] = t

    def read(self, path):
        try:
            kept = json.loads(path.read_text(encoding='utf-8'))
            trainings = kept['trainings']
        except (ValueError, KeyError, TypeError) as e:
            raise ValueError(f"--results {path}: this file has no results of genopt compare, and would be overwritten; name another") from e
        differ = [f'{k} {kept.get(k)!r}, not {v!r}' for k,v in self.about.items() if kept.get(k)!=v]
        if differ:
            raise ValueError(f"--results {path}: its trainings have {'; '.join(differ)}. Name another file, or remove this one")
        return trainings

    def forget(self, optimizer: str, source: int|None):
        "Drop what `optimizer` was trained with while the source code of its rules had another checksum than `source`, and so was another rule"
        self.trainings = {k: t for k,t in self.trainings.items() if t['optimizer']!=optimizer or t.get('source')==source}

    def get(self, **what) -> dict|None:
        "The training that `what` describes, or None"
        return self.trainings.get(key(what))

    def add(self, training: dict, **what):
        self.trainings[key(what)] = what | training
        self.save()

    def save(self, **more):
        "Write the file anew, with `more` beside the trainings, which take a line each"
        if self.path:
            trainings = ',\n'.join(dumps(t, indent=None) for t in self.trainings.values())
            write(self.path, f'{dumps(self.about | more)[:-2]},\n "trainings": [\n{trainings}]\n}}\n')

    def all(self) -> dict:
        return self.about | dict(trainings=[*self.trainings.values()])

def key(t): return t['optimizer'],t['tuned'],t['exponent'],t['seed']
