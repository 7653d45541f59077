"""Random lists of blocks as in `test_combinations`, of other seeds and on parameters that are alike, for as long as one likes. Those that are not the
same in all three ways, and with numbers on the device, are printed, as soon as they are found: `python tests/fuzz.py --seconds 3600 --start 5000`.
With `--triton` they take the way of a GPU, and Triton's interpreter runs their kernels."""

import time,traceback
from fastcore.script import call_parse,store_true
from genopt.run import choose
from test_combinations import heap,recipe,ways_agree

alike = [(4,3), (4,3), (3,), (3,3), (3,3), (4,3), (), (3,)]                 # some are stacked, some stand side by side
matrices = [s for s in alike if len(s)>1]

@call_parse
def main(seconds:int=600,          # How long to go on
         start:int=0,              # The first seed
         triton:store_true=False): # Whether to take the way of a GPU
    "Compare random lists of blocks in all ways"
    if triton: choose.dialects['cpu'] = 'triton'
    until,seed,ran,failed = time.monotonic()+seconds,start,0,[]
    while time.monotonic()<until:
        for make,shapes in ((recipe, matrices), (heap, alike if seed%2 else matrices)):
            names = make(seed)
            try: ran += ways_agree(names, shapes, {}, dict(fused=True), dict(capturable=True), dict(fused=True, capturable=True))
            except Exception as e:
                failed.append(seed)
                print(f'{make.__name__}({seed}): {names}\n', ''.join(traceback.format_exception_only(e)), flush=True)
        seed += 1
    print(f'seeds {start} to {seed-1}: {2*(seed-start)} lists, {ran} of them run, {len(failed)} fail')
    return len(failed)
