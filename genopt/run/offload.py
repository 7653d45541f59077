"""Offload: states lie in the memory of the host, and the host computes the step.

Of a parameter on a device the host has a twin, for as long as a step needs one: `Load` brings the
parameter and its gradient, a plan runs the twins as it runs any parameters, and the new values go
back. So the truth is always the user's parameter. `opt.state` has host tensors, and knows the
user's parameters only. A step of three parts:

    to the host      1 | 2 | 3
    the host             1   | 2   | 3
    to the device              1 |   2 |   3

Each part has parameters of some megabytes, and a plan of its own. Three parts are under way at once,
each in a slot of host memory, and the slots are used in turn. Where a callback needs all parameters
at once, as `clip_grad_norm` does, there is one part with all of them. There is one, too, where
callbacks are called, so that a step may fail in the middle: nothing is sent before all is computed."""

from collections import deque
from dataclasses import replace
from operator import is_
from types import SimpleNamespace
import torch
from ..contract.block import of_model
from ..contract.messages import name_in
from ..contract.sharded import is_sharded
from .choose import plain_types
from .copies import Copies, Slot, copies_for, is_far, lying_as, on_host, room_for
from .cross import check_shared_numbers
from .inputs import Inputs
from .plan import Plan

__all__ = ['Offloaded', 'Staging', 'plan_for', 'why_not_moved']

# Of a part: its parameters and gradients. A larger parameter is a part by itself
part_bytes = 32 * 2**20
at_once = 3  # parts under way


def plan_for(staging, inputs, context, finished=None):
    """A plan for `inputs`. It runs parameters on the host where the settings say `offload`.
    `staging`: the optimizer's; `context`, `finished`: as `Plan` takes them"""
    group_of = inputs.group_of()
    offloaded = [inputs.settings[g].offload for g in group_of]
    staging.settle(inputs.params, offloaded, context.store)
    moved = {
        i: p
        for i, (p, g) in enumerate(zip(inputs.params, inputs.grads))
        if offloaded[i] and g is not None and is_far(p)
    }
    if not moved:
        return Plan(inputs, context, finished)
    return Offloaded(staging, moved, inputs, replace(context, gate=None), finished)


def why_not_moved(p):
    "Why `p` cannot be brought to the host, in words; None if it can"
    if is_sharded(p):
        return (
            "is sharded (DTensor), which offload=True cannot move; use fully_shard(..., offload_policy=CPUOffloadPolicy()) "
            "and leave offload out"
        )
    if type(p) not in plain_types:
        return f"is a {type(p).__name__}, but offload=True moves plain tensors only; leave offload out"
    return None


class Staging:
    """What an optimizer needs to move tensors: the copies of each device, and slots of host memory.
    `under_way`: parts that have been brought, or soon will be, and that `finish` computes"""

    def __init__(self):
        self.copies = {}
        self.slots = {}
        self.last = ()  # the loads that were brought last for callbacks that are called
        self.under_way = deque()
        self.turn = 0  # the slot of the next part

    def copies_of(self, device):
        if device not in self.copies:
            self.copies[device] = copies_for.get(device.type, Copies)(device)
        return self.copies[device]

    def slot(self, device, which):
        "Slot number `which` for parts on `device`"
        if (device, which) not in self.slots:
            self.slots[device, which] = Slot(self.copies_of(device))
        return self.slots[device, which]

    def next_slot(self, device):
        "The slot for the next part on `device`: they take turns"
        self.turn = (self.turn + 1) % at_once
        return self.slot(device, self.turn)

    def make_room(self, part):
        "Compute what is under way in the slots of `part`"
        slots = {load.slot for load in part.loads}
        while any(
            load.slot in slots for other in self.under_way for load in other.loads
        ):
            self.finish_first()

    def finish_first(self):
        part = self.under_way.popleft()
        part.wait()
        part.plan.commit()
        part.send()

    def finish(self):
        "Compute and send all that is under way. Devices wait for it"
        while self.under_way:
            self.finish_first()
        for copies in self.copies.values():
            copies.end()

    def settle(self, params, offloaded, store):
        "Move states to where they belong: somebody may have switched `offload`"
        for p, off in zip(params, offloaded):
            state = store.of(p)
            home = torch.device('cpu') if off else p.device
            for n, v in [*dict.items(state)]:
                if not isinstance(v, torch.Tensor) or v.device == home:
                    continue
                if not (v.is_cpu and v.is_shared()):  # counters of several processes
                    state[n] = v.to(home)


class Load:
    """Parameters of one part that are on one device, by their places among all: `twins` and `grads`
    are theirs on the host. `alive`: what is being copied"""

    def __init__(self, slot, places, inputs):
        self.slot, self.copies = slot, slot.copies
        params, grads = inputs.params, inputs.grads
        self.params = {i: params[i] for i in places}
        sparse = {i: on_host(grads[i]) for i in places if grads[i].is_sparse}
        self.dense = [i for i in places if i not in sparse]
        likes = {('p', i): like(params[i]) for i in places}
        likes |= {('g', i): like(params[i], grads[i].dtype) for i in self.dense}
        slot.reserve(sum(map(room_for, likes.values())))
        tensors = dict(zip(likes, slot.tensors(likes.values())))
        self.twins = {i: tensors['p', i] for i in places}
        self.grads = sparse | {i: tensors['g', i] for i in self.dense}
        for i, x in self.twins.items():
            x.grad = self.grads[i]

    def bring_weights(self):
        "Bring the parameters alone, and wait for them"
        self.alive = [lying_as(x, self.params[i]) for i, x in self.twins.items()]
        pairs = [*zip(self.twins.values(), self.alive)]
        self.arrived = self.copies.to_host(pairs, self.slot.sent)
        self.wait()

    def bring(self, grads):
        "Begin to bring parameters and gradients. Sparse gradients are there at once"
        for i in self.grads.keys() - {*self.dense}:
            self.twins[i].grad = self.grads[i] = on_host(grads[i])
        self.alive = [lying_as(x, self.params[i]) for i, x in self.twins.items()]
        self.alive += [lying_as(self.grads[i], grads[i]) for i in self.dense]
        here = [*self.twins.values(), *(self.grads[i] for i in self.dense)]
        self.arrived = self.copies.to_host([*zip(here, self.alive)], self.slot.sent)

    def wait(self):
        self.copies.wait(self.arrived)
        self.alive = None  # the user may free the gradients now

    def send(self):
        "Begin to send the new parameters"
        pairs = [(self.params[i].detach(), x) for i, x in self.twins.items()]
        self.slot.sent = self.copies.to_device(pairs)


def like(p, dtype=None):
    "A tensor without memory that lies as `p` does, or in one piece if `p` has gaps"
    return torch.empty_like(p.detach(), dtype=dtype, device='meta')


class StoreOfTwins:
    "`opt.state`, for a plan that knows the twins of parameters. `users`: id of a twin -> parameter"

    def __init__(self, store, users):
        self.store, self.users = store, users

    @property
    def version(self):
        return self.store.version

    def of(self, p):
        return self.store.of(self.users.get(id(p), p))

    def keep(self, p, tensors, clock):
        self.store.keep(self.users.get(id(p), p), tensors, clock)

    def count(self, p, tensors, counters):
        self.store.count(self.users.get(id(p), p), tensors, counters)


class Part:
    """Parameters that are run together by `plan`, and the `loads` that move those of them that are on
    devices. The plan has the place of each parameter among all, and no gradient for other places"""

    def __init__(self, staging, places, loads):
        self.staging, self.places, self.loads = staging, places, loads

    def bind(self, inputs, context, finished=None):
        """Make the plan. States that are new start from the values of the parameters, so these are
        brought, unless they are there because items have `finished`"""
        self.staging.make_room(self)
        params = [*inputs.params]
        self.users = {}  # id of a twin -> parameter
        for load in self.loads:
            if not finished:
                load.bring_weights()
            for i, x in load.twins.items():
                self.users[id(x)], params[i] = params[i], x
        none = [None] * len(params)
        self.inputs = Inputs(params, none, inputs.settings, inputs.groups, inputs.first)
        self.take(inputs)
        twins = StoreOfTwins(context.store, self.users)
        self.plan = Plan(self.inputs, replace(context, store=twins), finished)

    def take(self, inputs):
        "Take the settings of this step, and gradients that need not be moved"
        self.inputs.settings = inputs.settings
        for i in self.places:
            self.inputs.grads[i] = inputs.grads[i]
        for load in self.loads:
            for i, g in load.grads.items():
                self.inputs.grads[i] = g

    def bring(self, inputs):
        "Begin to bring parameters and gradients"
        self.staging.make_room(self)
        for load in self.loads:
            load.bring(inputs.grads)
        self.take(inputs)

    def wait(self):
        for load in self.loads:
            load.wait()

    def send(self):
        "Begin to send the new parameters"
        for load in self.loads:
            load.send()

    def holds(self):
        "Whether all that can fail has been seen before gradients are there, and does not fail"
        check_shared_numbers(self.plan.works, self.inputs.settings)
        places = range(len(self.plan.works))
        ready = all(self.plan.ready(j, self.inputs.grads) for j in places)
        return ready and all(w.simple for w in self.plan.works)

    def forget(self):
        "Keep no gradient of the user's alive"
        self.inputs.grads = [None] * len(self.inputs.grads)


class Offloaded:
    """The plan of steps in which the parameters `moved`, by their places, are computed on the host.
    It is asked as a `Plan` is, and takes what a `Plan` takes"""

    gate, can_have_gate = None, False

    def __init__(self, staging, moved, inputs, context, finished=None):
        self.staging, self.moved = staging, moved
        self.store, self.who = context.store, context.who
        for i, p in moved.items():
            if why := why_not_moved(p):
                raise ValueError(f'{self.who}: {name_in(inputs.groups, i)} {why}')
        self.params = inputs.params
        self.missing = [g is None for g in inputs.grads]
        self.kinds = self.kinds_of(inputs.grads)
        self.inputs = None  # of the step that is prepared
        if finished:
            self.parts = self.together(inputs, staging.last)
        else:
            self.parts = self.apart(inputs)
        for part in self.parts:
            part.bind(inputs, context, finished)
        self.simple = not finished and all(part.plan.simple for part in self.parts)
        if not self.simple and len(self.parts) > 1:
            staging.slots.clear()
            self.parts = self.together(inputs)
            self.parts[0].bind(inputs, context, finished)

    def kinds_of(self, grads):
        "All of each parameter that is moved, and of its gradient, that decides about its twin"
        return [
            (p.dtype, p.shape, p.stride(), p.device, grads[i].dtype, grads[i].is_sparse)
            for i, p in self.moved.items()
        ]

    def stay(self, inputs):
        "The places of parameters that have gradients, and are not moved"
        ids = {*map(id, self.moved.values())}  # one that is given twice is moved once
        pairs = enumerate(zip(inputs.params, inputs.grads))
        return [i for i, (p, g) in pairs if g is not None and id(p) not in ids]

    def apart(self, inputs):
        "Parts that can be computed one after the other; a single one where a callback needs all"
        chains = {s.chain for s in inputs.settings}
        if any(needs_all(b) for chain in chains for b in chain.blocks):
            return self.together(inputs)
        parts = []
        for device, places in by_device(self.moved).items():
            for some in divided(places, inputs):
                load = Load(self.staging.next_slot(device), some, inputs)
                parts.append(Part(self.staging, some, [load]))
        stay = self.stay(inputs)
        return [*parts, Part(self.staging, stay, [])] if stay else parts

    def together(self, inputs, loads=()):
        "One part with all parameters. `loads`: what has been brought for it"
        slot = self.staging.slot
        loads = loads or [
            Load(slot(device, 'all'), places, inputs)
            for device, places in by_device(self.moved).items()
        ]
        return [Part(self.staging, [*self.moved, *self.stay(inputs)], loads)]

    # -- As `Plan` --

    def valid_for(self, inputs):
        params, grads = inputs.params, inputs.grads
        same = len(params) == len(self.params) and all(map(is_, params, self.params))
        if not same or [g is None for g in grads] != self.missing:
            return False
        if self.kinds_of(grads) != self.kinds:
            return False
        for part in self.parts:
            part.take(inputs)
        return all(part.plan.valid_for(part.inputs) for part in self.parts)

    def aim(self, inputs, look):
        self.inputs = inputs
        return all(part.plan.aim(part.inputs, look) for part in self.parts)

    def draw_anew(self):
        for part in self.parts:
            part.plan.draw_anew()

    def looks_bad(self):
        return bool(self.nonfinite(self.inputs.grads))

    def nonfinite(self, grads):
        "The places of gradients that are not finite. It looks at them where they are"
        return self.parts[0].plan.nonfinite(grads)

    def prepare(self, inputs, model=None, finished=None, look=False):
        self.inputs = inputs
        if self.simple:
            return None if all(part.holds() for part in self.parts) else {}
        (part,) = self.parts
        self.staging.last = part.loads
        if not finished:
            part.bring(inputs)
            part.wait()
        return part.plan.prepare(part.inputs, Asked(model, part.users), finished)

    def commit(self):
        try:
            if self.simple:
                self.begin()
            else:
                self.parts[0].plan.commit()
                self.parts[0].send()
                self.parts[0].forget()
                self.inputs = None
            self.staging.finish()
        finally:
            self.staging.under_way.clear()  # the user may interrupt a step

    def begin(self):
        "As `commit`, of a simple plan, but the last parts are under way until `staging.finish`"
        inputs, self.inputs = self.inputs, None
        for part in self.parts:
            if not part.loads:
                part.plan.commit()
                part.forget()
                continue
            while len(self.staging.under_way) >= at_once:
                self.staging.finish_first()
            part.bring(inputs)
            part.forget()
            self.staging.under_way.append(part)

    def let_go(self):
        for part in self.parts:
            part.plan.let_go()


def needs_all(block):
    "Whether a callback reads all parameters, or asks the model"
    return block.is_global or not of_model.isdisjoint(block.reads)


def by_device(params):
    "The places of `params`, a dict, by device"
    res = {}
    for i, p in params.items():
        res.setdefault(p.device, []).append(i)
    return res


def divided(places, inputs):
    """Lists of `places` of at most `part_bytes`, or of a single parameter. Small ones come first, so
    that the host has something to do while a large one is brought"""
    params, grads = inputs.params, inputs.grads
    size = {
        i: params[i].numel() * (params[i].itemsize + grads[i].itemsize) for i in places
    }
    res, left = [], 0
    for i in sorted(places, key=size.get):
        if not res or size[i] > left:
            res.append([])
            left = part_bytes
        res[-1].append(i)
        left -= size[i]
    return res


# -- The model --


class Asked:
    "The `model`, for callbacks that see twins. `users`: id of a twin -> parameter"

    def __init__(self, model, users):
        self.model, self.users = model, users

    def user(self, item):
        "The `item` of the user's parameter, as the model needs it"
        p = self.users.get(id(item.p), item.p)
        return SimpleNamespace(p=p, chain=item.chain, versions_now=list)

    def back(self, items, xs):
        "Tensors that the model has returned for `items`, where the twins are"
        return [on_host(x) if id(it.p) in self.users else x for it, x in zip(items, xs)]

    def loss(self, items, by):
        return on_host(self.model.loss(items, by))

    def evaluate(self, items, by):
        inner = self.model.evaluate([*map(self.user, items)], by)

        def evaluate(values):
            loss, grads = inner(values)
            return on_host(loss), self.back(items, grads)

        return evaluate

    def hvp(self, items, by):
        users = [*map(self.user, items)]
        inner = self.model.hvp(users, by)

        def hvp(vectors):
            there = [v.to(u.p.device) for v, u in zip(vectors, users, strict=True)]
            return self.back(items, inner(there))

        return hvp
