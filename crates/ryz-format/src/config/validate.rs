//! The limits on a model's dimensions and the rules between them.
//!
//! The limits are far above any existing model, and low enough that the product of any three fits
//! in 64 bits. A hostile header therefore fails here and never sizes a buffer.

use super::{ModelConfig, RopeScaling};
use crate::FormatError;

pub(super) const MAX_LAYERS: usize = 1 << 12;
pub(super) const MAX_HIDDEN: usize = 1 << 20;
pub(super) const MAX_INTERMEDIATE: usize = 1 << 22;
pub(super) const MAX_HEADS: usize = 1 << 13;
pub(super) const MAX_HEAD_DIM: usize = 1 << 14;
pub(super) const MAX_VOCAB: usize = 1 << 24;
pub(super) const MAX_CONTEXT: usize = 1 << 30;

/// The origin of each field, so that an error names the key used in the file.
pub(super) struct Keys<'a> {
    pub(super) name: &'a dyn Fn(&'static str) -> String,
}

impl Keys<'_> {
    fn bad(&self, field: &'static str, expected: String, got: impl ToString) -> FormatError {
        FormatError::KeyValue {
            key: (self.name)(field),
            expected,
            got: got.to_string(),
        }
    }

    fn within(&self, field: &'static str, value: usize, limit: usize) -> Result<(), FormatError> {
        if (1..=limit).contains(&value) {
            Ok(())
        } else {
            Err(self.bad(field, format!("1 to {limit}"), value))
        }
    }

    fn positive(&self, field: &'static str, value: f32) -> Result<(), FormatError> {
        if value.is_finite() && value > 0.0 {
            Ok(())
        } else {
            Err(self.bad(field, "a finite number above 0".to_owned(), value))
        }
    }
}

impl ModelConfig {
    /// Checks every field and the rules between them; `keys` maps a Hugging Face field name to the
    /// name in the file.
    pub(super) fn validate(&self, keys: &Keys<'_>) -> Result<(), FormatError> {
        keys.within("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS)?;
        keys.within("hidden_size", self.hidden_size, MAX_HIDDEN)?;
        keys.within(
            "intermediate_size",
            self.intermediate_size,
            MAX_INTERMEDIATE,
        )?;
        keys.within("num_attention_heads", self.num_attention_heads, MAX_HEADS)?;
        keys.within("num_key_value_heads", self.num_key_value_heads, MAX_HEADS)?;
        keys.within("head_dim", self.key_head_dim, MAX_HEAD_DIM)?;
        keys.within("value_head_dim", self.value_head_dim, MAX_HEAD_DIM)?;
        keys.within("vocab_size", self.vocab_size, MAX_VOCAB)?;
        keys.within(
            "max_position_embeddings",
            self.max_position_embeddings,
            MAX_CONTEXT,
        )?;
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            let expected = format!(
                "a divisor of the {} attention heads",
                self.num_attention_heads
            );
            return Err(keys.bad("num_key_value_heads", expected, self.num_key_value_heads));
        }
        for (field, dim) in [
            ("query_dim", self.query_dim()),
            ("attention_dim", self.attention_dim()),
        ] {
            keys.within(field, dim, MAX_HIDDEN)?;
        }
        if self.rope_dim == 0
            || !self.rope_dim.is_multiple_of(2)
            || self.rope_dim > self.key_head_dim
        {
            let expected = format!("an even number 2 to the head size {}", self.key_head_dim);
            return Err(keys.bad("rope_dim", expected, self.rope_dim));
        }
        if !self.rms_norm_eps.is_finite() || self.rms_norm_eps < 0.0 || self.rms_norm_eps > 1.0 {
            return Err(keys.bad(
                "rms_norm_eps",
                "a number 0 to 1".to_owned(),
                self.rms_norm_eps,
            ));
        }
        keys.positive("rope_theta", self.rope.theta)?;
        self.validate_scaling(keys)
    }

    fn validate_scaling(&self, keys: &Keys<'_>) -> Result<(), FormatError> {
        match self.rope.scaling {
            RopeScaling::None | RopeScaling::FreqFactors => Ok(()),
            RopeScaling::Linear { factor } => keys.positive("rope_scaling.factor", factor),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                keys.positive("rope_scaling.factor", factor)?;
                keys.positive("rope_scaling.low_freq_factor", low_freq_factor)?;
                keys.positive("rope_scaling.high_freq_factor", high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let expected = format!("more than low_freq_factor {low_freq_factor}");
                    return Err(keys.bad(
                        "rope_scaling.high_freq_factor",
                        expected,
                        high_freq_factor,
                    ));
                }
                keys.within(
                    "rope_scaling.original_max_position_embeddings",
                    original_context,
                    MAX_CONTEXT,
                )
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                attn_factor,
                beta_fast,
                beta_slow,
                ext_factor,
            } => {
                keys.positive("rope_scaling.factor", factor)?;
                keys.positive("rope_scaling.attention_factor", attn_factor)?;
                keys.positive("rope_scaling.beta_fast", beta_fast)?;
                keys.positive("rope_scaling.beta_slow", beta_slow)?;
                if !(0.0..=1.0).contains(&ext_factor) {
                    return Err(keys.bad(
                        "rope_scaling.ext_factor",
                        "0 to 1".to_owned(),
                        ext_factor,
                    ));
                }
                keys.within(
                    "rope_scaling.original_max_position_embeddings",
                    original_context,
                    MAX_CONTEXT,
                )
            }
        }
    }
}
