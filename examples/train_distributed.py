"""Train a small network on handwritten digits on several processes, with any algorithm, and resume on more or fewer processes.

    torchrun --nproc-per-node 2 examples/train_distributed.py --opt AdamW --shard            # FSDP2; without --shard DDP
    torchrun --nproc-per-node 4 examples/train_distributed.py --opt AdamW --shard --resume   # from the checkpoint of the two

Make the optimizer as for one process. `fully_shard` turns parameters, gradients and state into `DTensor`s. Elementwise algorithms work on the part
that each process has. Algorithms with norms (LAMB, clip_grad_norm) work on the whole, through DTensor."""

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
    torch.manual_seed(0)                                                     # the same weights on all processes
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 120), nn.LayerNorm(120), nn.ReLU(), nn.Linear(120, 10))

def sharded(model):
    for layer in model:
        if [*layer.parameters()]:
            fully_shard(layer)
    return fully_shard(model)

def batches(epoch, bs):
    "This process's part of each batch. All parts together are the batch that a single process would have"
    (x,y),_ = load_data('digits')
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
    for batch in order[:len(x)//bs*bs].split(bs):
        part = batch[dist.get_rank()::dist.get_world_size()]
        yield x[part],y[part]

def train_epoch(model, optim, batches, device):
    "Train for one epoch. Returns the fraction of right predictions over all processes"
    right = n = 0
    for x,y in batches:
        optim.zero_grad()
        pred = model(x.to(device))
        cross_entropy(pred, y.to(device)).backward()
        optim.step()
        right += (pred.argmax(1).cpu()==y).sum().item()
        n     += len(y)
    total = torch.tensor([right, n], dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return (total[0]/total[1]).item()

def state(model, optim, sched, epoch):
    weights,state = get_state_dict(model, optim)
    return dict(model=weights, optim=state, sched=sched.state_dict(), epoch=epoch)

def load(folder, model, optim, sched):
    "Load the last complete checkpoint. Returns the number of epochs that it has trained"
    saved = state(model, optim, sched, 0)
    last  = max(folder.glob('*/.metadata')).parent                           # `.metadata` is the last file to be written
    dcp.load(saved, checkpoint_id=last)
    set_state_dict(model, optim, model_state_dict=saved['model'], optim_state_dict=saved['optim'])
    sched.load_state_dict(saved['sched'])
    return saved['epoch']

@call_parse
def main(
    opt:str='AdamW',           # An algorithm of genopt, with settings as in "SGD(lr=0.1, momentum=0.9)"
    shard:bool=False,          # Shard the model (FSDP2) instead of copying it to each process (DDP)
    epochs:int=3,              # Passes over the data
    bs:int=64,                 # Batch size of all processes together
    checkpoint:Path='checkpoint', # The folder of the distributed checkpoints, one after each epoch
    resume:bool=False,         # Resume from the last complete checkpoint
    out:Path=None,             # Write the weights of the whole model to this file at the end
):
    "Train on as many processes as torchrun started"
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device=='cuda':
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    dist.init_process_group('nccl' if device=='cuda' else 'gloo')
    rank,world = dist.get_rank(),dist.get_world_size()
    model = network().to(device)
    model = sharded(model) if shard else DistributedDataParallel(model)
    optim = Spec(opt).ours(model.named_parameters())
    sched = torch.optim.lr_scheduler.ExponentialLR(optim, .8)
    start = load(checkpoint, model, optim, sched) if resume else 0
    for epoch in range(start, epochs):
        right = train_epoch(model, optim, batches(epoch, bs), device)
        sched.step()
        dcp.save(state(model, optim, sched, epoch+1), checkpoint_id=checkpoint/f'{epoch+1:04}')
        if rank==0:
            print(f"epoch {epoch}: {right:.4f} right, on {world} process{'es'*(world>1)}", flush=True)
    if out:
        weights = get_state_dict(model, optim)[0]
        whole   = {k: v.full_tensor() if hasattr(v, 'full_tensor') else v for k,v in weights.items()}      # all processes take part
        if rank==0:
            torch.save(whole, out)
    dist.barrier()                                                           # no process leaves while another still writes
    dist.destroy_process_group()
    time.sleep(1)                                                            # wait for gloo's threads, or Python aborts: pytorch#179291
