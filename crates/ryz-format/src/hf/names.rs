//! Maps Hugging Face's tensor names to GGUF's, which the engine uses internally.

/// The linear layers of a block, by their paths in the checkpoint.
const LINEAR: [(&str, &str); 7] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The linear layers of a block: path in the checkpoint and GGUF's name.
pub(crate) fn linear_modules() -> impl Iterator<Item = (&'static str, &'static str)> {
    LINEAR.into_iter()
}

/// GGUF's name, or `None` for an unknown name (which is kept unchanged and rejected later).
pub(super) fn to_gguf(name: &str) -> Option<String> {
    let name = name.strip_prefix("model.").unwrap_or(name);
    let global = match name {
        "embed_tokens.weight" => "token_embd.weight",
        "norm.weight" => "output_norm.weight",
        "lm_head.weight" => "output.weight",
        _ => "",
    };
    if !global.is_empty() {
        return Some(global.to_owned());
    }
    let (layer, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    // Only in canonical form, so that two names cannot map to one.
    let number: u32 = layer
        .parse()
        .ok()
        .filter(|number: &u32| number.to_string() == layer)?;
    let (module, kind) = rest.rsplit_once('.')?;
    let linear = LINEAR.iter().find(|(path, _)| *path == module);
    let module = match (linear, module) {
        (Some((_, name)), _) => *name,
        (_, "input_layernorm") => "attn_norm",
        (_, "post_attention_layernorm") => "ffn_norm",
        // The alternative names are 1bitLLM's.
        (_, "self_attn.attn_sub_norm" | "self_attn.inner_attn_ln") => "attn_sub_norm",
        (_, "mlp.ffn_sub_norm" | "mlp.ffn_layernorm") => "ffn_sub_norm",
        (_, "self_attn.q_norm") => "attn_q_norm",
        (_, "self_attn.k_norm") => "attn_k_norm",
        _ => return None,
    };
    let kind = match kind {
        "weight" | "bias" => kind,
        "weight_scale" => "scale",
        _ => return None,
    };
    Some(format!("blk.{number}.{module}.{kind}"))
}

/// Whether the tensor is unused: tables in old checkpoints.
pub(super) fn is_unused(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

/// Whether a GGUF name is that of a linear layer's weights, which may be packed.
pub(super) fn is_linear(name: &str) -> bool {
    let Some(("blk", rest)) = name.split_once('.') else {
        return false;
    };
    let module = rest
        .split_once('.')
        .and_then(|(_, module)| module.strip_suffix(".weight"));
    module.is_some_and(|module| LINEAR.iter().any(|(_, name)| *name == module))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let to = |name| to_gguf(name).unwrap_or_default();
        assert_eq!(
            to("model.layers.12.self_attn.o_proj.weight_scale"),
            "blk.12.attn_output.scale"
        );
        assert_eq!(
            to("layers.0.mlp.ffn_sub_norm.weight"),
            "blk.0.ffn_sub_norm.weight"
        );
        assert_eq!(to("lm_head.weight"), "output.weight");
        for other in [
            "model.layers.01.input_layernorm.weight",
            "model.layers.+1.input_layernorm.weight",
            "x",
            "",
        ] {
            assert_eq!(to_gguf(other), None, "{other}");
        }
        assert!(
            is_linear("blk.3.ffn_up.weight")
                && !is_linear("blk.3.ffn_up.scale")
                && !is_linear("blk.3.ffn_norm.weight")
        );
    }
}
