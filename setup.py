"""Everything about the package stands in settings.ini."""

from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages,setup

config = ConfigParser(delimiters=['='])
config.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
demo,docs,gpu,loops,dev,peers,bench = (cfg[f'{k}_requirements'].split() for k in ('demo', 'docs', 'gpu', 'loops', 'dev', 'peers', 'bench'))

setup(
    name=cfg['name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], license=cfg['license'],
    long_description=(Path(__file__).parent/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=['genopt', 'genopt.*']), package_data={'': ['*.pyi', 'py.typed']}, python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require=dict(demo=demo, gpu=gpu, loops=loops, dev=demo+gpu+loops+peers+dev, bench=bench, docs=docs),
    entry_points=dict(console_scripts=cfg['console_scripts'].split()),
)
