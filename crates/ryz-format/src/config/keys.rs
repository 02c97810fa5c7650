//! Which keys of an architecture are supported, which have no effect, and which have none only at
//! certain values.
//!
//! Keys in none of the lists are rejected, because ignoring an unknown key may compute a different
//! model.

/// The effect of a key `<architecture>.<name>` on the forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Key {
    /// Read into [`super::ModelConfig`].
    Read,
    /// No effect on the results.
    Harmless,
    /// Not implemented, but without effect at this value.
    Neutral(f32),
    /// In none of the lists.
    Unknown,
}

impl Key {
    /// The key of that name, without its architecture.
    pub(super) fn of(name: &str) -> Key {
        if READ.contains(&name) {
            return Key::Read;
        }
        if HARMLESS.contains(&name) {
            return Key::Harmless;
        }
        let neutral = NEUTRAL.iter().find(|(neutral, _)| *neutral == name);
        neutral.map_or(Key::Unknown, |&(_, value)| Key::Neutral(value))
    }
}

const READ: &[&str] = &[
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.scale",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "hidden_activation",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
    "vocab_size",
];

/// Training settings, tasks other than next-token prediction, or parameters of features whose own
/// key is rejected.
const HARMLESS: &[&str] = &[
    "attention.layer_norm_epsilon",
    "attention.sliding_window_pattern",
    "decoder_start_token_id",
    "expert_feed_forward_length",
    "expert_gating_func",
    "expert_shared_feed_forward_length",
    "expert_used_count",
    "expert_weights_norm",
    "expert_weights_scale",
    "interleave_moe_layer_step",
    "leading_dense_block_count",
    "pooling_type",
    "rope.freq_base_swa",
    "rope.scaling.finetuned",
    "tensor_data_layout",
];

const NEUTRAL: &[(&str, f32)] = &[
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.output_scale", 0.0),
    ("attention.shared_kv_layers", 0.0),
    ("attention.temperature_length", 0.0),
    ("attention.temperature_scale", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("embedding_scale", 1.0),
    ("expert_count", 0.0),
    ("expert_shared_count", 0.0),
    ("final_logit_softcapping", 0.0),
    ("logit_scale", 1.0),
    ("nextn_predict_layers", 0.0),
    ("residual_scale", 1.0),
    ("use_parallel_residual", 0.0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_one_list() {
        let neutral = NEUTRAL.iter().map(|(name, _)| name);
        let mut all: Vec<&str> = READ
            .iter()
            .chain(HARMLESS)
            .chain(neutral)
            .copied()
            .collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(Key::of("expert_count"), Key::Neutral(0.0));
        assert_eq!(Key::of("rope.scaling.alpha"), Key::Unknown);
    }
}
