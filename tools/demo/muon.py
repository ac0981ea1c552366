"""Muon: momentum whose direction is made orthogonal, for the matrices inside the blocks.

The method is Keller Jordan's (KellerJordan/Muon), the length of a step that of Liu et al., "Muon is scalable for LLM
training" (arXiv 2502.16982), so that one learning rate serves it and AdamW. Unlike `torch.optim.Muon` it takes all
matrices of one shape together: on a CPU that is several times faster for small ones.
"""

import torch

# The quintic a x + b x^3 + c x^5 whose iteration brings singular values near 1.
A, B, C = 3.4445, -4.775, 2.0315


def orthogonal(g):
    """Each matrix of g (N,R,C), R <= C, with its singular values brought near 1, in bfloat16."""
    x = g.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised. `params` are matrices."""

    def __init__(self, params, lr, weight_decay, momentum=0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                state = self.state[p]
                buffer = state.setdefault("momentum_buffer", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"])
                wide = update if p.shape[0] <= p.shape[1] else update.mT
                shapes.setdefault(wide.shape, []).append((p, wide))
            for shape, members in shapes.items():
                length = group["lr"] * 0.2 * max(shape) ** 0.5
                for (p, _), direction in zip(members, orthogonal(torch.stack([wide for _, wide in members]))):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(direction if p.shape == shape else direction.mT, alpha=length)
