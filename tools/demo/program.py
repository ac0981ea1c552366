"""The program `vitscope` as the measurements call it."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch


@dataclass
class Map:
    """One line of results.jsonl with its maps, and those without the edits where there are edits."""

    image: str  # the file's name
    text: str
    method: str
    score: float
    heat: torch.Tensor  # (cells)
    fade: float  # the opacity that the heat is drawn with
    score_before: float | None = None
    heat_before: torch.Tensor | None = None


class Program:
    """The binary with the model that it explains."""

    def __init__(self, binary, model):
        self.binary, self.model = binary, model

    def run(self, *words):
        """Runs it and returns what it says on stdout."""
        done = subprocess.run([str(word) for word in (self.binary, *words)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(done.args)}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout

    def version(self):
        return self.run("--version").split()[1]

    def lines(self, out, images, texts, *options):
        """The lines of results.jsonl that `vitscope heatmap` writes to the folder `out`."""
        words = [word for text in texts for word in ("--text", text)]
        self.run("heatmap", "-q", "--format", "npy", "-o", out, "--model", self.model, *words, *options, *images)
        return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]

    def heatmap(self, images, texts, *options):
        """The maps of `vitscope heatmap`."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"

            def heat(entry):
                return torch.from_numpy(np.load(out / entry["map"])).flatten()

            maps = []
            for entry in self.lines(out, images, texts, *options):
                name = Path(entry["image"]).name
                one = Map(name, entry["text"], entry["method"], entry["score"], heat(entry), entry["fade"])
                if "baseline" in entry:
                    one.score_before, one.heat_before = entry["baseline"]["score"], heat(entry["baseline"])
                maps.append(one)
            return maps

    def found(self, images, texts):
        """Of each image, by its file's name, the texts that `vitscope heatmap` finds in it."""
        with tempfile.TemporaryDirectory() as folder:
            entries = self.lines(Path(folder) / "out", images, texts)
        found = {image.name: set() for image in images}
        for entry in entries:
            if entry["found"]:
                found[Path(entry["image"]).name].add(entry["text"])
        return found

    def features(self, image, texts, *options):
        """The latents that fire in an image: {latent: contributions to the texts' scores}."""
        words = [word for text in texts for word in ("--text", text)]
        out = self.run("features", "--json", "--top", 10**6, "--model", self.model, *words, *options, image)
        entries = map(json.loads, out.splitlines())
        return {entry["latent"]: np.array([entry["contribution"][text] for text in texts]) for entry in entries}
