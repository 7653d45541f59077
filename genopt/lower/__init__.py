"""From a chain of callbacks to a `Program`. Nothing here runs a program. In the order of reading:

program      what is asked (`Layout`, `Request`) and what is decided (`Program`, its stages)
decide       `lower`: the one function that decides, and the programs that it has made so far
prefix       which callbacks are called first, because the rest of the chain cannot hold them
recording    what is written down of the callbacks that remain: values, and calls
chain        records them, one callback after the other
namespace    what each name stands for while they are recorded
calls        makes a call of a callback that cannot be recorded
recorder     writes down tensor operations as `values`; `kinds` says what an operation works on,
             and `questions` what a callback may ask of a tensor
scalars      writes down the arithmetic on numbers; `traced` is a number on its way
families     finds the reductions over all parameters
stages       cuts a recording into stages and rounds
operations   the table of operations: how a backend writes each of them
reasons      why a callback cannot be recorded, in words"""
