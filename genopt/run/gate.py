"""A gate lets a step through, or leaves it out, and the host need not know which. The kernels of a
GPU read it: with `nonfinite='skip'`, and where a GradScaler has found what is not finite.

    GradScaler, or a look at the gradients    writes `flag`
    kernels                                   write parameters and states where `flag` is 0
    callbacks that are called                 see gradients of 0 where it is not
    counters                                  are on the device, and stay where `flag` is not 0

So a step that is left out changes nothing, and no step waits. Where the host must know more, the
flag follows the step there as an `Answer`, which is read at the next step: with
`nonfinite='raise'`, and where a callback branches on a counter (`store.OptimisticClock`)."""

from functools import cached_property
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
        self.answer = None  # that of this step, once somebody has asked for it

    def set(self, found_inf=None, scale=None):
        "Begin a step. `found_inf` and `scale`: what a GradScaler has found, and its scale"
        self.answer = None
        if found_inf is None:
            self.flag.zero_()
        else:
            self.flag.copy_(found_inf)
        if scale is not None:
            self.scale.copy_(scale)
        elif self.scaled:
            self.scale.fill_(1)
        self.scaled = scale is not None

    def let_through(self, grad):
        """The gradient `grad` for a callback that is called, divided by the scale. Zeros if the gate
        is closed: an eigendecomposition, for instance, raises an error for what is not finite"""
        grad = grad / self.scale if self.scaled else grad
        return torch.where(self.flag == 0, grad, 0)

    def count(self):
        "End a step: count it if it was left out"
        self.skipped += self.flag != 0

    def tell(self):
        "The `Answer` of this step, for the host. To be asked when the flag is written"
        if self.answer is None:
            self.answer = Answer(self.flag)
        return self.answer


class Answer:
    "Whether a step was left out, on its way to the host. The host goes on"

    def __init__(self, flag):
        on_gpu = flag.device.type != 'cpu'
        self.on_host = torch.zeros_like(flag, device='cpu', pin_memory=on_gpu)
        self.on_host.copy_(flag, non_blocking=True)
        self.event = event_after(flag.device) if on_gpu else None

    @cached_property
    def left_out(self):
        "Whether it was. Waits for the end of that step"
        if self.event:
            self.event.synchronize()
        return self.on_host.tolist() != 0


def event_after(device):
    """An event behind what `device` has been given to do. `torch.Event(device).record()` records it on
    the current device, which may be another: its end says nothing of a copy from `device`"""
    return torch.get_device_module(device).current_stream(device).record_event()
