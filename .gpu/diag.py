import sys, time, json, torch
t0=time.perf_counter()
import timm
t1=time.perf_counter()
torch.cuda.init(); torch.zeros(1,device="cuda"); torch.cuda.synchronize()
t2=time.perf_counter()
mode=sys.argv[1]
print(mode,"import timm",round(t1-t0,2),"cuda init",round(t2-t1,2))
name=sys.argv[2] if len(sys.argv)>2 else "efficientnet_b0"
m=timm.create_model(name,num_classes=2,in_chans=1)
fmt=torch.contiguous_format if "nchw" in mode else torch.channels_last
m=m.to("cuda",memory_format=fmt)
x=torch.rand(32,1,64,64,device="cuda").contiguous(memory_format=fmt)
dt=torch.float16 if "fp16" in mode else torch.bfloat16
if "native" in mode:
    from torch import nn
    for p in m.modules():
        if isinstance(p,nn.Conv2d) and p.groups>1:
            own=p.forward
            def f(x,own=own):
                with torch.backends.cudnn.flags(enabled=False): return own(x)
            p.forward=f
per={}
if "layers" in mode:
    from torch import nn
    def pre(mod,inp): torch.cuda.synchronize(); mod._t=time.perf_counter()
    def post(mod,inp,out):
        torch.cuda.synchronize(); k=("dw" if isinstance(mod,nn.Conv2d) and mod.groups>1 else type(mod).__name__); per[k]=per.get(k,0)+time.perf_counter()-mod._t
    for p in m.modules():
        if not list(p.children()): p.register_forward_pre_hook(pre); p.register_forward_hook(post)
def step():
    s=time.perf_counter()
    with torch.autocast("cuda",dtype=dt,cache_enabled=False,enabled="fp32" not in mode): o=m(x)
    torch.cuda.synchronize(); f=time.perf_counter()-s
    s=time.perf_counter(); o.float().sum().backward(); torch.cuda.synchronize(); b=time.perf_counter()-s
    return round(f,3),round(b,3)
for i in range(3): print(mode,"step",i,"fwd,bwd",step())
if per: print({k:round(v,2) for k,v in sorted(per.items(),key=lambda kv:-kv[1])[:8]})
m.eval()
with torch.inference_mode(), torch.autocast("cuda",dtype=dt):
    for b in (160,1,32):
        s=time.perf_counter(); m(torch.rand(b,1,64,64,device="cuda").contiguous(memory_format=fmt)); torch.cuda.synchronize(); print(mode,"eval",b,round(time.perf_counter()-s,3))
# steady state
m.train()
for _ in range(5): step()
s=time.perf_counter()
for _ in range(20): step()
print(mode,"eager ms/step",round((time.perf_counter()-s)/20*1000,2))
