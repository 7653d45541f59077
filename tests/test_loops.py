"""The training loops people have, each as its users write it, on handwritten digits: the same script with torch.optim's class and with genopt's,
stopped and resumed. In each a schedule of `lr` (and momentum), gradients accumulated over two batches and clipped, and the loop's own checkpoint."""

from functools import partial
from types import SimpleNamespace
import pytest,torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader,TensorDataset
import genopt

pytestmark = pytest.mark.slow
epochs,half,bs,accumulate,max_norm,lr = 4,2,64,2,.25,1e-2


# -- The data, the model, and a look into each step --

@pytest.fixture(scope='module')
def digits():
    "1024 images to train on, 773 to test"
    x,y = pytest.importorskip('sklearn.datasets').load_digits(return_X_y=True)
    x,y = torch.tensor(x/16, dtype=torch.float32),torch.tensor(y)
    train = TensorDataset(x[:1024], y[:1024])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                                    # for models this small, threads wait for each other
    yield SimpleNamespace(train=train, batches=[*DataLoader(train, bs)], test=TensorDataset(x[1024:], y[1024:]), steps=epochs*1024//bs//accumulate)
    torch.set_num_threads(threads)

def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

class Maker:
    "Makes the optimizer of a loop, and writes down with which numbers and which gradient it makes each step"
    def __init__(self, cls, **hypers): self.cls,self.hypers,self.log = cls,hypers,[]
    def __call__(self, params, **hypers): return self.watch(self.cls(params, **hypers, **self.hypers))
    def watch(self, opt):
        if isinstance(opt, torch.optim.Optimizer): opt.register_step_post_hook(self.stepped)
        return opt
    def stepped(self, opt, args, kwargs):
        grads = [p.grad.norm() for g in opt.param_groups for p in g['params'] if p.grad is not None]
        self.log.append((opt.param_groups[0]['lr'], opt.param_groups[0]['betas'][0], torch.stack(grads).norm().item()))


# -- The loops. `make(params)` is the optimizer; `stop`: after that many epochs; `resume`: from what lies in `path`. They return the model --

def plain(make, digits, path, stop=epochs, resume=False):
    "PyTorch: autocast, a GradScaler that meets an overflow, a frozen layer at the start"
    net,scaler,start = mlp(),torch.amp.GradScaler('cpu', init_scale=2.**10, growth_interval=5),0
    opt = make(net.parameters(), lr=1e-3)
    sched = OneCycleLR(opt, lr, total_steps=digits.steps)
    parts = dict(net=net, opt=opt, scaler=scaler, sched=sched)
    if resume:
        saved = torch.load(path/'plain.pt', weights_only=True)
        start = saved.pop('epoch')
        for k,v in saved.items(): parts[k].load_state_dict(v)
    for epoch in range(start, stop):
        net[0].requires_grad_(epoch>0)                          # frozen in the first epoch
        for i,(x,y) in enumerate(digits.batches):
            with torch.autocast('cpu', torch.bfloat16): loss = cross_entropy(net(x), y)
            if (epoch,i)==(1,5): loss = loss*float('inf')       # the scaler skips this step
            scaler.scale(loss/accumulate).backward()
            if (i+1)%accumulate: continue
            scaler.unscale_(opt)
            clip_grad_norm_(net.parameters(), max_norm)
            scaler.step(opt)
            scaler.update()
            sched.step()
            opt.zero_grad()
    torch.save({k: v.state_dict() for k,v in parts.items()} | dict(epoch=stop), path/'plain.pt')
    return net

def in_backward(make, digits, path, stop=epochs, resume=False):
    "An optimizer for each parameter, which steps as soon as its gradient is there. A gradient is clipped by itself: the others are not known"
    net,start,count = mlp(),0,0
    opts = {n: make([p], lr=1e-3) for n,p in net.named_parameters()}
    scheds = {n: OneCycleLR(o, lr, total_steps=digits.steps) for n,o in opts.items()}
    def now(p, opt):
        if count%accumulate: return
        clip_grad_norm_(p, max_norm)
        opt.step()
        opt.zero_grad()
    for n,p in net.named_parameters(): p.register_post_accumulate_grad_hook(lambda p,opt=opts[n]: now(p, opt))
    if resume:
        saved = torch.load(path/'in_backward.pt', weights_only=True)
        start = saved['epoch']
        net.load_state_dict(saved['net'])
        for n in opts: opts[n].load_state_dict(saved['opts'][n]); scheds[n].load_state_dict(saved['scheds'][n])
    for _ in range(start, stop):
        for x,y in digits.batches:
            count += 1
            (cross_entropy(net(x), y)/accumulate).backward()
            if count%accumulate==0:
                assert all(p.grad is None for p in net.parameters())
                for s in scheds.values(): s.step()
    torch.save(dict(net=net.state_dict(), epoch=stop, **{k: {n: o.state_dict() for n,o in d.items()} for k,d in dict(opts=opts, scheds=scheds).items()}),
               path/'in_backward.pt')
    return net

def lightning(make, digits, path, stop=epochs, resume=False):
    "Lightning hands the optimizer a closure, which clears the gradients, computes them and clips them"
    L = pytest.importorskip('lightning')
    class Digits(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = mlp()
        def training_step(self, batch, i): return cross_entropy(self.net(batch[0]), batch[1])
        def configure_optimizers(self):
            opt = make(self.parameters(), lr=1e-3)
            return dict(optimizer=opt, lr_scheduler=dict(scheduler=OneCycleLR(opt, lr, total_steps=digits.steps), interval='step'))
    trainer = L.Trainer(max_epochs=stop, accelerator='cpu', gradient_clip_val=max_norm, accumulate_grad_batches=accumulate, default_root_dir=path,
                        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    module = Digits()
    trainer.fit(module, DataLoader(digits.train, bs), ckpt_path=path/'lightning.ckpt' if resume else None)
    trainer.save_checkpoint(path/'lightning.ckpt')
    torch.load(path/'lightning.ckpt', weights_only=True)        # nothing in it that only we can read
    return module.net

def accelerate(make, digits, path, stop=epochs, resume=False):
    "Accelerate wraps optimizer and scheduler; the batches are shuffled, in an order that the checkpoint brings back"
    Accelerator = pytest.importorskip('accelerate').Accelerator
    acc,net = Accelerator(cpu=True, mixed_precision='bf16', gradient_accumulation_steps=accumulate),mlp()
    opt = make(net.parameters(), lr=1e-3)
    model,opt,dl,sched = acc.prepare(net, opt, DataLoader(digits.train, bs, shuffle=True), OneCycleLR(opt, lr, total_steps=digits.steps))
    if resume: acc.load_state(path/'accelerate')
    for _ in range(half if resume else 0, stop):
        for x,y in dl:
            with acc.accumulate(model):
                acc.backward(cross_entropy(model(x), y))
                if acc.sync_gradients: acc.clip_grad_norm_(model.parameters(), max_norm)
                opt.step()
                sched.step()
                opt.zero_grad()
    acc.save_state(path/'accelerate')
    return acc.unwrap_model(model)

class Flat(nn.Module):
    "A Hugging Face classifier of 8 x 8 images, for rows of pixels"
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, x): return self.net(x.view(-1, 1, 8, 8)).logits

def trainer(make, digits, path, stop=epochs, resume=False):
    "Hugging Face's Trainer with a small ResNet, batches in its own random order, and its own groups: no decay for biases and norms"
    hf = pytest.importorskip('transformers')
    class Stop(hf.TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer, **kw): make.watch(optimizer.optimizer)
        def on_epoch_end(self, args, state, control, **kw): control.should_training_stop = state.epoch>=stop
    torch.manual_seed(0)
    net = hf.ResNetForImageClassification(hf.ResNetConfig(num_channels=1, embedding_size=16, hidden_sizes=[16,32], depths=[1,1], layer_type='basic', num_labels=10))
    args = hf.TrainingArguments(path/'trainer', num_train_epochs=epochs, per_device_train_batch_size=bs, gradient_accumulation_steps=accumulate, use_cpu=True,
                                max_grad_norm=max_norm, lr_scheduler_type='cosine', warmup_steps=5, weight_decay=.01, save_strategy='epoch',
                                report_to='none', logging_strategy='no', disable_tqdm=True)
    items = [dict(pixel_values=x.view(1, 8, 8), labels=y) for x,y in digits.train]
    t = hf.Trainer(net, args, train_dataset=items, optimizer_cls_and_kwargs=(make.cls, dict(lr=lr, **make.hypers)), callbacks=[Stop()])
    t.remove_callback(hf.PrinterCallback)
    t.train(resume_from_checkpoint=resume)
    assert [g['weight_decay'] for g in t.optimizer.param_groups]==[.01, 0]
    return Flat(net)

def fastai(make, digits, path, stop=epochs, resume=False):
    "fastai's one cycle, saved after each epoch by its own callback; torch's class needs its OptimWrapper there"
    basics = pytest.importorskip('fastai.basics')
    from fastai.callback.all import GradientAccumulation,GradientClip,SaveModelCallback
    class Stop(basics.Callback):
        order = 70                                              # behind the saving
        def after_epoch(self):
            if self.epoch+1>=stop: raise basics.CancelFitException
    opt_func = partial(basics.OptimWrapper, opt=make) if make.cls.__module__.startswith('torch') else make
    dls = basics.DataLoaders(*[basics.DataLoader([*ds], bs=bs) for ds in (digits.train, digits.test)])
    learn = basics.Learner(dls, mlp(), cross_entropy, opt_func, path=path, wd=.01, wd_bn_bias=True,          # torch's decays them
                           cbs=[GradientAccumulation(bs*accumulate), GradientClip(max_norm), SaveModelCallback(every_epoch=True, with_opt=True), Stop()])
    with learn.no_bar(), learn.no_logging():
        if resume: learn.load(f'model_{half-1}')
        learn.fit_one_cycle(epochs, lr, start_epoch=half if resume else 0)
    return learn.model

loops = [plain, in_backward, lightning, accelerate, trainer, fastai]


# -- What all of them must keep --

def run(loop, make, digits, path, **kw):
    "The weights after `loop` with the optimizer of `make`, and the accuracy on the test set"
    path.mkdir(exist_ok=True)
    make.log.clear()
    net = loop(make, digits, path, **kw).eval()
    x,y = digits.test.tensors
    with torch.no_grad(): right = (net(x).argmax(1)==y).float().mean().item()
    return SimpleNamespace(weights=torch.cat([v.flatten().double() for v in net.state_dict().values()]), log=[*make.log], right=right)

def close(a, b, tol=1e-5): return (a.weights-b.weights).abs().max()<tol*b.weights.abs().max()
def near(a, b, tol=1e-5):
    "Same weights but for rounding, by the same steps"
    assert close(a, b, tol)
    assert [o[:2] for o in a.log]==[o[:2] for o in b.log[-len(a.log):]]
    assert [o[2] for o in a.log]==pytest.approx([o[2] for o in b.log[-len(a.log):]], rel=1e-3)

@pytest.mark.parametrize('kw', [{}, dict(fused=True)], ids=['default','fused'])
@pytest.mark.parametrize('loop', loops, ids=lambda f: f.__name__)
def test_loop(loop, kw, digits, tmp_path):
    ours,torchs = Maker(genopt.AdamW, **kw),Maker(torch.optim.AdamW, fused=loop is trainer)          # as is the Trainer's default
    whole,theirs = run(loop, ours, digits, tmp_path/'whole'),run(loop, torchs, digits, tmp_path/'torch')
    lrs,moms,norms = zip(*whole.log)
    tensors = len([*mlp().parameters()]) if loop is in_backward else 1
    assert len(lrs)==digits.steps*tensors-(loop is plain)                   # a step that overflows is not made
    assert max(lrs)>10*lrs[-1] and (loop is trainer or max(moms)>min(moms)) and max_norm*.999<max(norms)<max_norm*1.001
    assert whole.right>.75
    tol = 1e-4 if loop in (plain, accelerate) else 1e-5                     # bfloat16 makes a step of what is the last digit of float32
    near(whole, theirs, tol)

    first,second = run(loop, ours, digits, tmp_path/'half', stop=half),run(loop, ours, digits, tmp_path/'half', resume=True)
    assert torch.equal(second.weights, whole.weights) and first.log+second.log==whole.log and first.log and second.log

    run(loop, torchs, digits, tmp_path/'theirs', stop=half)
    near(run(loop, ours, digits, tmp_path/'theirs', resume=True), theirs, tol)   # what torch's class has saved, genopt's resumes

def test_in_backward_is_the_step_behind_it(digits, tmp_path):
    "An optimizer for each parameter, stepping within backward, gives the bits of one for all"
    released,net = run(in_backward, Maker(genopt.AdamW), digits, tmp_path),mlp()
    opt = genopt.AdamW(net.parameters(), lr=1e-3)
    sched = OneCycleLR(opt, lr, total_steps=digits.steps)
    for i,(x,y) in enumerate(digits.batches*epochs):
        (cross_entropy(net(x), y)/accumulate).backward()
        if (i+1)%accumulate: continue
        for p in net.parameters(): clip_grad_norm_(p, max_norm)
        opt.step()
        opt.zero_grad()
        sched.step()
    assert torch.equal(torch.cat([p.detach().flatten().double() for p in net.parameters()]), released.weights)

def test_accelerate_sees_a_skipped_step():
    "Its wrapper patches `step` to see whether the scaler makes it, and the scheduler waits if not"
    Accelerator,optimizer = pytest.importorskip('accelerate').Accelerator,pytest.importorskip('accelerate.optimizer')
    Accelerator(cpu=True)                                       # with a scaler of its own only on CUDA, so one is given
    p = torch.ones(3, requires_grad=True)
    opt = optimizer.AcceleratedOptimizer(genopt.AdamW([p]), scaler=torch.amp.GradScaler('cpu'))
    for skipped,g in (False,1.), (True,float('inf')), (False,1.):
        p.grad,before = torch.full((3,), g),p.detach().clone()
        opt.scaler.scale(torch.ones(()))                        # as a backward pass would
        opt.step()
        assert opt.step_was_skipped==skipped==torch.equal(p, before)
    assert opt.state[p]['step']==2

@pytest.mark.parametrize('stops', [(3,), (1,3), (2,3)], ids=str)
def test_lightning_unfreezes(stops, digits, tmp_path):
    """BackboneFinetuning adds a param group in the second epoch, or puts a list of its own in place of `param_groups` where that is already in the
    checkpoint. It then leaves the backbone frozen, so the reference is torch's class, stopped and resumed alike"""
    L = pytest.importorskip('lightning')
    from lightning.pytorch.callbacks import BackboneFinetuning
    class Digits(L.LightningModule):
        def __init__(self, optim):
            super().__init__()
            self.optim,(self.backbone,_,self.head) = optim,mlp()
        def training_step(self, batch, i): return cross_entropy(self.head(self.backbone(batch[0]).relu()), batch[1])
        def configure_optimizers(self): return self.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=lr)
    def weights(optim):
        for n in stops:
            module,first = Digits(optim),mlp()[0].weight
            trainer = L.Trainer(max_epochs=n, accelerator='cpu', callbacks=[BackboneFinetuning(1, verbose=False)], logger=False, enable_checkpointing=False,
                                enable_progress_bar=False, enable_model_summary=False)
            trainer.fit(module, DataLoader(digits.train, bs), ckpt_path=tmp_path/'last.ckpt' if n>stops[0] else None)
            trainer.save_checkpoint(tmp_path/'last.ckpt')
            assert torch.equal(module.backbone.weight, first)==(n==1) and len(trainer.optimizers[0].param_groups)==min(n, 2)
        return SimpleNamespace(weights=torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert close(weights(genopt), weights(torch.optim))

def test_checkpoints_of_fastais_own_optimizers(digits, tmp_path):
    "Are resumed where the algorithm is the same, and refused where it is not"
    optimizer = pytest.importorskip('fastai.optimizer')
    theirs,ours = Maker(optimizer.Adam, eps=1e-6),Maker(genopt.AdamW)
    whole = run(fastai, theirs, digits, tmp_path/'whole')
    run(fastai, theirs, digits, tmp_path/'half', stop=half)
    assert close(run(fastai, ours, digits, tmp_path/'half', resume=True), whole)

    def saved(f, **kw):
        ps = [torch.ones(n, requires_grad=True) for n in (2, 3)]
        opt = f([[p] for p in ps], lr=[.1, .2], **kw)
        for p in ps: p.grad = torch.ones_like(p)
        opt.step()
        return ps,opt.state_dict()
    for f,cls,kw in (optimizer.SGD, genopt.SGD, dict(mom=.8)), (optimizer.Adam, genopt.AdamW, {}), (optimizer.RMSProp, genopt.RMSprop, {}):
        ps,state = saved(f, wd=0., **kw)
        opt = cls([[p] for p in ps], lr=1.)
        opt.load_state_dict(state)
        assert [g['lr'] for g in opt.param_groups]==[.1, .2] and all(h[k]==v for h in opt.hypers for k,v in kw.items())
        assert all(torch.equal(opt.state[p][k], v) for p,s in zip(ps, state['state']) for k,v in s.items() if torch.is_tensor(v))
    ps,state = saved(optimizer.RMSProp, mom=.9)
    opt = genopt.RMSprop([[p] for p in ps])
    with pytest.raises(ValueError, match="parameter 0: the state of fastai has grad_avg, and the callbacks keep sqr_avg, update_avg; load it into the algorithm that saved it"): opt.load_state_dict(state)
    with pytest.raises(ValueError, match="fastai's, of 2 parameters in 2 groups; the optimizer has 2 in 1"): genopt.Adam(ps).load_state_dict(state)
    assert not opt.state and opt.param_groups[0]['momentum']==0
