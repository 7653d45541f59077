"""From a `Program` to a step. Nothing here knows the optimizer. In the order of reading:

inputs       what a step starts from, and what all plans of an optimizer have in common
plan         a step: `valid_for`, `prepare`, `commit`
sort         gives each parameter to the work of its program, or to the fallback
work         the parameters of one program, and what they do in a step
reference    calls the callbacks for each parameter: the fallback, and the truth for all others
prefix       the callbacks that are called before a program
flat         runs the flat part of a stage on a backend: `launch` or `foreach`
cross        runs the cross reductions, such as a norm over all parameters
calls        calls the callbacks between launches; `tape` makes that quick on stacks
tensors      the tensors of a work, in batches; `gradients` takes those of a step
scalars      the rows of scalars of a work, which `rows` makes; `store` keeps states and counters
memory       how tensors lie in memory, and whether they still do
choose       which backend runs a chain, before there is a plan
sparse       sparse gradients

The backend in C: `launch` binds compiled code to memory; `look` finds gradients that are not
finite; `emit` and `emit_cross` write the C source, in the dialect `c`; `c_prelude` has the lines with
which it starts, `c_stored` how it reads and writes what is stored, `c_codes` the functions of codes,
`c_struct` what C and Python share; `names` says what values are called in either language, `c_names`
in C; `compiler` compiles it.

The backend in Triton, for GPUs: `triton_launch` binds kernels to memory; `triton_emit`,
`triton_tile` and `triton_names` write them, in the dialect `triton`; `triton_runtime` makes functions
of source, and launches; `triton_offline` compiles for GPUs that are not there. `triton_scalars` lets a
kernel compute scalars, where counters are on the device; `gate` is what may leave a step out there."""
