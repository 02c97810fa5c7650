//! What a caller may ask of the sampler, its defaults, and what each option may be.

use serde::{Deserialize, Deserializer, de};

use crate::error::EngineError;

/// One step of the sampler chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerKind {
    /// Repetition, presence and frequency penalties.
    Penalties,
    /// "Don't repeat yourself": penalises the token that would extend a repeated run.
    Dry,
    /// Keeps the logits within n standard deviations of the largest.
    TopNSigma,
    /// Keeps the k largest.
    TopK,
    /// Locally typical sampling.
    Typical,
    /// Nucleus sampling.
    TopP,
    /// Keeps what is at least a share of the most probable.
    MinP,
    /// "Exclude top choices".
    Xtc,
    /// Divides by the temperature, fixed or dynamic.
    Temperature,
}

impl SamplerKind {
    /// The default order, llama.cpp's.
    pub const DEFAULT_ORDER: [Self; 9] = [
        Self::Penalties,
        Self::Dry,
        Self::TopNSigma,
        Self::TopK,
        Self::Typical,
        Self::TopP,
        Self::MinP,
        Self::Xtc,
        Self::Temperature,
    ];

    /// The public name, as `order` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Penalties => "penalties",
            Self::Dry => "dry",
            Self::TopNSigma => "top-n-sigma",
            Self::TopK => "top-k",
            Self::Typical => "typical",
            Self::TopP => "top-p",
            Self::MinP => "min-p",
            Self::Xtc => "xtc",
            Self::Temperature => "temperature",
        }
    }
}

impl std::fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Mirostat (Basu et al., 2021): steers the surprise of each token towards `tau` bits. It takes the place of the
/// truncating samplers (top-n-sigma to XTC); penalties, DRY and temperature still apply.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(try_from = "MirostatOptions")]
pub enum Mirostat {
    /// Off (the default).
    #[default]
    Off,
    /// Version 1: estimates the distribution's Zipf exponent from its 100 most probable tokens.
    V1 {
        /// Target surprise in bits; 5 is usual.
        tau: f32,
        /// Learning rate; 0.1 is usual.
        eta: f32,
    },
    /// Version 2: cuts at the surprise itself.
    V2 {
        /// Target surprise in bits; 5 is usual.
        tau: f32,
        /// Learning rate; 0.1 is usual.
        eta: f32,
    },
}

/// [`Mirostat`] as the option `mirostat` has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MirostatOptions {
    version: u32,
    tau: f32,
    eta: f32,
}

impl TryFrom<MirostatOptions> for Mirostat {
    type Error = EngineError;

    fn try_from(options: MirostatOptions) -> Result<Self, EngineError> {
        let MirostatOptions { version, tau, eta } = options;
        match version {
            1 => Ok(Self::V1 { tau, eta }),
            2 => Ok(Self::V2 { tau, eta }),
            _ => Err(EngineError::invalid("mirostat.version", "1 or 2", version)),
        }
    }
}

/// DRY: a token that would extend a run of n tokens that already occurred loses `multiplier * base^(n - allowed_length)`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DryParams {
    /// Strength; 0 (default) is off, 0.8 is usual.
    pub multiplier: f32,
    /// Growth for each further token; default 1.75.
    pub base: f32,
    /// Runs shorter than this are free; default 2.
    pub allowed_length: u32,
    /// How many of the last tokens are searched; `None` (default) is all of them.
    pub window: Option<u32>,
    /// Texts that no run may cross; default newline, colon, double quote, asterisk.
    pub sequence_breakers: Vec<String>,
}

impl Default for DryParams {
    fn default() -> Self {
        Self {
            multiplier: 0.0,
            base: 1.75,
            allowed_length: 2,
            window: None,
            sequence_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
        }
    }
}

/// How the next token is chosen. Temperature 0 is greedy: after bias, penalties and DRY the largest logit wins, the
/// lowest id among equals; nothing is truncated and nothing drawn.
///
/// Callers in other languages give the options by their names in camel case; one that is missing has its default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Default 0.8; 0 is greedy.
    pub temperature: f32,
    /// Dynamic temperature: the temperature moves within ± this much with the entropy. Default 0, off.
    pub dynamic_temperature_range: f32,
    /// Exponent of the normalised entropy for dynamic temperature. Default 1.
    pub dynamic_temperature_exponent: f32,
    /// Keep the k largest; default 40, 0 is off.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches this; default 0.95, 1 is off.
    pub top_p: f32,
    /// Drop what is less probable than this share of the most probable; default 0.05, 0 is off.
    pub min_p: f32,
    /// Keep logits within this many standard deviations of the largest; default 0, off.
    pub top_n_sigma: f32,
    /// Locally typical mass to keep; default 1, off.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in the window; default 1, off.
    pub repetition_penalty: f32,
    /// Subtracted once from tokens seen in the window; default 0, off.
    pub presence_penalty: f32,
    /// Subtracted for each occurrence in the window; default 0, off.
    pub frequency_penalty: f32,
    /// How many of the last tokens, prompt included, the three penalties look at; default 64, `None` is all.
    #[serde(deserialize_with = "zero_is_all")]
    pub penalty_window: Option<u32>,
    /// DRY; default off.
    pub dry: DryParams,
    /// Chance per token that XTC acts; default 0, off.
    pub xtc_probability: f32,
    /// XTC drops every token at least this probable but the least probable of them; default 0.1, above 0.5 is off.
    pub xtc_threshold: f32,
    /// Added to the logits of these ids before anything else; negative infinity bans an id. Default empty.
    #[serde(skip)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Default off.
    pub mirostat: Mirostat,
    /// No end-of-generation or stop token before this many tokens; default 0.
    pub min_tokens: u32,
    /// Never choose an end-of-generation token; default false.
    pub ignore_eos: bool,
    /// Which samplers run, in which order; one that is missing is off. Default [`SamplerKind::DEFAULT_ORDER`].
    #[serde(rename = "samplerOrder")]
    pub order: Vec<SamplerKind>,
    /// Seed of the draw; `None` (default) takes one from the operating system and reports it at the end.
    #[serde(deserialize_with = "whole_number")]
    pub seed: Option<u64>,
    /// Report each token's log-probability under the model's own distribution (before any sampler), and those of this
    /// many most probable tokens. Default `None`.
    pub logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            dynamic_temperature_range: 0.0,
            dynamic_temperature_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            top_n_sigma: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: Some(64),
            dry: DryParams::default(),
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            logit_bias: Vec::new(),
            mirostat: Mirostat::Off,
            min_tokens: 0,
            ignore_eos: false,
            order: SamplerKind::DEFAULT_ORDER.to_vec(),
            seed: None,
            logprobs: None,
        }
    }
}

/// A count of which 0 means all.
fn zero_is_all<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let count = u32::deserialize(deserializer)?;
    Ok((count > 0).then_some(count))
}

/// A whole number as JavaScript has it: up to 2⁵³, in a double.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    const EXACT: f64 = (1u64 << 53) as f64;
    match f64::deserialize(deserializer)? {
        number if number.fract() == 0.0 && (0.0..=EXACT).contains(&number) => {
            Ok(Some(number as u64))
        }
        number => Err(de::Error::custom(format!(
            "expected a whole number from 0 to 2^53, got {number}"
        ))),
    }
}

/// Most alternatives that `logprobs` may ask for.
pub const MAX_LOGPROBS: u32 = 100;
const MAX_BREAKERS: usize = 64;
const MAX_BREAKER_BYTES: usize = 256;

impl SamplingParams {
    /// Greedy decoding with everything else at its default.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Checks every option against what it may be, ids against the vocabulary's size.
    pub fn validate(&self, vocab_size: usize) -> Result<(), EngineError> {
        at_least("temperature", self.temperature, 0.0)?;
        at_least(
            "dynamicTemperature.range",
            self.dynamic_temperature_range,
            0.0,
        )?;
        at_least(
            "dynamicTemperature.exponent",
            self.dynamic_temperature_exponent,
            0.0,
        )?;
        within("topP", self.top_p, 0.0, 1.0)?;
        within("minP", self.min_p, 0.0, 1.0)?;
        at_least("topNSigma", self.top_n_sigma, 0.0)?;
        within("typicalP", self.typical_p, 0.0, 1.0)?;
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return Err(EngineError::invalid(
                "repetitionPenalty",
                "a finite number above 0",
                self.repetition_penalty,
            ));
        }
        finite("presencePenalty", self.presence_penalty)?;
        finite("frequencyPenalty", self.frequency_penalty)?;
        within("xtc.probability", self.xtc_probability, 0.0, 1.0)?;
        within("xtc.threshold", self.xtc_threshold, 0.0, 1.0)?;
        self.dry.validate()?;
        if let Mirostat::V1 { tau, eta } | Mirostat::V2 { tau, eta } = self.mirostat {
            at_least("mirostat.tau", tau, 0.0)?;
            at_least("mirostat.eta", eta, 0.0)?;
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= vocab_size {
                return Err(EngineError::invalid(
                    "logitBias",
                    format!("token ids below {vocab_size}"),
                    id,
                ));
            }
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(EngineError::invalid(
                    "logitBias",
                    "finite numbers or -Infinity",
                    bias,
                ));
            }
        }
        for (i, kind) in self.order.iter().enumerate() {
            if self.order[..i].contains(kind) {
                return Err(EngineError::invalid(
                    "samplerOrder",
                    "each sampler at most once",
                    format!("{kind} twice"),
                ));
            }
        }
        if let Some(n) = self.logprobs
            && n > MAX_LOGPROBS
        {
            return Err(EngineError::invalid(
                "logprobs",
                format!("at most {MAX_LOGPROBS}"),
                n,
            ));
        }
        Ok(())
    }
}

impl DryParams {
    fn validate(&self) -> Result<(), EngineError> {
        at_least("dry.multiplier", self.multiplier, 0.0)?;
        at_least("dry.base", self.base, 1.0)?;
        if self.sequence_breakers.len() > MAX_BREAKERS {
            return Err(EngineError::invalid(
                "dry.sequenceBreakers",
                format!("at most {MAX_BREAKERS} texts"),
                self.sequence_breakers.len(),
            ));
        }
        for text in &self.sequence_breakers {
            if text.is_empty() || text.len() > MAX_BREAKER_BYTES {
                return Err(EngineError::invalid(
                    "dry.sequenceBreakers",
                    format!("texts of 1 to {MAX_BREAKER_BYTES} bytes"),
                    format!("{} bytes", text.len()),
                ));
            }
        }
        Ok(())
    }
}

fn finite(option: &'static str, value: f32) -> Result<(), EngineError> {
    if value.is_finite() {
        return Ok(());
    }
    Err(EngineError::invalid(option, "a finite number", value))
}

fn at_least(option: &'static str, value: f32, low: f32) -> Result<(), EngineError> {
    if value.is_finite() && value >= low {
        return Ok(());
    }
    let expected = format!("a finite number of at least {low}");
    Err(EngineError::invalid(option, expected, value))
}

fn within(option: &'static str, value: f32, low: f32, high: f32) -> Result<(), EngineError> {
    if value >= low && value <= high {
        return Ok(());
    }
    Err(EngineError::invalid(
        option,
        format!("a number from {low} to {high}"),
        value,
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The option that an invalid change to the defaults is blamed on.
    fn blamed(change: impl FnOnce(&mut SamplingParams)) -> &'static str {
        let mut params = SamplingParams::default();
        change(&mut params);
        match params.validate(10) {
            Err(EngineError::InvalidArgument { option, .. }) => option,
            other => panic!("expected an invalid argument, got {other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        SamplingParams::default().validate(1).unwrap();
        SamplingParams::greedy().validate(1).unwrap();
    }

    #[test]
    fn each_option_is_refused_by_name() {
        assert_eq!(blamed(|p| p.temperature = -0.1), "temperature");
        assert_eq!(blamed(|p| p.temperature = f32::NAN), "temperature");
        assert_eq!(blamed(|p| p.temperature = f32::INFINITY), "temperature");
        assert_eq!(
            blamed(|p| p.dynamic_temperature_range = -1.0),
            "dynamicTemperature.range"
        );
        assert_eq!(
            blamed(|p| p.dynamic_temperature_exponent = -1.0),
            "dynamicTemperature.exponent"
        );
        assert_eq!(blamed(|p| p.top_p = 1.5), "topP");
        assert_eq!(blamed(|p| p.top_p = f32::NAN), "topP");
        assert_eq!(blamed(|p| p.min_p = -0.5), "minP");
        assert_eq!(blamed(|p| p.top_n_sigma = -1.0), "topNSigma");
        assert_eq!(blamed(|p| p.typical_p = 2.0), "typicalP");
        assert_eq!(blamed(|p| p.repetition_penalty = 0.0), "repetitionPenalty");
        assert_eq!(blamed(|p| p.presence_penalty = f32::NAN), "presencePenalty");
        assert_eq!(
            blamed(|p| p.frequency_penalty = f32::INFINITY),
            "frequencyPenalty"
        );
        assert_eq!(blamed(|p| p.xtc_probability = 1.1), "xtc.probability");
        assert_eq!(blamed(|p| p.xtc_threshold = -0.1), "xtc.threshold");
        assert_eq!(blamed(|p| p.dry.multiplier = -1.0), "dry.multiplier");
        assert_eq!(blamed(|p| p.dry.base = 0.5), "dry.base");
        assert_eq!(
            blamed(|p| p.dry.sequence_breakers.push(String::new())),
            "dry.sequenceBreakers"
        );
        assert_eq!(
            blamed(|p| p.dry.sequence_breakers = vec!["x".into(); 65]),
            "dry.sequenceBreakers"
        );
        assert_eq!(
            blamed(|p| p.mirostat = Mirostat::V1 {
                tau: -1.0,
                eta: 0.1
            }),
            "mirostat.tau"
        );
        assert_eq!(
            blamed(|p| p.mirostat = Mirostat::V2 {
                tau: 5.0,
                eta: f32::NAN
            }),
            "mirostat.eta"
        );
        assert_eq!(blamed(|p| p.logit_bias = vec![(10, 1.0)]), "logitBias");
        assert_eq!(
            blamed(|p| p.logit_bias = vec![(0, f32::INFINITY)]),
            "logitBias"
        );
        assert_eq!(
            blamed(|p| p.order = vec![SamplerKind::TopK, SamplerKind::TopK]),
            "samplerOrder"
        );
        assert_eq!(blamed(|p| p.logprobs = Some(MAX_LOGPROBS + 1)), "logprobs");
    }

    #[test]
    fn order_names_round_trip() {
        for kind in SamplerKind::DEFAULT_ORDER {
            assert_eq!(read::<SamplerKind>(kind.name().into()).unwrap(), kind);
        }
        assert!(read::<SamplerKind>("top_k".into()).is_err());
    }

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
        serde_json::from_value(value)
    }

    #[test]
    fn options_are_read_by_their_names_and_missing_ones_have_defaults() {
        let read = |value| read::<SamplingParams>(value);
        assert_eq!(read(json!({})).unwrap(), SamplingParams::default());
        let params = read(json!({
            "temperature": 1, "topK": 3, "penaltyWindow": 0, "seed": 9_007_199_254_740_991.0,
            "mirostat": { "version": 2, "tau": 5, "eta": 0.1 },
            "samplerOrder": ["top-n-sigma", "temperature"], "dry": { "multiplier": 0.8 },
        }));
        let expected = SamplingParams {
            temperature: 1.0,
            top_k: 3,
            penalty_window: None,
            seed: Some((1 << 53) - 1),
            mirostat: Mirostat::V2 { tau: 5.0, eta: 0.1 },
            order: vec![SamplerKind::TopNSigma, SamplerKind::Temperature],
            dry: DryParams {
                multiplier: 0.8,
                ..DryParams::default()
            },
            ..SamplingParams::default()
        };
        assert_eq!(params.unwrap(), expected);
        for wrong in [
            json!({ "top_k": 3 }),
            json!({ "topK": -1 }),
            json!({ "seed": 0.5 }),
            json!({ "mirostat": { "version": 3, "tau": 5, "eta": 0.1 } }),
            json!({ "logitBias": {} }),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
