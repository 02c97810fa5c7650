use llguidance::ParserFactory;
use llguidance::api::TopLevelGrammar;
use ryz_format::{Array, Metadata, Value as Entry};
use ryz_tokenizer::{ChatInput, ChatTemplate};

use super::super::automaton::Automaton;
use super::super::vocabulary::token_env;
use super::*;
use crate::chat::Chat;

const CALL: u32 = 257;

/// Every byte, then `ab`, `<|tool|>` and the end token.
fn tokenizer() -> Tokenizer {
    let mut extra = 0;
    let mut tokens: Vec<String> = (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte).to_string(),
            _ => {
                extra += 1;
                char::from_u32(255 + extra)
                    .expect("a character")
                    .to_string()
            }
        })
        .collect();
    tokens.extend(["ab", "<|tool|>", "</s>"].map(str::to_owned));
    let mut types = vec![1; 257];
    types.extend([3, 3]);
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", "gpt-2");
    let tokens = tokens.iter().map(String::as_str).collect();
    metadata.set(
        "tokenizer.ggml.tokens",
        Entry::Array(Array::Strings(tokens)),
    );
    metadata.set("tokenizer.ggml.token_type", Entry::Array(Array::I32(types)));
    let merges = ["a b"].into_iter().collect();
    metadata.set(
        "tokenizer.ggml.merges",
        Entry::Array(Array::Strings(merges)),
    );
    metadata.set("tokenizer.ggml.eos_token_id", 258u32);
    Tokenizer::from_gguf(&metadata).expect("a tokenizer")
}

fn tools() -> String {
    let city = json!({ "$ref": "#/$defs/city" });
    let bounds = json!({ "type": "object", "properties": {
        "zip": { "type": "string", "pattern": "^[0-9]{3}$" },
        "note": { "type": "string", "minLength": 12 },
    }, "required": ["zip"] });
    let weather = json!({ "type": "object", "properties": { "city": city }, "required": ["city"],
        "additionalProperties": false, "$defs": { "city": { "enum": ["Rome", "Bern"] } } });
    let tool = |name: &str, parameters| json!({ "type": "function", "function": { "name": name, "parameters": parameters } });
    json!([
        tool("weather", weather),
        tool("now", Value::Null),
        tool("post", bounds)
    ])
    .to_string()
}

fn automaton(written: &str, choice: &ToolChoice, in_thought: bool) -> (Tokenizer, Automaton) {
    let source = format!(
        "{{{{ tools | tojson }}}}{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ m.content }}}}{{% for c in m.tool_calls or [] %}}{written}{{% endfor %}}</s>{{% endfor %}}{{% if add_generation_prompt %}}<assistant>{{% endif %}}"
    );
    let tokenizer = tokenizer();
    let template = ChatTemplate::new(&source, "", "</s>").expect("a template");
    let _ = template
        .render(&ChatInput::new(json!([])))
        .expect("it renders");
    let chat = Chat::new(template, &tokenizer);
    let form = chat
        .answer_form(&tokenizer, true, &|| false)
        .expect("a form");
    let tools = tools();
    let request = Request {
        tools: &tools,
        choice,
        in_thought,
    };
    let text = grammar(form, &tokenizer, &request).expect("a grammar");
    let env = token_env(&tokenizer, 259);
    let factory = ParserFactory::new_simple(&env).expect("a factory");
    let parser = factory.create_parser(TopLevelGrammar::from_lark(text.clone()));
    let parser = parser.unwrap_or_else(|error| panic!("{error}\n{text}"));
    (tokenizer, Automaton::new(parser))
}

/// How much of a text is let through, and whether it may end there.
fn accepted(written: &str, choice: &ToolChoice, text: &str) -> (usize, bool) {
    accepted_within(written, choice, text, false)
}

/// As [`accepted`], where the prompt may end within a thought.
fn accepted_within(
    written: &str,
    choice: &ToolChoice,
    text: &str,
    in_thought: bool,
) -> (usize, bool) {
    let (tokenizer, mut automaton) = automaton(written, choice, in_thought);
    let mut at = 0;
    while at < text.len() {
        let (id, length) = if text[at..].starts_with("<|tool|>") {
            (CALL, 8)
        } else {
            (u32::from(text.as_bytes()[at]), 1)
        };
        assert!(id == CALL || tokenizer.token_bytes(id) == &text.as_bytes()[at..=at]);
        let mask = automaton.mask().expect("a mask");
        if !mask.is_allowed(id) {
            return (at, mask.is_allowed(258));
        }
        at += length;
        if automaton.accept(id).expect("it was allowed") {
            return (at, true);
        }
    }
    let mask = automaton.mask().expect("a mask");
    (at, mask.is_allowed(258))
}

const TAGGED: &str = r#"
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>"#;
const MARKED: &str = r#"<|tool|>{{ c.function.name }}:{{ c.function.arguments | tojson }}"#;
const NESTED: &str = r#"<tool>{"type": "function", "function": {"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}, "id": "{{ c.id }}"}</tool>"#;

#[test]
fn a_required_call_is_written_as_the_template_writes_it() {
    let whole = |written: &str, text: &str| {
        let (length, ends) = accepted(written, &ToolChoice::Required, text);
        assert_eq!(&text[..length], text);
        assert!(ends, "{text}");
    };
    whole(
        TAGGED,
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
    );
    whole(
        TAGGED,
        "<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>",
    );
    whole(MARKED, "<|tool|>weather:{\"city\": \"Bern\"}");
    whole(
        NESTED,
        r#"<tool>{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}, "id": "abc123DEF"}</tool>"#,
    );
}

const XML: &str = "<function={{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>{% endfor %}</function>";
const MARKED_XML: &str = "<function={{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>{{ v if v is string else v | tojson }}<|tool|>{% endfor %}</function>";

#[test]
fn texts_between_marks_keep_to_their_schema() {
    let required = &ToolChoice::Required;
    let fits = |written: &str, text: &str| {
        let (length, ends) = accepted(written, required, text);
        assert_eq!((&text[..length], ends), (text, true));
    };
    let stops = |written: &str, text: &str, at: usize| {
        assert_eq!(accepted(written, required, text), (at, false), "{text}");
    };
    fits(
        XML,
        "<function=post><parameter=zip>\n123\n</parameter></function>",
    );
    fits(
        XML,
        "<function=post><parameter=zip>\n123\n</parameter><parameter=note>\nat least\ntwelve\n</parameter></function>",
    );
    stops(XML, "<function=post><parameter=zip>\n12a", 33);
    stops(XML, "<function=post><parameter=zip>\n1234", 34);
    stops(XML, "<function=post><parameter=zip>\n12\n", 33);
    // The mark does not count as text.
    stops(
        XML,
        "<function=post><parameter=zip>\n123\n</parameter><parameter=note>\nshort\n</parameter>",
        81,
    );
    fits(
        MARKED_XML,
        "<function=post><parameter=zip>123<|tool|><parameter=note>at least twelve<|tool|></function>",
    );
    stops(MARKED_XML, "<function=post><parameter=zip>12<|tool|>", 32);
}

#[test]
fn what_does_not_fit_stops_where_it_does_not() {
    let stops = |written: &str, choice: &ToolChoice, text: &str, at: &str| {
        let (length, ends) = accepted(written, choice, text);
        assert_eq!((&text[..length], ends), (at, false));
    };
    let required = &ToolChoice::Required;
    stops(TAGGED, required, "Well", "");
    stops(
        TAGGED,
        required,
        "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris",
        "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"",
    );
    stops(
        TAGGED,
        required,
        "<tool_call>{\"name\": \"other\"",
        "<tool_call>{\"name\": \"",
    );
    stops(
        TAGGED,
        &ToolChoice::Named("weather".into()),
        "<tool_call>{\"name\": \"now\"",
        "<tool_call>{\"name\": \"",
    );
    stops(MARKED, required, "<|tool|>weather:{}", "<|tool|>weather:{");
    stops(
        MARKED,
        &ToolChoice::Named("now".into()),
        "<|tool|>weather",
        "<|tool|>",
    );
}

#[test]
fn text_may_come_first_and_a_call_that_begins_must_fit() {
    let auto = &ToolChoice::Auto;
    assert_eq!(accepted(TAGGED, auto, "Well, a < b."), (12, true));
    let text =
        "Well. <tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}</tool_call>";
    assert_eq!(accepted(TAGGED, auto, text), (text.len(), true));
    let (length, ends) = accepted(TAGGED, auto, "Well. <tool_call>nothing");
    assert_eq!((length, ends), (17, false));
    assert_eq!(accepted(MARKED, auto, "Well."), (5, true));
    let text = "Well. <|tool|>now:{}";
    assert_eq!(accepted(MARKED, auto, text), (text.len(), true));
    assert_eq!(accepted(MARKED, auto, "<|tool|>never"), (9, false));
}

#[test]
fn without_calls_their_mark_cannot_be_written() {
    let none = &ToolChoice::None;
    assert_eq!(accepted(TAGGED, none, "a <tool_call> b"), (12, true));
    assert_eq!(accepted(MARKED, none, "a<|tool|>"), (1, true));
}

#[test]
fn tools_that_are_none_and_too_many_are_refused() {
    let many: Vec<_> = (0..200)
        .map(|i| json!({ "function": { "name": i.to_string() } }))
        .collect();
    let error = parse(&json!(many).to_string(), &ToolChoice::Auto)
        .map(drop)
        .unwrap_err();
    assert_eq!(error.code(), "GRAMMAR_LIMIT");
    for (tools, choice) in [
        ("[]", ToolChoice::Auto),
        ("[{}]", ToolChoice::Auto),
        ("[]", ToolChoice::Named("a".into())),
    ] {
        let error = parse(tools, &choice).map(drop).unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT", "{error}");
    }
}
