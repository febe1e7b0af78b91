import sys; sys.path.insert(0,"tests")
import torch
from dataclasses import replace
from test_training import SHORT, make, train
from test_gpu import on_gpu
d,p=make()
cpu=train(d,p); flat=lambda f: torch.cat([q.detach().cpu().flatten() for q in f.module.parameters()])
for tf in (True,False):
    torch.backends.cudnn.allow_tf32=tf
    for steps in (1,5,30):
        c=train(d,p,replace(SHORT,steps=steps)); g=train(d,on_gpu(p),replace(SHORT,steps=steps))
        print("tf32",tf,"steps",steps,"max diff",(flat(c)-flat(g)).abs().max().item(), g.details)
