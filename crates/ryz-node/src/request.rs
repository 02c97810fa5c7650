//! A generation's options: from JavaScript's to the engine's.

use std::str::FromStr;

use napi::bindgen_prelude::{Float32Array, Uint32Array};
use napi_derive::napi;
use ryz_engine::{
    Constraint, DryParams, GenerateRequest, Mirostat, Prompt, SamplerKind, SamplingParams,
    SchemaSettings, ToolChoice, WhiteSpace,
};

use crate::answer::Failure;
use crate::engine::failure;
use crate::eviction::EvictionPolicy;

/// "Don't repeat yourself".
#[napi(object, object_to_js = false)]
pub struct Dry {
    /// Strength.
    pub multiplier: f64,
    /// Growth for each further token.
    pub base: f64,
    /// Shorter runs are free.
    pub allowed_length: u32,
    /// How many of the last tokens are searched.
    pub window: Option<u32>,
    /// Texts that no run may cross.
    pub sequence_breakers: Option<Vec<String>>,
}

/// Steers the surprise of each token.
#[napi(object, object_to_js = false)]
pub struct MirostatOptions {
    /// 1 or 2.
    pub version: u32,
    /// Target surprise in bits.
    pub tau: f64,
    /// Learning rate.
    pub eta: f64,
}

/// Additions to logits.
#[napi(object, object_to_js = false)]
pub struct LogitBias {
    /// The tokens.
    pub token_ids: Uint32Array,
    /// What is added to the logit of each.
    pub biases: Float32Array,
}

/// How tokens are chosen, with all defaults put in.
#[napi(object, object_to_js = false)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f64,
    /// 0 is off.
    pub dynamic_temperature_range: f64,
    /// Exponent of the normalised entropy.
    pub dynamic_temperature_exponent: f64,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f64,
    /// 0 is off.
    pub min_p: f64,
    /// 0 is off.
    pub top_n_sigma: f64,
    /// 1 is off.
    pub typical_p: f64,
    /// 1 is off.
    pub repetition_penalty: f64,
    /// 0 is off.
    pub presence_penalty: f64,
    /// 0 is off.
    pub frequency_penalty: f64,
    /// 0 is all tokens.
    pub penalty_window: u32,
    /// Off when left out.
    pub dry: Option<Dry>,
    /// 0 is off.
    pub xtc_probability: f64,
    /// Above 0.5 is off.
    pub xtc_threshold: f64,
    /// Off when left out.
    pub mirostat: Option<MirostatOptions>,
    /// Added to logits before anything else.
    pub logit_bias: Option<LogitBias>,
    /// Which samplers run, in which order.
    pub sampler_order: Option<Vec<String>>,
    /// A whole number up to 2^53.
    pub seed: Option<f64>,
    /// No end before so many tokens.
    pub min_tokens: u32,
    /// Never an end-of-text token.
    pub ignore_eos: bool,
    /// How many alternatives to report.
    pub logprobs: Option<u32>,
}

/// The form that an answer must have.
#[napi(object, object_to_js = false)]
pub struct Format {
    /// What `text` is.
    #[napi(ts_type = "'json' | 'json_schema' | 'regex' | 'grammar' | 'tools'")]
    pub kind: String,
    /// The schema or the tools as JSON, the pattern, the grammar.
    pub text: String,
    /// Of tools: which the model may call.
    #[napi(ts_type = "'auto' | 'required' | 'none' | 'named'")]
    pub choice: Option<String>,
    /// Of tools, with the choice `named`: the tool.
    pub name: Option<String>,
    /// Of tools: whether the prompt ends within a thought.
    pub in_thought: Option<bool>,
    /// Of JSON: whether white space may stand between its tokens.
    pub flexible: Option<bool>,
    /// Of a schema: whether what cannot be enforced is refused.
    pub strict: Option<bool>,
}

impl Format {
    fn convert(self) -> Result<Constraint, Failure> {
        let name = self.name.unwrap_or_default();
        let choice = match self.choice.as_deref() {
            Some("required") => ToolChoice::Required,
            Some("none") => ToolChoice::None,
            Some("named") => ToolChoice::Named(name),
            _ => ToolChoice::Auto,
        };
        let text = self.text;
        let settings = SchemaSettings {
            white_space: if self.flexible == Some(true) {
                WhiteSpace::Flexible
            } else {
                WhiteSpace::Compact
            },
            strict: self.strict.unwrap_or(true),
        };
        Ok(match self.kind.as_str() {
            "json" if self.flexible == Some(true) => Constraint::JsonSchema {
                schema: r#"{ "type": "object" }"#.to_owned(),
                settings,
            },
            "json" => Constraint::Json,
            "json_schema" => Constraint::JsonSchema {
                schema: text,
                settings,
            },
            "regex" => Constraint::Regex(text),
            "grammar" => Constraint::Grammar(text),
            "tools" => Constraint::Tools {
                tools: text,
                choice,
                in_thought: self.in_thought.unwrap_or(false),
            },
            other => return Err(Failure::unknown("format.type", other)),
        })
    }
}

/// What TypeScript asks for, already checked there.
#[napi(object, object_to_js = false)]
pub struct Request {
    /// The prompt as text, or
    pub text: Option<String>,
    /// as tokens.
    pub tokens: Option<Uint32Array>,
    /// Whether text may name control tokens.
    pub parse_special: bool,
    /// Most tokens to generate.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Tokens that end it.
    pub stop_tokens: Uint32Array,
    /// The form that the answer must have.
    pub format: Option<Format>,
    /// Special tokens whose text is delivered.
    pub shown_tokens: Option<Vec<u32>>,
    /// Most tokens that are proposed ahead; 0 for none.
    pub prompt_lookup: u32,
    /// Most tokens that the draft model proposes; 0 for none.
    pub draft: Option<u32>,
    /// Who has more goes first.
    pub priority: i32,
    /// What it forgets.
    pub eviction: Option<EvictionPolicy>,
    /// Tokens that may be delivered before the reader grants more.
    pub credits: u32,
}

impl Request {
    /// The engine's own form of it.
    pub fn convert(self) -> Result<GenerateRequest, Failure> {
        let prompt = match (self.tokens, self.text) {
            (Some(tokens), _) => Prompt::Tokens(tokens.to_vec()),
            (None, text) => Prompt::Text(text.unwrap_or_default()),
        };
        Ok(GenerateRequest {
            parse_special: self.parse_special,
            max_tokens: self.max_tokens,
            sampling: self.sampling.convert()?,
            stop: self.stop,
            stop_tokens: self.stop_tokens.to_vec(),
            constraint: self.format.map(Format::convert).transpose()?,
            shown_tokens: self.shown_tokens.unwrap_or_default(),
            prompt_lookup: self.prompt_lookup as usize,
            priority: self.priority,
            draft: self.draft.map(|most| most as usize),
            eviction: self.eviction.map(EvictionPolicy::convert).transpose()?,
            credits: self.credits,
            ..GenerateRequest::new(prompt)
        })
    }
}

impl Sampling {
    fn convert(self) -> Result<SamplingParams, Failure> {
        let defaults = SamplingParams::default();
        let order = self.sampler_order.map(|names| {
            let kinds = names
                .iter()
                .map(|name| SamplerKind::from_str(name).map_err(|error| failure(&error)));
            kinds.collect::<Result<Vec<_>, _>>()
        });
        let biases = self.logit_bias.map_or_else(Vec::new, |bias| {
            let ids = bias.token_ids.iter().copied();
            ids.zip(bias.biases.iter().copied()).collect()
        });
        Ok(SamplingParams {
            temperature: self.temperature as f32,
            dynamic_temperature_range: self.dynamic_temperature_range as f32,
            dynamic_temperature_exponent: self.dynamic_temperature_exponent as f32,
            top_k: self.top_k,
            top_p: self.top_p as f32,
            min_p: self.min_p as f32,
            top_n_sigma: self.top_n_sigma as f32,
            typical_p: self.typical_p as f32,
            repetition_penalty: self.repetition_penalty as f32,
            presence_penalty: self.presence_penalty as f32,
            frequency_penalty: self.frequency_penalty as f32,
            penalty_window: (self.penalty_window > 0).then_some(self.penalty_window),
            dry: self.dry.map_or(defaults.dry, Dry::convert),
            xtc_probability: self.xtc_probability as f32,
            xtc_threshold: self.xtc_threshold as f32,
            logit_bias: biases,
            mirostat: self
                .mirostat
                .map_or(Mirostat::Off, MirostatOptions::convert),
            min_tokens: self.min_tokens,
            ignore_eos: self.ignore_eos,
            order: order.transpose()?.unwrap_or(defaults.order),
            seed: self.seed.map(|seed| seed as u64),
            logprobs: self.logprobs,
        })
    }
}

impl Dry {
    fn convert(self) -> DryParams {
        let defaults = DryParams::default();
        DryParams {
            multiplier: self.multiplier as f32,
            base: self.base as f32,
            allowed_length: self.allowed_length,
            window: self.window,
            sequence_breakers: self.sequence_breakers.unwrap_or(defaults.sequence_breakers),
        }
    }
}

impl MirostatOptions {
    fn convert(self) -> Mirostat {
        let (tau, eta) = (self.tau as f32, self.eta as f32);
        if self.version == 1 {
            Mirostat::V1 { tau, eta }
        } else {
            Mirostat::V2 { tau, eta }
        }
    }
}
