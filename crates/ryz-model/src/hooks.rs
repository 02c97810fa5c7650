//! Points of the forward pass where a program can read or change values.
//!
//! A step without hooks is one parallel region. At a hooked point, the region ends, the hook runs
//! on the calling thread, and a new region continues.

use std::{fmt, ops::Range, str::FromStr};

use crate::ModelError;

/// A point of the pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookPoint {
    /// The embeddings (token, hidden), which the first layer reads.
    Embedding,
    /// The layer's attention output, before it is added to the residual stream (token, hidden).
    Attention(usize),
    /// The layer's feed-forward output, before it is added to the residual stream (token, hidden).
    FeedForward(usize),
    /// The hidden states after the final norm (output, hidden), which the head reads.
    FinalNorm,
    /// The logits (output, vocabulary).
    Logits,
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding.output"),
            Self::Attention(layer) => write!(f, "layers.{layer}.attention.output"),
            Self::FeedForward(layer) => write!(f, "layers.{layer}.ffn.output"),
            Self::FinalNorm => f.write_str("norm.output"),
            Self::Logits => f.write_str("logits"),
        }
    }
}

/// One or more points: the name of one, or `layers.*.attention.output` or `layers.*.ffn.output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookPattern {
    point: HookPoint,
    every_layer: bool,
}

impl HookPattern {
    /// Whether the pattern matches this point.
    pub fn matches(self, point: HookPoint) -> bool {
        use HookPoint::{Attention, FeedForward};
        match (self.point, point) {
            (Attention(_), Attention(_)) | (FeedForward(_), FeedForward(_)) if self.every_layer => {
                true
            }
            (own, other) => own == other,
        }
    }

    /// The layer that it names, if any.
    pub fn layer(self) -> Option<usize> {
        match self.point {
            HookPoint::Attention(layer) | HookPoint::FeedForward(layer) if !self.every_layer => {
                Some(layer)
            }
            _ => None,
        }
    }
}

impl FromStr for HookPattern {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || ModelError::UnknownHook {
            got: text.to_owned(),
        };
        let one = |point| HookPattern {
            point,
            every_layer: false,
        };
        match text {
            "embedding.output" => return Ok(one(HookPoint::Embedding)),
            "norm.output" => return Ok(one(HookPoint::FinalNorm)),
            "logits" => return Ok(one(HookPoint::Logits)),
            _ => {}
        }
        let rest = text.strip_prefix("layers.").ok_or_else(unknown)?;
        let (layer, place) = rest.split_once('.').ok_or_else(unknown)?;
        let every_layer = layer == "*";
        // No sign and no leading zero: each point has exactly one name.
        let is_number = layer.bytes().all(|byte| byte.is_ascii_digit())
            && (layer == "0" || !layer.starts_with('0'));
        let layer = match layer {
            "*" => 0,
            _ if is_number => layer.parse().map_err(|_| unknown())?,
            _ => return Err(unknown()),
        };
        let point = match place {
            "attention.output" => HookPoint::Attention(layer),
            "ffn.output" => HookPoint::FeedForward(layer),
            _ => return Err(unknown()),
        };
        Ok(HookPattern { point, every_layer })
    }
}

/// Callbacks at requested points, on the thread that called [`crate::Model::forward`].
pub trait Hooks {
    /// Whether to call the hook at this point.
    fn wants(&self, point: HookPoint) -> bool;

    /// May change `values`, the rows of one sequence of the batch, in row-major order with `cols`
    /// values each. `position` is the position of the first row in its sequence. Returning `false`
    /// ends the step early, like a cancel.
    fn call(
        &mut self,
        point: HookPoint,
        sequence: usize,
        position: usize,
        cols: usize,
        values: &mut [f32],
    ) -> bool;
}

/// The point after a stage. Stages are numbered in order: the embedding, each layer's attention and
/// feed-forward network, the final norm, the head.
pub(crate) fn stage_point(stage: usize, layers: usize) -> HookPoint {
    match stage {
        0 => HookPoint::Embedding,
        _ if stage == 2 * layers + 1 => HookPoint::FinalNorm,
        _ if stage == 2 * layers + 2 => HookPoint::Logits,
        _ if stage % 2 == 1 => HookPoint::Attention(stage / 2),
        _ => HookPoint::FeedForward(stage / 2 - 1),
    }
}

/// Number of stages of a model.
pub(crate) fn stages(layers: usize) -> usize {
    2 * layers + 3
}

/// The stretches between the points that `hooks` requests, in order.
pub(crate) fn regions(layers: usize, hooks: &dyn Hooks) -> Vec<Range<usize>> {
    let mut regions = Vec::new();
    let mut start = 0;
    for stage in 0..stages(layers) {
        if hooks.wants(stage_point(stage, layers)) || stage + 1 == stages(layers) {
            regions.push(start..stage + 1);
            start = stage + 1;
        }
    }
    regions
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // one range is intended
mod tests {
    use super::*;

    #[test]
    fn every_place_has_a_name_that_means_it_alone() {
        let layers = 3;
        let points: Vec<_> = (0..stages(layers))
            .map(|s| stage_point(s, layers))
            .collect();
        for (index, point) in points.iter().enumerate() {
            let pattern: HookPattern = point.to_string().parse().unwrap();
            let meant: Vec<_> = points.iter().map(|p| pattern.matches(*p)).collect();
            let expected: Vec<_> = (0..points.len()).map(|i| i == index).collect();
            assert_eq!(meant, expected, "{point}");
        }
        let every: HookPattern = "layers.*.ffn.output".parse().unwrap();
        assert_eq!(points.iter().filter(|p| every.matches(**p)).count(), layers);
        assert_eq!(every.layer(), None);
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "layers",
            "layers.x.ffn.output",
            "layers.-1.ffn.output",
            "layers.01.ffn.output",
            "layers..ffn.output",
            "layers.1.ffn",
            "logits.output",
        ] {
            let error = name.parse::<HookPattern>().unwrap_err();
            assert_eq!(error.code(), "INVALID_ARGUMENT", "{name}");
        }
    }

    struct Wants(&'static str);

    impl Hooks for Wants {
        fn wants(&self, point: HookPoint) -> bool {
            self.0.parse::<HookPattern>().unwrap().matches(point)
        }
        fn call(&mut self, _: HookPoint, _: usize, _: usize, _: usize, _: &mut [f32]) -> bool {
            true
        }
    }

    #[test]
    fn regions_end_where_a_hook_wants_to_be_called() {
        assert_eq!(regions(2, &Wants("logits")), [0..7]);
        assert_eq!(regions(2, &Wants("embedding.output")), [0..1, 1..7]);
        assert_eq!(
            regions(2, &Wants("layers.*.ffn.output")),
            [0..3, 3..5, 5..7]
        );
        assert_eq!(regions(2, &Wants("layers.7.ffn.output")), [0..7]);
    }
}
