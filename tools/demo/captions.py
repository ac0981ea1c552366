"""Captions in a small grammar."""

from .concepts import name

OPENINGS = ("a photo of {}",) * 4 + (
    "{}",
    "a picture of {}",
    "an image of {}",
    "there is {}",
    "i can see {}",
    "a scene with {}",
)
JOINS = (" and ", " and ", " next to ", " near ", " with ", " beside ")
SINGLES = ("a photo of {}",) * 3 + (
    "{}",
    "a picture of {}",
    "an image of {}",
    "a {name}",
    "{name}",
    "a photo of a {name}",
)


def pick(rng, choices):
    return choices[rng.integers(len(choices))]


def joined(phrases):
    """All of `phrases`, at least one, as a list in words."""
    *others, last = phrases
    return ", ".join(others) + " and " + last if others else last


def caption(rng, phrases):
    """A caption that names all of `phrases`, at least one."""
    *others, last = phrases
    if not others:
        return single(rng, last)
    if len(others) > 1 and rng.random() < 0.5:
        text = joined(phrases)
    elif len(others) > 1:
        text = others[0] + pick(rng, JOINS) + joined(phrases[1:])
    else:
        text = others[0] + pick(rng, JOINS) + last
    return pick(rng, OPENINGS).format(text)


def single(rng, phrase):
    """A prompt for one concept. One template in three takes the bare name, as a user's own template does."""
    return pick(rng, SINGLES).format(phrase, name=name(phrase))
