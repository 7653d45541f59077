"""Rows: genopt.algorithms.averaged."""

import genopt,pytorch_optimizer,schedulefree
from .row import Algorithm,Peer,log,other


def trained(cls):
    "In the mode for training, in which genopt starts; its steps are counted for each group, so parameters with gradients now and then are left out"
    def make(params, **kw):
        opt = cls(params, **kw)
        opt.train()
        return opt
    return make
def schedule_free(r):
    return dict(lr=log(r,-4,-1), weight_decay=r.choice([0., log(r,-4,-1)]), warmup_steps=r.choice([0, 10]), r=r.choice([0., r.random()]),
                weight_lr_power=r.choice([2., r.uniform(0,3)]))
def sgd(r):  return schedule_free(r) | dict(momentum=r.uniform(.1,.99))
def adam(r): return schedule_free(r) | dict(betas=(r.uniform(.1,.99), r.uniform(.5,.9999)), eps=log(r,-10,-5))

steady = 'bias','scalar','strided'
rows = [
    Algorithm(genopt.SGDScheduleFree,   trained(schedulefree.SGDScheduleFree),   sgd,  lr=2e-3, more=dict(r=10.), near=.3, own=[{}], names=steady,
              source='schedulefree', peers=[Peer('pytorch_optimizer', other(trained(pytorch_optimizer.ScheduleFreeSGD)))]),
    Algorithm(genopt.AdamWScheduleFree, trained(schedulefree.AdamWScheduleFree), adam, lr=.1,   own=[{}], names=steady,
              source='schedulefree', peers=[Peer('pytorch_optimizer', other(trained(pytorch_optimizer.ScheduleFreeAdamW)))]),
]
