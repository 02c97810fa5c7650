//! What a request may be constrained to.

/// The form that an answer must have.
///
/// ```
/// use ryz_engine::{Constraint, GenerateRequest, Prompt};
///
/// let schema = r#"{ "type": "object", "properties": { "age": { "type": "integer" } }, "required": ["age"] }"#;
/// let mut request = GenerateRequest::new(Prompt::Text("Tom is ten years old: ".into()));
/// request.constraint = Some(Constraint::JsonSchema(schema.into()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Constraint {
    /// A JSON object.
    Json,
    /// JSON that a JSON schema describes; the schema as JSON text. A keyword that cannot be enforced is refused.
    JsonSchema(String),
    /// Text that this regular expression matches from its first to its last character: the syntax of Rust's `regex` crate,
    /// without look-around, with anchors at its ends only, and with `\d` and `\w` of ASCII.
    Regex(String),
    /// Text of this grammar, in llguidance's dialect of Lark; it begins with the rule `start`.
    Grammar(String),
    /// Tool calls in the form that the model's chat template writes, with arguments that fit the tool's parameters.
    Tools {
        /// The tool definitions, as JSON text: a list of `{ type: "function", function: { name, parameters } }`.
        tools: String,
        /// What is asked for.
        choice: ToolChoice,
        /// Whether the prompt ends within a thought that the template has opened.
        in_thought: bool,
    },
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
    /// Bytes of what the user wrote.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json => 0,
            Self::JsonSchema(text) | Self::Regex(text) | Self::Grammar(text) => text.len(),
            Self::Tools { tools, .. } => tools.len(),
        }
    }
}
