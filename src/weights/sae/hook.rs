//! Names of places in a transformer, as SAE files write them.

use super::super::json_fields::Fields;
use super::{Hook, TokenScopeHint};
use crate::error::Result;

/// The index of the block in a name such as `blocks.22.hook_resid_post`, `vision_model.encoder.layers.22` or
/// `layers.22.mlp`, and what follows it.
fn block(name: &str) -> Option<(usize, Vec<&str>)> {
    let parts: Vec<&str> = name.split('.').collect();
    let stacks = ["blocks", "layers", "resblocks", "block", "layer", "h"];
    let at = parts
        .windows(2)
        .position(|pair| matches!(pair, [stack, i] if stacks.contains(stack) && i.parse::<usize>().is_ok()))?;
    Some((parts.get(at + 1)?.parse().ok()?, parts.get(at + 2..)?.to_vec()))
}

/// The block whose output a name means. TransformerLens' `hook_resid_pre` of block `i` is the output of block `i - 1`.
fn output(name: &str) -> Option<usize> {
    if name.split('.').any(|part| part.starts_with("text")) {
        return None;
    }
    match block(name)? {
        (i, rest) if rest.is_empty() || rest == ["hook_resid_post"] => Some(i),
        (i, rest) if rest == ["hook_resid_pre"] => i.checked_sub(1),
        _ => None,
    }
}

/// A hook by its name, with the token scope that `sections` (the configuration and its metadata) state.
pub(super) fn named(name: &str, sections: &[Fields<'_>]) -> Result<Hook> {
    Ok(Hook { layer: output(name), name: name.to_string(), tokens: tokens(sections)? })
}

/// The index of the block that a name mentions, whatever the place in it.
pub(super) fn block_index(name: &str) -> Option<usize> {
    block(name).map(|(i, _)| i)
}

/// ViT-Prisma's keys `cls_token_only` and `use_patches_only`; both false means all tokens.
fn tokens(sections: &[Fields<'_>]) -> Result<Option<TokenScopeHint>> {
    for section in sections {
        let hint = match (section.flag("cls_token_only")?, section.flag("use_patches_only")?) {
            (Some(true), Some(true)) => {
                return Err(section.wrong("cls_token_only", "and use_patches_only exclude each other"));
            }
            (Some(true), _) => TokenScopeHint::Cls,
            (_, Some(true)) => TokenScopeHint::Patches,
            (Some(false), Some(false)) => TokenScopeHint::All,
            _ => continue,
        };
        return Ok(Some(hint));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_block_outputs_have_a_layer() {
        for (name, layer) in [
            ("blocks.22.hook_resid_post", Some(22)),
            ("blocks.22.hook_resid_pre", Some(21)),
            ("blocks.0.hook_resid_pre", None),
            ("blocks.22.hook_mlp_out", None),
            ("layers.7", Some(7)),
            ("layers.7.mlp", None),
            ("vision_model.encoder.layers.22", Some(22)),
            ("visual.transformer.resblocks.3", Some(3)),
            ("text_model.encoder.layers.2", None),
            ("layers.x", None),
            ("mine", None),
        ] {
            assert_eq!(output(name), layer, "{name}");
        }
        assert_eq!(block_index("layers.7.mlp"), Some(7));
    }
}
