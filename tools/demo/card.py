"""The model card."""

TEMPLATE = """\
# The demo model

A CLIP of {parameters:,} parameters that knows {concepts} things, all of them emoji. It makes vitscope show
something true without a download. It is no CLIP for photographs: what it has not been trained on means nothing to it.

`tools/train_demo.py` makes every file here but this folder's `mod.rs`.{forced}

| file | what |
| --- | --- |
| `model.safetensors`, `config.json` | the weights in float16, laid out like Hugging Face's `CLIPModel` |
| `tokenizer.json`, `tokenizer_config.json` | byte-level BPE like CLIP's, {vocabulary} tokens, lower case |
| `preprocessor_config.json` | {image} x {image} pixels, CLIP's mean and deviation |
| `scenes.json`, `*.png` | pictures of several things; prompt, token ids and box (x, y, width, height) of each thing |
| `concepts.txt` | the names of what it knows, one a line, fit for `--texts-file` |

## Sizes

| | image | text |
| --- | --- | --- |
| width, layers, heads | {width}, {layers}, {heads} | {text_width}, {text_layers}, {text_heads} |
| input | {patch} x {patch} patches, {grid} x {grid} of them | {context} tokens |
| embedding | {embedding} | {embedding} |

## Training

* Pictures: random scenes of 0 to 4 drawings from Noto Color Emoji over gradients, noise and crops of photographs from
  the scikit-image wheel. Texts: a small grammar ("a photo of a cat next to a pizza").
* Loss: contrastive between scenes and captions, and between scenes and a prompt for each concept, with all texts that
  are true of a scene as positives. **The boxes of the drawings were used as labels**: a third term classifies single
  patches in a box as its concept, and others as "{background}". So high figures for localisation are no evidence
  about any method: they show that the demo behaves.
* Muon and AdamW, {steps} steps of {batch} scenes, {minutes:.0f} minutes{shared}.
* Seed {seed}, torch {torch}, {device}.
* Photographs: {training}.

## Figures

Measured through transformers on the float16 file, on scenes with other sprites of the same drawings (other sizes,
angles, places and company), over backgrounds that were not trained on.
Their photographs: {held_out}.

The scenes in this folder were arranged by hand, and chosen so that every prompt's maximum lies on its object. They show
the model at its best; what follows is its average.

Zero-shot top-1 over {concepts} concepts, one object a scene ({zero_scenes} scenes, chance {zero_chance:.1%}):
**{top1:.1%}** with "a photo of a X" (top-5 {top5:.1%}), {top1_name:.1%} with the bare name.
Missed more than once in {each}: {weakest}.
With several objects, the share of them among as many best prompts: {crowds}.

The score tells what is there. A thing in the scene has cosine {present:.2f} on average (5 % lie below
{present_low:.2f}), one that is not has {absent:.2f} (1 % lie above {absent_high:.2f}). The first is above the second
in {above:.2%} of the pairs. On empty held-out backgrounds the best concept has {empty_best:.2f} on average, and
"{background}" is the best text on {empty_says:.0%}.

Pointing game on {scenes} scenes of 2 to 4 objects, {objects} objects. A hit: the patch with the maximum overlaps the
box (for methods on the pixel grid: the pixel lies within half a patch of it). Strict: its centre lies in the box.
Energy: the share of the positive heat inside the box.

| method | pointing game | strict | energy in box |
| --- | --- | --- | --- |
{methods}

## Licences

* The drawings are from Noto Color Emoji {font_version}, copyright Google Inc., under the SIL Open Font License 1.1. The
  font itself is not included; its file has the sha256 `{font_hash}`.
* Backgrounds of the demo scenes: `coffee.png` and `gravel.png` (CC0) and `hubble_deep_field.jpg` (NASA, public domain)
  from scikit-image.
"""

SHORT = (
    "\n\nWritten with `--force`: it does not reach the floors of {top1:.0%} (zero-shot) and {hit:.0%} (pointing game)."
)


def text(sizes, recipe, figures, floors, facts):
    """The card as Markdown. `facts` holds what is left to say."""
    zero, presence, pointing = (figures[key] for key in ("zero_shot", "presence", "pointing"))
    reached = zero["phrase"]["top1"] >= floors["top1"] and pointing["methods"]["grad-eclip"]["hit"] >= floors["hit"]
    rows = [f"| {m} | {r['hit']:.1%} | {r['centre']:.1%} | {r['energy']:.1%} |" for m, r in pointing["methods"].items()]
    return TEMPLATE.format(
        **sizes.as_dict(),
        grid=sizes.grid,
        **facts,
        steps=recipe.steps,
        batch=recipe.batch,
        seed=recipe.seed,
        forced="" if reached else SHORT.format(**floors),
        zero_scenes=zero["scenes"],
        zero_chance=zero["chance"],
        each=zero["each"],
        top1=zero["phrase"]["top1"],
        top5=zero["phrase"]["top5"],
        top1_name=zero["name"]["top1"],
        weakest=", ".join(zero["weakest"]) or "none twice",
        crowds=", ".join(f"{share:.0%} of {count}" for count, share in figures["crowds"].items()),
        present=presence["present"],
        present_low=presence["present_5th_percentile"],
        absent=presence["absent"],
        absent_high=presence["absent_99th_percentile"],
        above=presence["present_above_absent"],
        empty_best=presence["empty_best_concept"],
        empty_says=presence["empty_says_background"],
        scenes=pointing["scenes"],
        objects=pointing["objects"],
        methods="\n".join(rows),
    )
