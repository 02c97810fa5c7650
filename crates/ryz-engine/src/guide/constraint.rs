//! What a request may be constrained to.

/// The form that an answer must have.
///
/// ```
/// use ryz_engine::{Constraint, GenerateRequest, Prompt};
///
/// let schema = r#"{ "type": "object", "properties": { "age": { "type": "integer" } }, "required": ["age"] }"#;
/// let mut request = GenerateRequest::new(Prompt::Text("Tom is ten years old: ".into()));
/// request.constraint = Some(Constraint::json_schema(schema));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Constraint {
    /// A JSON object.
    Json,
    /// JSON that a JSON schema describes.
    JsonSchema {
        /// The schema, as JSON text.
        schema: String,
        /// How it is taken.
        settings: SchemaSettings,
    },
    /// Text that this regular expression matches from its first to its last character: the syntax of Rust's `regex` crate,
    /// without look-around, with anchors at its ends only, and with `\d` and `\w` of ASCII.
    Regex(String),
    /// Text of this grammar, in llguidance's dialect of Lark; it begins with the rule `start`.
    Grammar(String),
    /// Tool calls in the form that the model's chat template writes, with arguments that fit the tool's parameters.
    Tools {
        /// The tool definitions, as JSON text: a list of `{ type: "function", function: { name, parameters } }`. What cannot be
        /// enforced of parameters is refused, or passed over where the function has `strict: false`.
        tools: String,
        /// What is asked for.
        choice: ToolChoice,
        /// Whether the prompt ends within a thought that the template has opened.
        in_thought: bool,
    },
}

/// White space between JSON's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhiteSpace {
    /// None.
    Compact,
    /// None, or a space behind a comma or a colon, as models are taught to write calls.
    Spaced,
    /// None, a space, or a line break and an indentation, wherever JSON allows it.
    Flexible,
}

/// How a JSON schema is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SchemaSettings {
    /// White space between JSON's tokens.
    pub white_space: WhiteSpace,
    /// Whether what cannot be enforced is refused; else it is passed over, and the answer may not fit.
    pub strict: bool,
}

impl Default for SchemaSettings {
    fn default() -> Self {
        Self {
            white_space: WhiteSpace::Compact,
            strict: true,
        }
    }
}

/// Whether the model must call a tool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ToolChoice {
    /// It may.
    Auto,
    /// It must, one or more.
    Required,
    /// It must not.
    None,
    /// It must call this one, once.
    Named(String),
}

impl Constraint {
    /// JSON that a JSON schema describes, without white space, and refused if a part cannot be enforced.
    pub fn json_schema(schema: impl Into<String>) -> Self {
        Self::JsonSchema {
            schema: schema.into(),
            settings: SchemaSettings::default(),
        }
    }

    /// Bytes of what the user wrote.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json => 0,
            Self::JsonSchema { schema: text, .. } | Self::Regex(text) | Self::Grammar(text) => {
                text.len()
            }
            Self::Tools { tools, .. } => tools.len(),
        }
    }
}
