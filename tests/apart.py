"Another library's optimizer, made to count steps for each parameter by itself, and to maximize."


def apart(make):
    "`(params, **settings)` -> one of `make([p], **settings)` for each parameter, stepped only when that has a gradient"
    class Apart:
        def __init__(self, params, *, maximize=False, **kw):
            self.opts,self.sign = [],-1 if maximize else 1
            groups = [*params]
            for g in groups if isinstance(groups[0], dict) else [dict(params=groups)]:
                self.opts += [(p, make([p], **kw | {k: v for k,v in g.items() if k!='params'})) for p in g['params']]
        def step(self):
            for p,opt in self.opts:
                if p.grad is None: continue
                p.grad = p.grad.clone()*self.sign                            # some write into it
                opt.step()
    return Apart
