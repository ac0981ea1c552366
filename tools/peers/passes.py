"""A whole CLIP image tower: forward, forward and input gradient, Grad-ECLIP, Chefer; eager and compiled.

For each tower and pass every batch runs eagerly; then the pass is compiled for the batch that was the fastest, as long
as there is time.
"""

import contextlib

import torch
from torch.nn.attention import sdpa_kernel

from . import tower
from .attention import BACKENDS
from .bench import Work, relative

BATCHES = (115, 128, 64, 256, 32, 16)
# What compiling a tower takes, for each block, as a guess; what the last one took replaces it.
COMPILE_SECONDS = 2.0


class Passes:
    """One tower with its weights, and the fastest backend of attention for it."""

    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        self.shape = tower.TINY if bench.tiny else tower.SHAPES[name]
        self.wide = tower.Tower(self.shape, bench, torch.float32)
        self.tower = self.wide.to(torch.bfloat16)
        self.text = tower.unit(self.shape, bench, torch.bfloat16)
        self.batches = (2, 1) if bench.tiny else BATCHES
        self.backends = {"default choice": contextlib.nullcontext}
        self.backends |= {n: lambda b=b: sdpa_kernel(b) for n, b in BACKENDS.items() if n != "math"}
        self.backend = "default choice"
        self.needs = COMPILE_SECONDS * self.shape.layers
        self.first = {}

    def choose_backend(self):
        """The forward through each backend; the fastest is what every other pass runs with."""
        batch = self.batches[0]
        medians = self._compare("forward", batch, {f"eager, {name}": (None, name) for name in self.backends})
        if medians:
            best = min(medians, key=medians.get)
            self.backend = best.removeprefix("eager, ")
            self.first = {batch: batch / medians[best]}

    def eager(self, which):
        """{batch: images/s}"""
        rates = dict(self.first) if which == "forward" else {}
        for batch in self.batches:
            if batch not in rates:
                for median in self._compare(which, batch, {self._name("eager", which): (None, self.backend)}).values():
                    rates[batch] = batch / median
        return rates

    def compiled(self, which, rates, mode="default", count=1):
        for batch in sorted(rates, key=rates.get, reverse=True)[:count]:
            torch._dynamo.reset()
            self._compare(which, batch, {self._name(f"compiled {mode}", which): (mode, self.backend)})

    def _name(self, how, which):
        # Chefer needs the probabilities, which no backend gives.
        return how if which == "Chefer" else f"{how}, {self.backend}"

    def _compare(self, which, batch, how):
        """`how`: {name: (mode of torch.compile or None, backend)}"""
        shape, bench = self.shape, self.bench
        pixels = tower.pixels(shape, bench, batch, torch.bfloat16)
        reference = self._reference(which, pixels[:2].float())
        work = Work(flop=shape.flop() * batch if which == "forward" else 0, images=batch)
        compiles = any(mode for mode, _ in how.values())
        start = bench.left()
        medians = bench.compare(
            f"{self.name} {which} B={batch}",
            {name: lambda mode=mode, b=b: self._call(which, pixels, mode, b) for name, (mode, b) in how.items()},
            work,
            check=lambda result: (relative(result[:2], reference), _BOUND[which]),
            seconds=1.0,
            needs=self.needs if compiles else 3,
        )
        if compiles and medians:
            self.needs = 1.3 * (start - bench.left())
        return medians

    def _call(self, which, pixels, mode, backend):
        wrap = (lambda f: f) if mode is None else (lambda f: self.bench.compiled(f, mode))
        scope = self.backends[backend]
        methods = tower.Methods(self.tower, self.text, wrap)
        function = wrap(self.tower.forward) if which == "forward" else getattr(methods, _METHOD[which])

        def call():
            with torch.inference_mode() if which == "forward" else contextlib.nullcontext(), scope():
                return function(pixels)

        return call

    def _reference(self, which, pixels):
        """The same in float32, and for Chefer by its definition."""
        methods = tower.Methods(self.wide, self.text.float())
        if which == "forward":
            with torch.inference_mode():
                return self.wide.forward(pixels)
        if which == "Chefer":
            return methods.chefer_published(pixels)
        return getattr(methods, _METHOD[which])(pixels)


_METHOD = {"forward + input gradient": "gradient", "Grad-ECLIP": "grad_eclip", "Chefer": "chefer"}
# Of bf16 against float32 on random weights, in relative L2: far above rounding, far below another function.
_BOUND = {"forward": 0.05, "forward + input gradient": 0.1, "Grad-ECLIP": 0.1, "Chefer": 0.1}


def towers(bench):
    """ViT-L/14, all passes."""
    one = Passes(bench, "ViT-L/14")
    one.choose_backend()
    for which in ("forward", *_METHOD):
        one.compiled(which, one.eager(which))


def others(bench):
    """ViT-L/14@336, B/32 and B/16, all passes; compiled where that takes the least."""
    for name in ("ViT-L/14@336", "ViT-B/32", "ViT-B/16"):
        one = Passes(bench, name)
        one.choose_backend()
        rates = {which: one.eager(which) for which in ("forward", *_METHOD)}
        for which in ("forward", "forward + input gradient"):
            one.compiled(which, rates[which])


def autotuned(bench):
    """ViT-L/14 with max-autotune, which takes minutes to compile, and more batches of the default mode."""
    one = Passes(bench, "ViT-L/14")
    one.choose_backend()
    rates = {batch: -place for place, batch in enumerate(one.batches)}
    for which in ("forward", "forward + input gradient"):
        one.compiled(which, rates, mode="max-autotune-no-cudagraphs")
    one.compiled("forward", rates, count=3)
