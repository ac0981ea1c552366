"""Checks of the oracle itself on the committed models: finite differences in float64, and identities that must hold."""

from pathlib import Path

import torch

from . import tiny
from .committed import tokenize
from .methods import heatmap
from .request import Job, Request
from .sae import latent_gradient, make_splice

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "clip"
STEP = 1e-6
LIMIT = 1e-6  # relative error of a central difference


def run():
    """Prints one line for each check. Returns the exit code."""
    results = []

    def check(name, error, limit=LIMIT):
        error = float(error)
        results.append(error <= limit)
        print(f"{'ok  ' if error <= limit else 'FAIL'} {error:9.1e} <= {limit:.0e}  {name}")

    for splice in ("replace", "keep-error"):
        for through in ("exact", "detached", "straight"):
            for sae in (
                "sae_a1_relu",
                "sae_a1_topk_rescale",
                "sae_a1_topk_layer_norm",
                "sae_a1_relu_constant_norm",
                "sae_a1_gated",
            ):
                _splice_gradients(check, sae, splice, through)
    for score in ("cosine", "logit", "softmax", "latent:3"):
        _pixel_gradient(check, score)
    _identities(check)
    _no_ops(check)
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 5


def _job(model="tiny_a", sae=None, layer=1, **request):
    texts = tiny.TEXTS[:2]
    request = Request(texts=texts, sae=sae, layer=layer if sae else None, **request)
    return Job(
        request, FIXTURES / model, FIXTURES / sae if sae else None, tokenize(FIXTURES / model, texts), torch.float64
    )


def _pixels(model="tiny_a"):
    return tiny.make_pixels(tiny.MODELS[model], 1, 100)


def _direction(like, seed=5):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _compare(check, name, gradient, direction, along):
    """`along(t)` is the score after a step t in `direction`."""
    with torch.no_grad():
        difference = (along(STEP) - along(-STEP)) / (2 * STEP)
    expected = (gradient * direction).sum()
    check(name, abs(float(difference) - expected) / max(abs(expected), 1e-6))


def _splice_gradients(check, sae, splice, through):
    edits = ["zero:1", "scale:2=2.5", "set:3=4.0", "add:4=1.5"]
    job = _job(sae=sae, splice=splice, through=through, edits=edits)
    pixels = _pixels()
    values = job.tensors(pixels, deep=False)
    base = job.forward(pixels)
    x0, kept = base.blocks[1].x.detach(), base.sae
    sub = make_splice(job.sae, job.edits, "all", splice, "exact")
    y0 = sub(x0)[0]
    error0 = x0 - job.sae.decode(kept["z"].detach(), x0)

    def tail(hook):
        return job.score(job.clip.run(pixels, (1, lambda x: (hook(x), kept))))[0, 0]

    def moved_input(t):
        x = x0 + t * dx
        if through == "straight":
            return y0 + t * dx
        y, now = sub(x)
        if through == "detached" and splice == "keep-error":
            return job.sae.decode(now["z_edit"], x) + error0
        return y

    def moved_latents(t):
        z = kept["z_edit"].detach() + t * dz
        return job.sae.decode(z, x0) if splice == "replace" else x0 + job.sae.directions(z - kept["z"].detach(), x0)

    dx = _direction(x0)
    _compare(
        check,
        f"hook activation, {sae}, {splice}, {through}",
        values["d.sae.x_in"],
        dx,
        lambda t: tail(lambda _: moved_input(t)),
    )
    dz = _direction(kept["z"]) * kept["entries"]
    _compare(
        check, f"latents, {sae}, {splice}, {through}", values["d.sae.z"], dz, lambda t: tail(lambda _: moved_latents(t))
    )
    if through == "exact":
        score = job.score(base)[0, 0]
        (direct,) = torch.autograd.grad(score, base.sae["z_edit"])
        other = latent_gradient(job.sae, base.sae, values["d.block.1.x"])
        check(
            f"latent gradient two ways, {sae}, {splice}",
            ((direct * base.sae["entries"] - other).abs().max()).item(),
            1e-12,
        )


def _pixel_gradient(check, score):
    job = _job(sae="sae_a1_sparsify", score=score, edits=["scale:2=2.5"])
    pixels = _pixels().double()
    gradient = job.tensors(pixels, deep=False)["d.pixels"]
    direction = _direction(pixels)
    _compare(
        check, f"pixels, {score}", gradient, direction, lambda t: job.score(job.forward(pixels + t * direction))[0, 0]
    )


def _identities(check):
    job, pixels = _job("tiny_b"), _pixels("tiny_b")
    trace = job.forward(pixels)
    last = trace.blocks[-1]
    score = job.score(trace)[0, 0]
    (dp, g) = torch.autograd.grad(score, [last.probs, last.attn], retain_graph=True)
    chefer = heatmap("chefer:from=-1", job, trace)[0, 0].detach()
    check(
        "chefer of the last block is mean relu(P dP)",
        ((chefer - (last.probs * dp).relu().mean(1)[0, 0, 1:]).abs().max()).item(),
        1e-15,
    )
    check("CLS row of dP, two ways", ((dp[0, :, 0, 1:].sum(0) - last.v[0, 1:] @ g[0, 0]).abs().max()).item(), 1e-12)
    for index, block in enumerate(trace.blocks):
        check(f"rows of P sum to 1, block {index}", ((block.probs.sum(-1) - 1).abs().max()).item(), 1e-14)
    heads, dh = last.probs.shape[1], last.q.shape[-1] // last.probs.shape[1]
    q, k = (t.unflatten(-1, (heads, dh)).transpose(1, 2) for t in (last.q, last.k))
    again = (q @ k.transpose(-1, -2) * dh**-0.5 - last.lse[..., None]).exp()
    check("P from q, k and lse", ((again - last.probs).abs().max()).item(), 1e-14)
    rollout = heatmap("rollout", job, trace)[0, 0]
    product = torch.eye(rollout.shape[-1] + 1, dtype=torch.float64)
    for block in trace.blocks:
        product = (block.probs[0].mean(0) + torch.eye(len(product), dtype=torch.float64)) / 2 @ product
    check("rows of the rollout sum to 1", ((product.sum(-1) - 1).abs().max()).item(), 1e-14)
    check("rollout, two ways", ((product[0, 1:] - rollout).abs().max()).item(), 1e-15)
    ig = heatmap("integrated-gradients:steps=50", job, trace)[0, 0].sum()
    gap = ig - (score - job.score(job.forward(torch.zeros_like(pixels)))[0, 0])
    check("integrated gradients are complete", gap.abs().item(), 1e-3)
    attention = [layer.self_attn for layer in job.clip.layers]
    before = [(a.num_heads, a.head_dim, a.scale) for a in attention]
    for a in attention:
        a.num_heads, a.head_dim, a.scale = 1, a.embed_dim, a.embed_dim**-0.5
    trace = job.forward(pixels)
    both = [heatmap(f"grad-eclip:heads={heads}", job, trace) for heads in ("model", "single")]
    for a, old in zip(attention, before):
        a.num_heads, a.head_dim, a.scale = old
    check("one-head model: heads=single is heads=model", ((both[0] - both[1]).abs().max()).item(), 0.0)


def _no_ops(check):
    pixels = _pixels()
    plain = _job().forward(pixels).embed
    keep = _job(sae="sae_a1_sparsify", splice="keep-error").forward(pixels).embed
    check("keep-error without edits changes nothing", ((plain - keep).abs().max()).item(), 0.0)
    bare = _job(sae="sae_a2_sparsify", layer=2, tokens="patches").forward(pixels).embed
    check("patches of the last block do not reach the score", ((plain - bare).abs().max()).item(), 0.0)
    job = _job(sae="sae_a1_sparsify")
    silent = [i for i, z in enumerate(job.forward(pixels).sae["z"].sum((0, 1)).tolist()) if z == 0][0]
    base = job.forward(pixels).embed
    zeroed = _job(sae="sae_a1_sparsify", edits=[f"zero:{silent}", "scale:1=1.0"]).forward(pixels).embed
    check("zeroing a silent latent, scaling by 1", ((base - zeroed).abs().max()).item(), 0.0)
