"""The heatmap methods, from autograd. Each gives (B,Q,P) on the patch grid or (B,Q,R*R) on the pixel grid, raw.

Maths: Grad-ECLIP (ICML 2024), LeGrad (arXiv 2404.03214), Chefer et al. (ICCV 2021), Abnar and Zuidema (ACL 2020).
"""

import numpy as np
import torch

from .clip import gradients

DEFAULTS = {
    "grad-eclip": {"heads": "model"},
    "attention": {"layer": -1},
    "rollout": {"from": 0},
    "chefer": {"from": 0},
    "legrad": {"from": -2},
    "grad-cam": {},
    "gradient": {},
    "gradient-x-input": {},
    "integrated-gradients": {"steps": 50},
    "smoothgrad": {"sigma": None},
}


def parse_method(text):
    """`chefer:from=-1` -> ("chefer", {"from": -1})."""
    name, _, rest = text.partition(":")
    if name not in DEFAULTS:
        raise ValueError(f"method {name}: one of {', '.join(DEFAULTS)}")
    options = dict(DEFAULTS[name])
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        if key not in options:
            raise ValueError(f"method {text}: no option {key}")
        options[key] = value if name == "grad-eclip" else float(value) if key == "sigma" else int(value)
    if options.get("heads", "model") not in ("model", "single"):
        raise ValueError(f"method {text}: heads is model or single")
    if name == "smoothgrad" and options["sigma"] != 0:
        raise ValueError("the oracle knows smoothgrad with sigma=0 only: noise is not shared between programs")
    return name, options


def heatmap(text, job, trace):
    """Map of one method string. `job` (see request.Job) runs forwards and scores them; `trace` is its plain forward."""
    name, options = parse_method(text)
    return _METHODS[name](job, trace, **{k.replace("from", "start"): v for k, v in options.items()})


def _per_text(job, trace, tensors):
    """For each text: gradients of its score (summed over images, which do not mix) w.r.t. tensors."""
    score = job.score(trace)  # (B,Q)
    return [gradients(score[:, q].sum(), tensors) for q in range(score.shape[1])]


def _grad_eclip(job, trace, heads):
    latent = job.latent is not None
    last = job.layer if latent else len(trace.blocks) - 1
    if heads == "single":
        trace = job.forward(trace.pixels, single_head=last)
    block = trace.blocks[last]
    k, v = block.k[:, 1:], block.v[:, 1:]  # (B,P,D)
    q = block.q if latent else block.q[:, :1]  # (B,rows,D)
    kappa = torch.cosine_similarity(q[:, :, None], k[:, None], dim=-1)  # (B,rows,P)
    low, high = kappa.amin(-1, keepdim=True), kappa.amax(-1, keepdim=True)
    weight = (kappa - low) / (high - low)
    maps = []
    for (g,) in _per_text(job, trace, [block.attn]):
        g = g if latent else g[:, :1]  # (B,rows,D)
        maps.append((weight * (g @ v.transpose(1, 2))).sum(1).relu())
    return torch.stack(maps, 1)


def _attention(job, trace, layer):
    row = trace.blocks[_layer(trace, layer)].probs.mean(1)[:, 0, 1:]  # (B,P)
    return _repeat(job, trace, row)


def _rollout(job, trace, start):
    relevance = None
    for block in trace.blocks[_layer(trace, start) :]:
        a = block.probs.mean(1)
        a = a + torch.eye(a.shape[-1], dtype=a.dtype)
        a = a / a.sum(-1, keepdim=True)
        relevance = a if relevance is None else a @ relevance
    return _repeat(job, trace, relevance[:, 0, 1:])


def _chefer(job, trace, start):
    probs = [block.probs for block in trace.blocks[_layer(trace, start) :]]
    maps = []
    for grads in _per_text(job, trace, probs):
        size = probs[0].shape[-1]
        relevance = torch.eye(size, dtype=probs[0].dtype).expand(probs[0].shape[0], size, size)
        for p, dp in zip(probs, grads):
            relevance = relevance + (p * dp).relu().mean(1) @ relevance
        maps.append(relevance[:, 0, 1:])
    return torch.stack(maps, 1)


def _legrad(job, trace, start):
    if job.latent is not None:
        raise ValueError("legrad has a score of its own at every layer and cannot explain a latent")
    text = torch.nn.functional.normalize(job.text_embed, dim=-1)  # (Q,E)
    maps = 0
    for block in trace.blocks[_layer(trace, start) :]:
        embed = job.clip.embed_tokens(block.x_out.mean(1))  # (B,E)
        score = torch.nn.functional.normalize(embed, dim=-1) @ text.T  # (B,Q)
        layer = [gradients(score[:, q].sum(), [block.probs])[0].relu().mean((1, 2)) for q in range(len(text))]
        maps = maps + torch.stack(layer, 1)[..., 1:]
    return maps


def _grad_cam(job, trace):
    last = job.layer if job.latent is not None else len(trace.blocks) - 1
    x = trace.blocks[last].x_in
    maps = []
    for (g,) in _per_text(job, trace, [x]):
        alpha = g[:, 1:].mean(1, keepdim=True)  # (B,1,D)
        maps.append((alpha * x[:, 1:]).sum(-1).relu())
    return torch.stack(maps, 1)


def _gradient(job, trace, sigma=0):
    del sigma  # smoothgrad without noise is the gradient itself
    return torch.stack([g.abs().amax(1).flatten(1) for (g,) in _per_text(job, trace, [trace.pixels])], 1)


def _gradient_x_input(job, trace):
    return torch.stack([(trace.pixels * g).sum(1).flatten(1) for (g,) in _per_text(job, trace, [trace.pixels])], 1)


def _integrated_gradients(job, trace, steps):
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1,1]
    total = 0
    for node, weight in zip((nodes + 1) / 2, weights / 2):
        point = job.forward(trace.pixels.detach() * node)
        total = total + weight * torch.stack([g for (g,) in _per_text(job, point, [point.pixels])], 1)  # (B,Q,3,R,R)
    return (trace.pixels[:, None] * total).sum(2).flatten(2)


def _layer(trace, layer):
    count = len(trace.blocks)
    if not -count <= layer < count:
        raise ValueError(f"layer {layer} of {count}")
    return layer % count


def _repeat(job, trace, rows):
    """A map that no text changes, once for each text."""
    return rows[:, None].expand(-1, job.score(trace).shape[1], -1)


_METHODS = {
    "grad-eclip": _grad_eclip,
    "attention": _attention,
    "rollout": _rollout,
    "chefer": _chefer,
    "legrad": _legrad,
    "grad-cam": _grad_cam,
    "gradient": _gradient,
    "gradient-x-input": _gradient_x_input,
    "integrated-gradients": _integrated_gradients,
    "smoothgrad": _gradient,
}
