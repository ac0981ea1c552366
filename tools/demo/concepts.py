"""The closed world of the demo model: what can be drawn, and how it is spoken of."""

from dataclasses import dataclass
from pathlib import Path

ARTICLES = ("a ", "an ", "the ")

# The text that stands for a place where no concept is. It is trained like a concept, but nothing is drawn for it.
BACKGROUND = "a background"


def name(phrase):
    """The phrase without its article: "a cat" is the concept "cat"."""
    return next((phrase[len(article) :] for article in ARTICLES if phrase.startswith(article)), phrase)


@dataclass(frozen=True)
class Concept:
    """Something that can be drawn."""

    phrase: str
    glyphs: str

    @property
    def name(self):
        return name(self.phrase)


def read():
    """The concepts of concepts.txt."""
    lines = (Path(__file__).parent / "concepts.txt").read_text(encoding="utf8").splitlines()
    concepts = [Concept(*line.split("\t")) for line in lines if not line.startswith("#")]
    if len({concept.name for concept in concepts}) != len(concepts):
        raise ValueError("concepts.txt names a concept twice")
    return concepts
