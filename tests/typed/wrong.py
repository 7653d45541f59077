"""What mypy reports: in each line that ends with `# E:` an error of that code, and no other. Nothing here is run."""

import torch
from torch import Tensor, nn
import genopt
from genopt import Adam, Optimizer, SGD, algorithm, full, groups, list_algorithms, rename, save_checkpoint, scalar, where, zeros

model  = nn.Linear(2, 2)
params = [torch.ones(2, requires_grad=True)]

Adam(params, lrr=1e-3)                                      # E: call-arg
Adam(params, '1e-3')                                        # E: arg-type
Adam(params, lr='1e-3')                                     # E: arg-type
Adam(params, betas=0.9)                                     # E: arg-type
Adam(params, betas=(0.9, 0.99, 0.999))                      # E: arg-type
Adam(params, momentum=0.9)                                  # E: call-arg
Adam(params, amsgrad=0.5)                                   # E: arg-type
Adam(params, 1e-3, (0.9, 0.99), 1e-8, 0., False, True)      # E: call-arg
Adam(params, nonfinite='skipp')                             # E: arg-type
Adam(params, fused='yes')                                   # E: arg-type
Adam(model)                                                 # E: arg-type
Adam()                                                      # E: call-arg
SGD(params, nesterov='yes')                                 # E: arg-type
genopt.Adamm(params)                                        # E: attr-defined
genopt.make('adamw')                                        # E: call-arg
print(genopt.average_grad)                                  # E: attr-defined

def looks(grad: Tensor) -> None: print(grad.norm())
def fine(grad: Tensor, grad_avg: Tensor = zeros) -> Tensor: return grad + grad_avg

Optimizer(params, looks, lr=1e-3)                           # E: arg-type
Optimizer(params, 0.9, lr=1e-3)                             # E: arg-type
Optimizer(params, [fine], lr='1e-3')                        # E: arg-type
Optimizer(params, [fine], 1e-3)                             # E: call-arg
Optimizer(params, [fine], lr=1e-3, nonfinite='no')          # E: arg-type
Optimizer(params, [fine], lr=1e-3).nonfinite = 'no'         # E: assignment
Optimizer(params, [fine], lr=1e-3).stepp()                  # E: attr-defined
Optimizer(params, [fine], lr=1e-3).step(1.)                 # E: call-overload

@algorithm                                                  # E: arg-type
def Wrong(lr: float = 1e-3) -> float: return lr
@algorithm
def Right(lr: float = 1e-3, beta: float = 0.9) -> list[object]: return [fine]
Right(params, lr='1e-3')                                    # E: call-overload
Right(params, nonfinite='no')                               # E: call-overload

full('0.1')                                                 # E: arg-type
scalar(None)                                                # E: arg-type
rename(fine, grad_avg=1)                                    # E: arg-type
rename(fine, 'grad_avg')                                    # E: call-arg
where(True, 'a', 'b')                                       # E: call-overload
groups(model.parameters(), {})                              # E: call-overload
groups(model, dict(lr=1e-3))                                # E: dict-item
save_checkpoint(3, model=model)                             # E: arg-type
list_algorithms(3)                                          # E: arg-type
