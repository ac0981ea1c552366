"""Timing: contestants for the same work are checked, then run by turns with a cold L2; medians.

Sizes: B images, T tokens, D width, H heads, M rows, N and K of a product, S latents.
"""

import statistics
import time
from dataclasses import dataclass

import torch

MIN_ROUNDS = 3
MAX_ROUNDS = 100


@dataclass
class Work:
    """What a case has to do at least: for TFLOP/s, GB/s and images/s. Nought: not said."""

    flop: float = 0
    bytes: float = 0
    images: float = 0


class Events:
    """Times on a GPU. Before each call a buffer of several times the L2 is overwritten; the host queues the call
    meanwhile, so that short calls are not limited by their launch."""

    def __init__(self):
        l2 = torch.cuda.get_device_properties(0).L2_cache_size
        self.flushed = max(8 * l2, 512 << 20)
        self.buffer = torch.empty(self.flushed, dtype=torch.int8, device="cuda")

    def run(self, calls):
        """Runs each call once; seconds of each."""
        pairs = []
        for call in calls:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.buffer.fill_(1)
            start.record()
            call()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pairs]


class HostClock:
    """The stand-in for a dry run without a GPU. Its numbers mean nothing."""

    flushed = 0

    def run(self, calls):
        seconds = []
        for call in calls:
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return seconds


class Bench:
    """What a section works with. `emit` takes a row, a dict; `tiny` asks for the smallest sizes."""

    def __init__(self, device, tiny, emit):
        self.device = torch.device(device)
        self.tiny = tiny
        self.emit = emit
        self.clock = Events() if device == "cuda" else HostClock()
        self.section = None
        self.deadline = 0.0

    def begin(self, section, seconds):
        self.section = section
        self.deadline = time.monotonic() + seconds

    def left(self):
        return self.deadline - time.monotonic()

    def random(self, *shape, dtype=torch.bfloat16, scale=1.0):
        """Normal values; never zeros, on which a GPU runs faster."""
        return torch.randn(*shape, device=self.device, dtype=dtype).mul_(scale)

    def compiled(self, function, mode=None):
        """torch.compile for these very shapes. The dry run traces, but generates no code."""
        if self.device.type == "cpu":
            return torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)
        return torch.compile(function, mode=mode, fullgraph=True, dynamic=False)

    def row(self, case, name, state, **more):
        # JSON has no NaN.
        more = {key: str(value) if value != value else value for key, value in more.items()}
        self.emit({"section": self.section, "case": case, "name": name, "state": state, **more})

    def compare(self, case, contestants, work, check=None, unchecked=(), seconds=0.6, needs=3.0):
        """Times `contestants`, {name: function that gives the call}, for one case, a string that says the shape.

        Building and the first call (with whatever is compiled then) are not timed. `check` takes the first result and
        gives (error, bound): a wrong contestant is not timed (those named in `unchecked` are not asked). One that fails
        is a row with its reason.
        `seconds` are spent on the rounds; `needs` is the least time left for which a contestant is begun.
        Returns {name: median seconds} of those timed.
        """
        ready = {}
        for name, build in contestants.items():
            if self.left() < needs:
                self.row(case, name, "skipped: out of time")
                continue
            start = time.monotonic()
            failure, call, error = self.prepare(build, check if name not in unchecked else None)
            if failure:
                self.row(case, name, failure, error=error)
                self.recover()
                continue
            ready[name] = (call, time.monotonic() - start, error)
        times = self.rounds(case, ready, seconds)
        medians = {}
        for name, (_, setup, error) in ready.items():
            if not times.get(name):
                continue
            middle = medians[name] = statistics.median(times[name])
            more = {"seconds_median": middle, "seconds_low": _quantile(times[name], 0.1)}
            more |= {"seconds_high": _quantile(times[name], 0.9), "runs": len(times[name])}
            more |= {"setup_seconds": round(setup, 2), "error": error}
            if work.flop:
                more["tflops"] = round(work.flop / middle / 1e12, 2)
            if work.bytes:
                more["gbs"] = round(work.bytes / middle / 1e9, 1)
            if work.images:
                more["images_per_s"] = round(work.images / middle, 1)
            self.row(case, name, "timed", **more)
        ready.clear()
        self.free()
        return medians

    def prepare(self, build, check):
        """Builds a contestant and runs it twice: (why it cannot be timed, its call, its error)."""
        error = None
        try:
            call = build()
            result = call()
            self.settle()
            if check is not None:
                error, bound = check(result)
                # NaN is wrong as well.
                if not error <= bound:
                    return f"wrong: error {error:.2e}, bound {bound:.0e}", None, error
            del result
            call()
            self.settle()
        # Whatever a peer raises, the others go on.
        except Exception as reason:
            return f"failed: {short(reason)}", None, error
        return None, call, error

    def rounds(self, case, ready, seconds):
        """Every contestant once a round, until the seconds are spent. {name: times}"""
        times = {name: [] for name in ready}
        start = time.monotonic()
        for number in range(MAX_ROUNDS if not self.tiny else MIN_ROUNDS):
            if number >= MIN_ROUNDS and time.monotonic() - start > seconds:
                break
            names, reason = list(ready), None
            try:
                for name, spent in zip(names, self.clock.run([ready[name][0] for name in names])):
                    times[name].append(spent)
            except Exception as raised:
                reason = short(raised)
            if reason:
                for name in names:
                    self.row(case, name, f"failed when timed: {reason}")
                self.recover()
                return {}
        return times

    def settle(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def free(self):
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def recover(self):
        """After a failure. Raises again when the device itself is lost: the worker then ends, and a new one goes on."""
        self.free()
        self.settle()


def quick_gelu(x):
    """x sigmoid(1.702 x), CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


def relative(result, reference):
    """|result - reference| / |reference|, in float64."""
    result, reference = result.detach().double(), reference.detach().double()
    return float((result - reference).norm() / reference.norm().clamp_min(1e-30))


def short(reason):
    """The first line of an exception."""
    lines = str(reason).strip().splitlines() or [""]
    return f"{type(reason).__name__}: {lines[0]}"[:200]


def _quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
