"""A gate lets a step through, or leaves it out, and the host need not know which. The kernels of a
GPU read it: with `nonfinite='skip'`, and where a GradScaler has found what is not finite.

    GradScaler, or a look at the gradients    writes `flag`
    kernels                                   write parameters and states where `flag` is 0
    counters                                  are on the device, and stay where `flag` is not 0

So a step that is left out changes nothing, and no step waits. With `nonfinite='raise'` the flag
follows the step to the host, where it is read at the next step."""

import torch

__all__ = ['Gate']


class Gate:
    """The gate of an optimizer on `device`, as 0-dim tensors there. `flag`: other than 0 if the step
    is left out. `scale`: what gradients are divided by. `skipped`: how many steps were left out"""

    def __init__(self, device):
        new = lambda v, dtype: torch.full((), v, dtype=dtype, device=device)
        self.flag, self.scale = new(0, torch.float32), new(1, torch.float32)
        self.skipped = new(0, torch.int64)
        self.device, self.scaled = device, False
        self.on_host, self.event = (
            None,
            None,
        )  # the flag of the last step, and when it has come

    def set(self, found_inf=None, scale=None):
        "Begin a step. `found_inf` and `scale`: what a GradScaler has found, and its scale"
        if found_inf is None:
            self.flag.zero_()
        else:
            self.flag.copy_(found_inf)
        if scale is not None:
            self.scale.copy_(scale)
        elif self.scaled:
            self.scale.fill_(1)
        self.scaled = scale is not None

    def count(self):
        "End a step: count it if it was left out"
        self.skipped += self.flag != 0

    def tell(self):
        "End a step: send the flag to the host, which goes on"
        pinned = self.device.type != 'cpu'
        if self.on_host is None:
            self.on_host = torch.zeros_like(self.flag, device='cpu', pin_memory=pinned)
            self.event = torch.Event(self.device) if pinned else None
        self.on_host.copy_(self.flag, non_blocking=True)
        if self.event:
            self.event.record()

    def was_closed(self):
        "Whether the step that has told was left out. Waits for that step"
        if self.event:
            self.event.synchronize()
        return bool(self.on_host)
