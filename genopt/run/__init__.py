"""Running programs: in C, by `torch._foreach`, by calls on stacks. Nothing here knows the optimizer."""
