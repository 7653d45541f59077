"Another library's optimizer, made to count steps for each parameter by itself, and to maximize."


def apart(make):
    "`(params, **settings)` -> one of `make([p], **settings)` for each parameter, stepped only when that has a gradient"
    class Apart:
        def __init__(self, params, **kw):
            groups,self.opts = [*params],[]
            for g in groups if isinstance(groups[0], dict) else [dict(params=groups)]:
                own = kw | {k: v for k,v in g.items() if k!='params'}
                sign = -1 if own.pop('maximize', False) else 1
                self.opts += [(p, make([p], **own), sign) for p in g['params']]
        def step(self):
            for p,opt,sign in self.opts:
                if p.grad is None: continue
                p.grad = p.grad.clone()*sign                            # some write into it
                opt.step()
    return Apart
