//! Hugging Face's tensor names as GGUF's, which are the names inside the engine.

/// GGUF's name, or `None` for a name that is not one of the architectures' (it is kept as it is and refused later).
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
    // As a number is written, so that two names cannot become one.
    let number: u32 = layer
        .parse()
        .ok()
        .filter(|number: &u32| number.to_string() == layer)?;
    let (module, kind) = rest.rsplit_once('.')?;
    let module = match module {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.attn_sub_norm" => "attn_sub_norm",
        "mlp.ffn_sub_norm" => "ffn_sub_norm",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        _ => return None,
    };
    let kind = match kind {
        "weight" | "bias" => kind,
        "weight_scale" => "scale",
        _ => return None,
    };
    Some(format!("blk.{number}.{module}.{kind}"))
}

/// Whether nothing reads the tensor: tables that old checkpoints hold.
pub(super) fn is_unused(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

/// Whether a name (GGUF's) is that of a linear layer's weights, which may be packed.
pub(super) fn is_linear(name: &str) -> bool {
    let Some(("blk", rest)) = name.split_once('.') else {
        return false;
    };
    let module = rest
        .split_once('.')
        .and_then(|(_, module)| module.strip_suffix(".weight"));
    matches!(
        module,
        Some("attn_q" | "attn_k" | "attn_v" | "attn_output" | "ffn_gate" | "ffn_up" | "ffn_down")
    )
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
