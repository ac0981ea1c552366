"""How well a written SAE rebuilds activations, whoever trained it: read and evaluated by the fixtures' oracle."""

import torch

from oracle.sae import Sae


@torch.no_grad()
def quality(folder, x, chunk=4096):
    """FVU (squared error over the squared distance from the mean of x), L0 and the share of latents that never fire,
    over the rows of x (n,D)."""
    sae, mean = Sae(folder, torch.float32), x.double().mean(0)
    error = spread = active = 0.0
    fired = torch.zeros(sae.w_dec.shape[0], dtype=torch.bool)
    for rows in x.split(chunk):
        z = sae.encode(rows)
        error += float((rows - sae.decode(z, rows)).double().square().sum())
        spread += float((rows.double() - mean).square().sum())
        active += float((z != 0).sum())
        fired |= (z != 0).any(0)
    return {"fvu": error / spread, "l0": active / len(x), "never_fired": float((~fired).float().mean())}
