"""The committed models and SAEs: small, random, but shaped like trained ones. Everything follows from the seeds here.

Weights are values that bfloat16 holds exactly, so every precision starts from the same numbers.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from .clip import Clip
from .fixtures import bf16, write_safetensors

CONTEXT = 16
TEXTS = ["a photo of a cat", "two dogs in the snow", "a red car", "the sea at night"]

_CORPUS = TEXTS + [
    "a photo of a dog", "a drawing of a small house", "a black and white cat on a chair", "the cat sat on the mat",
    "a man riding a horse on the beach", "a woman with a red hat", "children playing in the park", "a bowl of fruit",
    "a plane in the blue sky", "a train at the station", "the old town in the rain", "a bird on a branch",
    "a close up photo of a flower", "a bad photo of the street", "a bright photo of the city", "an orange and a lemon",
    "green trees along the river", "a ship on the open sea", "snow on the mountain", "a glass of water on the table",
    "people walking in the street", "a photo of the moon at night", "a sketch of a lion", "an elephant and its child",
    "a boat, a bridge and a tower", "it's the best day of the year!", "they're cooking dinner",
    "what does a model see?",
    "a painting of a king and a queen", "a stone wall; an iron gate", "seven clocks, eight bells, 1234567890",
]  # fmt: skip


@dataclass
class Model:
    """Dimensions of a tiny CLIP."""

    name: str
    seed: int
    vision: dict
    text: dict
    embed: int
    dtype: torch.dtype
    outliers: tuple = ()  # residual channels about fifty times larger than the others
    terse: bool = False  # config.json without the keys that equal the class's default


MODELS = {
    # The old EOS rule (eos_token_id 2: the largest id wins), head size 16, quick_gelu, outliers as in trained CLIP; its
    # config.json leaves out whatever is the class's default, as old ones do.
    "tiny_a": Model(
        "tiny_a",
        seed=11,
        vision=dict(
            hidden_size=48, num_attention_heads=3, num_hidden_layers=3, intermediate_size=192,
            patch_size=8, image_size=32,
        ),
        text=dict(
            hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=128,
            eos_token_id=2, bos_token_id=0, pad_token_id=1,
        ),
        embed=24,
        dtype=torch.float16,
        outliers=(5, 29),
        terse=True,
    ),
    # The new EOS rule with an id that is not the largest, head size 20, an odd MLP width, erf gelu, another epsilon.
    "tiny_b": Model(
        "tiny_b",
        seed=12,
        vision=dict(
            hidden_size=80, num_attention_heads=4, num_hidden_layers=4, intermediate_size=132,
            patch_size=7, image_size=42, hidden_act="gelu", layer_norm_eps=1e-6,
        ),
        text=dict(
            hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=60,
            eos_token_id=1, bos_token_id=0, pad_token_id=1, hidden_act="gelu", layer_norm_eps=1e-6,
        ),
        embed=20,
        dtype=torch.bfloat16,
    ),
    # tanh gelu in both towers, head sizes 12 and 10, a narrow MLP.
    "tiny_c": Model(
        "tiny_c",
        seed=13,
        vision=dict(
            hidden_size=36, num_attention_heads=3, num_hidden_layers=2, intermediate_size=90,
            patch_size=6, image_size=24, hidden_act="gelu_pytorch_tanh",
        ),
        text=dict(
            hidden_size=20, num_attention_heads=2, num_hidden_layers=1, intermediate_size=50,
            eos_token_id=1, bos_token_id=0, pad_token_id=1, hidden_act="gelu_pytorch_tanh",
        ),
        embed=16,
        dtype=torch.bfloat16,
    ),
}  # fmt: skip


def build_model(spec, folder):
    """Writes a Hugging Face directory: config, weights, tokenizer, preprocessor."""
    config = CLIPConfig(
        vision_config=dict(spec.vision, projection_dim=spec.embed),
        text_config=dict(spec.text, vocab_size=512, max_position_embeddings=CONTEXT, projection_dim=spec.embed),
        projection_dim=spec.embed,
    )
    model = CLIPModel(config)
    generator = torch.Generator().manual_seed(spec.seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            mean, std = _spread(name, parameter)
            parameter.copy_(mean + std * torch.randn(parameter.shape, generator=generator))
        _add_outliers(model, spec.outliers)
        for parameter in model.parameters():
            parameter.copy_(bf16(parameter))
    model.to(spec.dtype).save_pretrained(folder)
    (Path(folder) / "generation_config.json").unlink(missing_ok=True)
    if spec.terse:
        _drop_defaults(Path(folder) / "config.json")
    build_tokenizer(spec.text["eos_token_id"] == 2).save_pretrained(folder)
    size = spec.vision["image_size"]
    CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
        folder
    )


def _drop_defaults(path):
    config = json.loads(path.read_text())
    for part, default in (("vision_config", CLIPVisionConfig()), ("text_config", CLIPTextConfig())):
        known = default.to_dict()
        config[part] = {k: v for k, v in config[part].items() if k == "model_type" or known.get(k) != v}
    path.write_text(json.dumps(config, indent=2) + "\n")


def _spread(name, parameter):
    """Mean and standard deviation of a random parameter."""
    fan_in = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 1.0
    if name == "logit_scale":
        return 4.6052, 0.0  # ln 100
    if "layer_norm" in name or "layrnorm" in name or "layernorm" in name:
        if "final" in name:
            # A large bias that all texts share keeps their embeddings near each other, as in trained models.
            return (0.2, 0.05) if name.endswith("weight") else (0.0, 1.5)
        return (1.0, 0.2) if name.endswith("weight") else (0.0, 0.2)
    weights = {"q_proj": 1.5, "k_proj": 1.5, "v_proj": 1.0, "out_proj": 0.7, "fc1": 1.2, "fc2": 0.8}
    biases = {"q_proj": 0.5, "k_proj": 0.5, "v_proj": 0.1, "out_proj": 0.1, "fc1": 0.3, "fc2": 0.1}
    for part, gain in weights.items():
        if part in name:
            return 0.0, biases[part] if name.endswith("bias") else gain * fan_in
    embeddings = {"class_embedding": 0.5, "position_embedding": 0.3, "token_embedding": 0.5}
    for part, gain in embeddings.items():
        if part in name:
            return 0.0, gain
    return 0.0, fan_in  # patch embedding, projections


def _add_outliers(model, channels):
    vision = model.vision_model
    norms = [n for layer in vision.encoder.layers for n in (layer.layer_norm1, layer.layer_norm2)] + [
        vision.post_layernorm
    ]
    for number, channel in enumerate(channels):
        vision.pre_layrnorm.weight[channel] = 6.0
        vision.pre_layrnorm.bias[channel] = (55.0, -40.0, 70.0)[number % 3]
    if channels:
        for norm in norms:
            norm.weight.mul_(6.0)
            norm.weight[list(channels)] = 0.1


def build_tokenizer(eos_last):
    """A CLIP tokenizer of 512 words. `eos_last`: the end token has the largest id; else 0 is start and 1 is end."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    letters = sorted("abcdefghijklmnopqrstuvwxyz0123456789!\"'(),-.:;?")
    words = letters + [letter + "</w>" for letter in letters]
    merges = _merges(510 - len(words))
    words += [left + right for left, right in merges]
    words += [f"<unused{i}>" for i in range(510 - len(words))]
    words = words + [start, end] if eos_last else [start, end] + words
    return CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=merges, model_max_length=CONTEXT)


def _merges(count):
    """Byte-pair merges of the corpus, ties in alphabetical order. (The trainer of the tokenizers package breaks ties by
    hash, another way in every run.)"""
    split = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    frequency = Counter(word for line in _CORPUS for word, _ in split.pre_tokenize_str(line.lower()))
    pieces = {word: list(word[:-1]) + [word[-1] + "</w>"] for word in frequency}
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for word, parts in pieces.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += frequency[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in pieces.values():
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def make_pixels(spec, count, seed):
    """Smooth random pictures with some noise, in normalised space (B,3,R,R)."""
    generator = torch.Generator().manual_seed(seed)
    size = spec.vision["image_size"]
    coarse = torch.randn((count, 3, 5, 5), generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    noise = torch.randn((count, 3, size, size), generator=generator, dtype=torch.float64)
    return bf16((0.9 * smooth + 0.3 * noise).clamp(-1.8, 2.2).float())


@dataclass
class SaeSpec:
    """A random SAE with the statistics of a trained one, written as its package writes it."""

    name: str
    model: str
    layer: int
    kind: str  # sparsify, and of SAELens: standard, standard-old (before version 6), topk, jumprelu, batchtopk, gated
    latents: int = 64
    k: int = 6
    norm: str = "none"
    rescale: bool = False
    subtract: bool = True
    dtype: torch.dtype = torch.bfloat16


def build_sae(spec, model_folder, folder, seed):
    """Writes one SAE directory. Its biases and scales are fitted to the activations of a few pictures."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    model = MODELS[spec.model]
    with torch.no_grad():
        x = (
            Clip(model_folder, torch.float64).run(make_pixels(model, 4, 999)).blocks[spec.layer].x.flatten(0, 1)
        )  # (N,D)
    x = x.detach()
    width, count = x.shape[-1], spec.latents
    if spec.norm == "layer_norm":
        x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
    elif spec.norm == "constant_norm_rescale":
        x = x * width**0.5 / x.norm(dim=-1, keepdim=True)
    b_dec = bf16(x.mean(0).float()).double()
    centred = x - b_dec
    examples = centred[torch.randint(len(x), (count,), generator=generator)]
    unit = torch.nn.functional.normalize
    rows = unit(unit(examples, dim=-1) + 0.8 * unit(normal(count, width), dim=-1), dim=-1)  # (S,D)
    spread = (centred @ rows.T).std()
    lengths = (0.4 * normal(count, 1)).exp() if spec.rescale else 1.0
    w_enc = (rows + 0.1 * normal(count, width) * width**-0.5) / spread / lengths  # pre-activations of about 1
    w_dec = rows * spread * 0.5 * lengths
    shift = 0.0 if spec.subtract else -(w_enc @ b_dec)  # what the encoder's bias must do where b_dec is not subtracted
    quiet = -0.8 + 0.3 * normal(count)  # a bias that leaves about a fifth of the latents firing

    if spec.kind == "sparsify":
        cfg = dict(activation="topk", expansion_factor=32, normalize_decoder=True, num_latents=count, k=spec.k,
                   multi_topk=False, skip_connection=False, transcode=False, d_in=width)  # fmt: skip
        tensors = {"encoder.weight": w_enc, "encoder.bias": 0.2 * normal(count), "W_dec": w_dec, "b_dec": b_dec}
        return _write_sae(folder, "sae.safetensors", cfg, tensors, spec.dtype)

    tensors = {"W_enc": w_enc.T, "W_dec": w_dec, "b_dec": b_dec}
    architecture = {"standard-old": "standard", "batchtopk": "jumprelu"}.get(spec.kind, spec.kind)
    hook = f"blocks.{spec.layer}.hook_resid_post"
    if spec.kind == "standard-old":
        cfg = dict(architecture=architecture, d_in=width, d_sae=count, activation_fn_str="relu",
                   apply_b_dec_to_input=spec.subtract, finetuning_scaling_factor=False, context_size=50,
                   model_name="clip", hook_name=hook, hook_layer=spec.layer, hook_head_index=None,
                   prepend_bos=False, dataset_path="none", normalize_activations=spec.norm,
                   dtype=str(spec.dtype), device="cpu", sae_lens_training_version="3.20.0")  # fmt: skip
    else:
        cfg = dict(d_in=width, d_sae=count, dtype=str(spec.dtype).removeprefix("torch."), device="cpu",
                   apply_b_dec_to_input=spec.subtract, normalize_activations=spec.norm, reshape_activations="none",
                   metadata=dict(sae_lens_version="6.54.12", sae_lens_training_version="6.54.12", hook_name=hook),
                   architecture=architecture)  # fmt: skip
    if spec.kind == "gated":
        tensors |= {"b_gate": quiet + shift, "b_mag": 0.4 + 0.2 * normal(count), "r_mag": 0.2 * normal(count)}
    elif spec.kind == "topk":
        cfg |= dict(k=spec.k, rescale_acts_by_decoder_norm=spec.rescale)
        tensors["b_enc"] = 0.2 * normal(count) + shift
    elif spec.kind == "jumprelu":
        tensors |= {"b_enc": 0.2 * normal(count) + shift, "threshold": 0.8 + 0.3 * normal(count).abs()}
    elif spec.kind == "batchtopk":
        tensors |= {
            "b_enc": 0.2 * normal(count) + shift,
            "threshold": torch.full((count,), 1.0625, dtype=torch.float64),
        }
    else:
        tensors["b_enc"] = quiet + shift
    return _write_sae(folder, "sae_weights.safetensors", cfg, tensors, spec.dtype)


def _write_sae(folder, file, cfg, tensors, dtype):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(cfg))
    write_safetensors(folder / file, {n: bf16(t.float()).to(dtype).contiguous() for n, t in tensors.items()}, None)
