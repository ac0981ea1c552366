"""The trained pair as a Hugging Face folder."""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPModel

from .model import MEAN, STD
from .tokenizer import EOT, SOT


def tower(state, prefix, blocks):
    """The blocks' tensors under transformers' names."""
    homes = dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), "self_attn.") | dict.fromkeys(
        ("fc1", "fc2"), "mlp."
    )
    out = {}
    for name, tensor in state.items():
        if name.startswith(blocks + "."):
            _, index, module, kind = name.split(".")
            out[f"{prefix}.encoder.layers.{index}.{homes.get(module, '')}{module}.{kind}"] = tensor
    return out


def tensors(model):
    """All tensors under transformers' names."""
    state, s = model.state_dict(), model.sizes
    names = {
        "logit_scale": "logit_scale",
        "class_embedding": "vision_model.embeddings.class_embedding",
        "position_embedding": "vision_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "text_position_embedding": "text_model.embeddings.position_embedding.weight",
        "visual_projection.weight": "visual_projection.weight",
        "text_projection.weight": "text_projection.weight",
    }
    for norm, home in (("pre_layrnorm", "vision"), ("post_layernorm", "vision"), ("final_layer_norm", "text")):
        names |= {f"{norm}.{kind}": f"{home}_model.{norm}.{kind}" for kind in ("weight", "bias")}
    out = {theirs: state[ours] for ours, theirs in names.items()}
    patch = state["patch_embedding.weight"].view(s.width, 3, s.patch, s.patch)
    out["vision_model.embeddings.patch_embedding.weight"] = patch
    out |= tower(state, "vision_model", "vision_layers")
    return out | tower(state, "text_model", "text_layers")


def configuration(sizes):
    """config.json."""
    shared = {
        "projection_dim": sizes.embedding,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
    }
    eot = sizes.vocabulary - 1
    text = {
        "model_type": "clip_text_model",
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.text_width,
        "intermediate_size": 4 * sizes.text_width,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": sizes.text_heads,
        "max_position_embeddings": sizes.context,
        "bos_token_id": eot - 1,
        "eos_token_id": eot,
        "pad_token_id": eot,
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": sizes.width,
        "intermediate_size": 4 * sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_channels": 3,
        "image_size": sizes.image,
        "patch_size": sizes.patch,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": sizes.embedding,
        "logit_scale_init_value": 2.6592,
        "torch_dtype": "float16",
        "text_config": text | shared,
        "vision_config": vision | shared,
    }


def preprocessing(sizes):
    """preprocessor_config.json."""
    side = sizes.image
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }


def write(folder, model, tokenizer):
    """Writes the pair with weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: tensor.detach().cpu().half().contiguous().clone() for name, tensor in tensors(model).items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    special = {"bos_token": SOT, "eos_token": EOT, "unk_token": EOT, "pad_token": EOT}
    documents = {
        "config.json": configuration(model.sizes),
        "preprocessor_config.json": preprocessing(model.sizes),
        "tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer", "model_max_length": model.sizes.context}
        | special,
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=1) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))


@torch.no_grad()
def check(folder, model, texts, pixels, prompts):
    """The largest differences of unit embeddings (image, text) between transformers on the written files and the
    trained model. `pixels` is (B,S,S,3) uint8, `texts` the encoder of training.

    Raises if transformers' tokenizer finds other ids.
    """
    model = model.cpu().eval()
    theirs = CLIPModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids, ends = texts.encode(prompts)
    padded = AutoTokenizer.from_pretrained(folder)(prompts, padding=True, return_tensors="pt")
    if not torch.equal(padded["input_ids"], ids):
        raise ValueError("transformers' tokenizer gives other ids")
    normalised = ((pixels.float() / 255 - model.mean) / model.deviation).permute(0, 3, 1, 2)
    out = theirs(input_ids=ids, pixel_values=normalised)
    image = F.normalize(model.project(model.tokens(pixels)[:, 0]), dim=-1)
    text = F.normalize(model.texts(ids, ends), dim=-1)
    return float((out.image_embeds - image).abs().max()), float((out.text_embeds - text).abs().max())
