"""Train a small network on handwritten digits on several processes, with any algorithm, and go on later on more of them or fewer.

    torchrun --nproc-per-node 2 examples/train_distributed.py --opt AdamW --shard            # FSDP2; without --shard DDP
    torchrun --nproc-per-node 4 examples/train_distributed.py --opt AdamW --shard --resume   # from the checkpoint of the two

The optimizer is made as for one process. With `fully_shard` its parameters, gradients and state are `DTensor`s: elementwise algorithms work on
the part that each process has, those with norms (LAMB, clip_grad_norm) on the whole, through DTensor."""

import os,time
from pathlib import Path
from fastcore.script import call_parse
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict,set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from genopt.tools.compare import Spec
from genopt.tools.data import load_data


def network():
    torch.manual_seed(0)                                                     # the same on all processes
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 120), nn.LayerNorm(120), nn.ReLU(), nn.Linear(120, 10))

def sharded(model):
    for layer in model:
        if [*layer.parameters()]: fully_shard(layer)
    return fully_shard(model)

def batches(epoch, bs, rank, world):
    "This process's part of each batch; all of them together are the batch that one process would have"
    (x,y),_ = load_data('digits')
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
    for b in order[:len(x)//bs*bs].split(bs): yield x[b[rank::world]],y[b[rank::world]]

@call_parse
def main(
    opt:str='AdamW',           # An algorithm of genopt, with settings as in "SGD(lr=0.1, momentum=0.9)"
    shard:bool=False,          # Shard the model (FSDP2) instead of copying it to all (DDP)
    epochs:int=3,              # Passes over the data
    bs:int=64,                 # Batch size of all processes together
    checkpoint:Path='checkpoint', # The folder of the distributed checkpoints, one after each epoch
    resume:bool=False,         # Go on from the last that is whole
    out:Path=None,             # Write the whole model's weights to this file at the end
):
    "Train on as many processes as torchrun started"
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device=='cuda': torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    dist.init_process_group('nccl' if device=='cuda' else 'gloo')
    rank,world = dist.get_rank(),dist.get_world_size()
    model = network().to(device)
    model = sharded(model) if shard else DistributedDataParallel(model)
    optim = Spec(opt).ours(model.named_parameters())
    sched = torch.optim.lr_scheduler.ExponentialLR(optim, .8)
    start = 0
    if resume:
        weights,state = get_state_dict(model, optim)
        saved = dict(model=weights, optim=state, sched=sched.state_dict(), epoch=0)
        dcp.load(saved, checkpoint_id=max(checkpoint.glob('*/.metadata')).parent)           # which is written last of all
        set_state_dict(model, optim, model_state_dict=saved['model'], optim_state_dict=saved['optim'])
        sched.load_state_dict(saved['sched'])
        start = saved['epoch']
    for epoch in range(start, epochs):
        right = n = 0
        for x,y in batches(epoch, bs, rank, world):
            optim.zero_grad()
            pred = model(x.to(device))
            cross_entropy(pred, y.to(device)).backward()
            optim.step()
            right,n = right+(pred.argmax(1).cpu()==y).sum().item(),n+len(y)
        total = torch.tensor([right, n], dtype=torch.float64, device=device)
        dist.all_reduce(total)
        sched.step()
        weights,state = get_state_dict(model, optim)
        dcp.save(dict(model=weights, optim=state, sched=sched.state_dict(), epoch=epoch+1), checkpoint_id=checkpoint/f'{epoch+1:04}')
        if rank==0: print(f"epoch {epoch}: {total[0]/total[1]:.4f} right, on {world} process{'es'*(world>1)}", flush=True)
    if out:
        whole = {k: getattr(v, 'full_tensor', lambda v=v: v)() for k,v in get_state_dict(model, optim)[0].items()}
        if rank==0: torch.save(whole, out)
    dist.barrier()                                                           # nobody leaves while another still writes
    dist.destroy_process_group()
    time.sleep(1)                                                            # gloo's threads end their work, or Python aborts: pytorch#179291
