"""What zeroing an object's latents does to it and to the object beside it, by `vitscope heatmap --edit`."""

import numpy as np

from .measurement import PROMPT, judged
from .splits import generator

METHOD = "grad-eclip"
ZEROED = 5


def draw_pairs(concepts, count, seed):
    """Pairs (A,B) of concept numbers; no concept is in two of them."""
    chosen = generator(seed, "pairs").choice(len(concepts), 2 * count, replace=False).tolist()
    return list(zip(chosen[:count], chosen[count:]))


def scenes_of(maker, pair, count):
    """`count` scenes with both of the pair."""
    found = []
    while len(found) < count:
        scene = maker.scene(pair)
        if len(scene.objects) == len(pair):
            found.append(scene)
    return found


def chosen_latents(program, images, prompts, contrast, options):
    """The latents that contribute most to A's score, summed over the images, and all others that fire. With `contrast`,
    what they contribute to B's score counts against them, times this number."""
    total = {}
    for image in images:
        for latent, contributions in program.features(image, prompts, *options).items():
            total[latent] = total.get(latent, 0.0) + contributions[0] - contrast * abs(contributions[1])
    ranked = sorted(total, key=lambda latent: -total[latent])
    return ranked[:ZEROED], ranked[ZEROED:]


def effect(program, scenes, folder, prompts, latents, sizes, options):
    """Of each scene, for A and B: score, heat in the object's box and hit, before and after; (scenes,2,3,2)."""
    edit = "zero:" + ",".join(map(str, latents))
    images = [folder / scene["file"] for scene in scenes]
    maps = program.heatmap(images, prompts, "--method", METHOD, *options, "--edit", edit)
    by_key = {(m.image, m.text): m for m in maps}
    rows = np.zeros((len(scenes), 2, 3, 2))
    for row, scene in zip(rows, scenes):
        for values, prompt in zip(row, prompts):
            one = by_key[scene["file"], prompt]
            box = next(entry["box"] for entry in scene["objects"] if entry["prompt"] == prompt)
            sides = ((one.score_before, one.heat_before), (one.score, one.heat))
            for when, (score, heat) in enumerate(sides):
                hit, _, inside, _ = judged(heat, box, sizes.image, sizes.patch)
                values[:, when] = score, inside, hit
    return rows


def measure(program, pairs, concepts, selection, measured, sizes, contrast, options, draws, seed):
    """The report. `selection` and `measured` hold for each pair a folder and the list of its scenes."""
    rng = generator(seed, "random latents")
    done = []
    for (a, b), (chosen_in, chosen_scenes), (folder, scenes) in zip(pairs, selection, measured):
        prompts = [PROMPT.format(concepts[i].phrase) for i in (a, b)]
        images = [chosen_in / scene["file"] for scene in chosen_scenes]
        latents, others = chosen_latents(program, images, prompts, contrast, options)
        kinds = {
            "zeroed": [latents],
            "random": [rng.choice(others, ZEROED, replace=False).tolist() for _ in range(draws)],
        }
        rows = {
            kind: np.concatenate([effect(program, scenes, folder, prompts, ids, sizes, options) for ids in sets])
            for kind, sets in kinds.items()
        }
        done.append((concepts[a].name, concepts[b].name, latents, rows))
    pooled = {kind: np.concatenate([rows[kind] for *_, rows in done]) for kind in ("zeroed", "random")}
    return {
        "all": {kind: figures(rows) for kind, rows in pooled.items()},
        "pairs": [
            {"a": a, "b": b, "latents": latents} | {kind: figures(values) for kind, values in rows.items()}
            for a, b, latents, rows in done
        ],
    }


def figures(rows):
    """Means over the scenes for A and B, before and after. `heat_left` is the ratio of the means of the heat."""
    out = {}
    for name, (score, heat, hit) in zip("ab", rows.mean(0)):
        out[name] = {
            "score": score.tolist(),
            "heat": heat.tolist(),
            "heat_left": float(heat[1] / heat[0]) if heat[0] > 0 else None,
            "hit": hit.tolist(),
        }
    return out


def table(report):
    """The report in Markdown."""
    lines = [
        "| zeroed | object | score | heat in its box | heat left | pointing game |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    labels = {"zeroed": f"the top {ZEROED} for A", "random": f"{ZEROED} random ones"}
    for kind, label in labels.items():
        for name in "ab":
            row = report["all"][kind][name]
            lines.append(
                f"| {label} | {name.upper()} | {row['score'][0]:.3f} → {row['score'][1]:.3f} "
                f"| {row['heat'][0]:.3g} → {row['heat'][1]:.3g} | {row['heat_left']:.0%} "
                f"| {row['hit'][0]:.1%} → {row['hit'][1]:.1%} |"
            )
    lines += ["", "| A (zeroed) | B | A: score | A: heat left | B: score | B: heat left |", "| --- " * 6 + "|"]
    for pair in report["pairs"]:
        a, b = pair["zeroed"]["a"], pair["zeroed"]["b"]
        sides = " | ".join(
            f"{side['score'][0]:.2f} → {side['score'][1]:.2f} | {side['heat_left'] or 0:.0%}" for side in (a, b)
        )
        lines.append(f"| {pair['a']} | {pair['b']} | {sides} |")
    return "\n".join(lines)
