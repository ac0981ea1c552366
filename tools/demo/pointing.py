"""Where the maps of present things lie, and how those of absent things look beside them, by `vitscope heatmap`."""

import numpy as np

from .measurement import METHODS, PROMPT, chance, judged
from .splits import generator

# They go through the model dozens of times.
SLOW = ("integrated-gradients", "smoothgrad")
ALL = (*METHODS, *SLOW)
LEVELS = (0.1, 0.25, 0.5, 0.75)


def measure(program, scenes, folder, concepts, sizes, slow_every, seed):
    """The report: every method's figures over `scenes`, which lie in `folder` as listed.

    Each scene is asked for its own objects, and for one concept that is not in it.
    """
    rng = generator(seed, "absent concepts")
    rows, absent, chances = {}, {}, []
    scores, opacity = ({"present": [], "absent": []} for _ in range(2))
    for number, scene in enumerate(scenes):
        named = {entry["concept"]: entry for entry in scene["objects"]}
        others = [concept for concept in concepts if concept.name not in named]
        missing = PROMPT.format(others[rng.integers(len(others))].phrase)
        prompts = [entry["prompt"] for entry in scene["objects"]]
        # Slow methods take some from the whole range, since the scenes come by number of objects.
        methods = [method for method in ALL if method not in SLOW or number % slow_every == 0]
        options = [word for method in methods for word in ("--method", method)]
        maps = program.heatmap([folder / scene["file"]], [*prompts, missing], *options)
        # The program spells out all options of a method, but keeps the order.
        by_text = {text: [one for one in maps if one.text == text] for text in (*prompts, missing)}
        for found in by_text.values():
            if [one.method.split(":")[0] for one in found] != [method.split(":")[0] for method in methods]:
                raise ValueError(f"asked for {methods}, got {[one.method for one in found]}")
        boxes = [entry["box"] for entry in scene["objects"]]
        chances += [chance(box, sizes.image, sizes.patch) for box in boxes]
        for prompt in prompts:
            scores["present"].append(by_text[prompt][0].score)
            opacity["present"].append(by_text[prompt][0].fade)
        opacity["absent"].append((by_text[missing][0].fade, min(by_text[prompt][0].fade for prompt in prompts)))
        scores["absent"].append((by_text[missing][0].score, min(by_text[prompt][0].score for prompt in prompts)))
        for i, method in enumerate(methods):
            peaks, drawn = [], []
            for prompt, box in zip(prompts, boxes):
                found = by_text[prompt][i]
                heat = found.heat
                hit, centre, inside, total = judged(heat, box, sizes.image, sizes.patch)
                rows.setdefault(method, []).append((hit, centre, inside / max(total, 1e-12)))
                peaks.append(float(heat.max()))
                drawn.append(peaks[-1] * found.fade)
            nothing = by_text[missing][i]
            peak = float(nothing.heat.max())
            absent.setdefault(method, []).append(
                (peak, min(peaks), np.mean(peaks), max(peaks))
                + (peak * nothing.fade, min(drawn), np.mean(drawn), max(drawn))
            )

    everything = asked_for_everything(program, scenes, folder, concepts)

    def beside(absent, lowest_present, mean_present, highest_present):
        return {
            "absent_below_every_present": float((absent < lowest_present).mean()),
            "absent_peak": float(np.median(absent / np.maximum(mean_present, 1e-12))),
            "absent_below_half_the_hottest": float((absent < highest_present / 2).mean()),
        }

    def line(method):
        hit, centre, energy = np.mean(rows[method], 0)
        raw, drawn = np.split(np.array(absent[method]).T, 2)
        return {
            "scenes": len(absent[method]),
            "objects": len(rows[method]),
            "hit": float(hit),
            "centre": float(centre),
            "energy": float(energy),
            **beside(*raw),
            "drawn": beside(*drawn),
        }

    hit, centre, energy = np.mean(chances, 0)
    nothing, lowest = np.array(scores["absent"]).T
    faded, faintest = np.array(opacity["absent"]).T
    shown = np.array(opacity["present"])
    return {
        "methods": {method: line(method) for method in ALL},
        "chance": {"hit": float(hit), "centre": float(centre), "energy": float(energy)},
        "scores": {
            "present": float(np.mean(scores["present"])),
            "absent": float(nothing.mean()),
            "absent_below_every_present": float((nothing < lowest).mean()),
        },
        "opacity": {
            "absent_below_every_present": float((faded < faintest).mean()),
            "absent_median": float(np.median(faded)),
            "absent_largest": float(faded.max()),
            "absent_at_least": {level: float((faded >= level).mean()) for level in LEVELS},
            "present_median": float(np.median(shown)),
            "present_5th_percentile": float(np.quantile(shown, 0.05)),
            "present_at_least": {level: float((shown >= level).mean()) for level in LEVELS},
        },
        "asked_for_everything": everything,
    }


def asked_for_everything(program, scenes, folder, concepts, at_a_time=25):
    """How much of what is there, and of what is not, is found when each scene is asked for all concepts at once."""
    prompts = {concept.name: PROMPT.format(concept.phrase) for concept in concepts}
    found = {}
    for start in range(0, len(scenes), at_a_time):
        images = [folder / scene["file"] for scene in scenes[start : start + at_a_time]]
        found |= program.found(images, list(prompts.values()))
    present = {scene["file"]: {entry["prompt"] for entry in scene["objects"]} for scene in scenes}
    there = sum(map(len, present.values()))
    return {
        "texts": len(prompts),
        "present": there,
        "present_found": sum(len(found[file] & present[file]) for file in present),
        "absent": len(scenes) * len(prompts) - there,
        "absent_found": sum(len(found[file] - present[file]) for file in present),
    }


def table(report):
    """The report in Markdown."""
    lines = [
        "| method | objects | pointing game | strict | energy in box | absent below present, drawn | raw "
        "| absent peak, drawn | raw |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method, row in report["methods"].items():
        lines.append(
            "| {} | {objects} | {hit:.1%} | {centre:.1%} | {energy:.1%} "
            "| {drawn[absent_below_every_present]:.1%} | {absent_below_every_present:.1%} "
            "| {drawn[absent_peak]:.2f} | {absent_peak:.2f} |".format(method, **row)
        )
    lines.append("| chance | | {hit:.1%} | {centre:.1%} | {energy:.1%} | | | | |".format(**report["chance"]))
    lines += [
        "",
        "Score: {present:.3f} for what is there, {absent:.3f} for what is not; the absent concept's is below that of "
        "every object of its scene in {absent_below_every_present:.1%} of the scenes.".format(**report["scores"]),
        "",
        "| opacity of the heat | median | at least 10 % | 25 % | 50 % | 75 % |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in ("present", "absent"):
        found = report["opacity"]
        shares = "".join(f" {found[f'{kind}_at_least'][level]:.1%} |" for level in LEVELS)
        lines.append(f"| {kind} | {found[f'{kind}_median']:.2f} |{shares}")
    lines += [
        "",
        "Found (opacity of 50 % or more) when asked for all {texts} at once: {present_found} of {present} things that "
        "are there, {absent_found} of {absent} that are not.".format(**report["asked_for_everything"]),
    ]
    return "\n".join(lines)
