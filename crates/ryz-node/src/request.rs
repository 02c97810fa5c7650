//! A generation's options: from JavaScript's to the engine's.

use napi::bindgen_prelude::{Float32Array, Uint32Array};
use napi_derive::napi;
use ryz_engine::{
    Constraint, GenerateRequest, Prompt, SamplingParams, SchemaSettings, ToolChoice, WhiteSpace,
};
use serde_json::Value;

use crate::answer::Failure;
use crate::eviction::EvictionPolicy;

/// Additions to logits.
#[napi(object, object_to_js = false)]
pub struct LogitBias {
    /// The tokens.
    pub token_ids: Uint32Array,
    /// What is added to the logit of each.
    pub biases: Float32Array,
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
    /// How tokens are chosen: the fields of the engine's `SamplingParams`.
    #[napi(ts_type = "Record<string, unknown>")]
    pub sampling: Value,
    /// Added to logits before anything else.
    pub logit_bias: Option<LogitBias>,
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
        let mut sampling: SamplingParams = serde_json::from_value(self.sampling)
            .map_err(|error| Failure::plain("INVALID_ARGUMENT", format!("sampling: {error}")))?;
        if let Some(bias) = self.logit_bias {
            let ids = bias.token_ids.iter().copied();
            sampling.logit_bias = ids.zip(bias.biases.iter().copied()).collect();
        }
        Ok(GenerateRequest {
            parse_special: self.parse_special,
            max_tokens: self.max_tokens,
            sampling,
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
