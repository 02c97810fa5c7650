//! Histories in the shape of OpenAI's API, brought into what a template takes.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use ryz_tokenizer::{ArgumentForm, ChatInput, ChatTemplate, HistoryForm};
use serde_json::{Value as Json, json};

const LOOP: &str = "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>CONTENT\
    {% for c in m.tool_calls or [] %}[{{ c.id }} ARGUMENTS]{% endfor %}{% endfor %}";

fn template(content: &str, arguments: &str) -> ChatTemplate {
    let source = LOOP
        .replace("CONTENT", content)
        .replace("ARGUMENTS", arguments);
    ChatTemplate::new(&source, "", "").unwrap()
}

fn form(content: &str, arguments: &str) -> HistoryForm {
    template(content, arguments)
        .history_form(&|| false)
        .unwrap()
}

fn call(id: &str, arguments: Json) -> Json {
    json!({ "id": id, "type": "function", "function": { "name": "book", "arguments": arguments } })
}

fn adapted(form: &HistoryForm, mut messages: Json, thorough: bool) -> Json {
    form.adapt(&mut messages, thorough).unwrap();
    messages
}

#[test]
fn the_form_of_arguments_is_learnt() {
    let object = form("{{ m.content }}", "{{ c.function.arguments | tojson }}");
    assert_eq!(object.arguments, ArgumentForm::Object);
    let text = form("{{ m.content }}", "{{ c.function.arguments + '' }}");
    assert_eq!(text.arguments, ArgumentForm::Text);
    let items = form(
        "{{ m.content }}",
        "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}",
    );
    assert_eq!(items.arguments, ArgumentForm::Object);
    let either = "{{ c.function.arguments if c.function.arguments is string \
        else c.function.arguments | tojson }}";
    assert_eq!(
        form("{{ m.content }}", either).arguments,
        ArgumentForm::Either
    );
}

#[test]
fn content_beside_calls_that_a_template_leaves_out_is_a_text() {
    // It takes tools, and writes no calls.
    let source = "{{ tools | tojson }}{% for m in messages %}{{ m.role + m.content }}{% endfor %}";
    let template = ChatTemplate::new(source, "", "").unwrap();
    let form = template.history_form(&|| false).unwrap();
    let calls = json!([call("call00000", json!({}))]);
    for mut message in [
        json!({ "role": "assistant", "content": null }),
        json!({ "role": "assistant" }),
    ] {
        message["tool_calls"] = calls.clone();
        assert_eq!(adapted(&form, json!([message]), true)[0]["content"], "");
    }
}

#[test]
fn text_in_parts_is_joined_where_a_template_takes_no_list() {
    let arguments = "{{ c.function.arguments | tojson }}";
    let list = "{% if m.content is string %}{{ m.content }}{% else %}\
        {% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}";
    let parts = json!([{ "type": "text", "text": "one " }, { "type": "text", "text": "two" }]);
    let messages = json!([{ "role": "user", "content": parts }]);
    let takes = form(list, arguments);
    assert_eq!(takes.parts, ["system", "user", "assistant", "tool"]);
    assert_eq!(adapted(&takes, messages.clone(), true), messages);
    // It prints the list, or fails.
    for content in [
        "{{ m.content }}",
        "{{ m.content | tojson }}",
        "{{ m.content + '' }}",
    ] {
        let joins = form(content, arguments);
        assert_eq!(joins.parts, [] as [&str; 0], "{content}");
        let joined = adapted(&joins, messages.clone(), true);
        assert_eq!(joined[0]["content"], "one \ntwo", "{content}");
    }
    let users = "{% if m.role == 'user' and m.content is not string %}{{ m.content[0].text + \
        m.content[1].text }}{% else %}{{ m.content }}{% endif %}";
    assert_eq!(form(users, arguments).parts, ["user"]);
}

#[test]
fn the_content_beside_calls_is_learnt() {
    let arguments = "{{ c.function.arguments | tojson }}";
    let any = form("{{ m.content or '' }}", arguments).content;
    assert!(any.empty && any.null && any.missing);
    let text = form("{{ m.content + '' }}", arguments).content;
    assert!(text.empty && !text.null && !text.missing);
    let source = "{{ tools | tojson }}{% for m in messages %}{% if m.content is none %}\
        {% for c in m.tool_calls %}[{{ c.function.arguments | tojson }}]{% endfor %}\
        {% else %}{{ m.content }}{% endif %}{% endfor %}";
    let null = ChatTemplate::new(source, "", "")
        .unwrap()
        .history_form(&|| false)
        .unwrap();
    assert!(!null.content.empty && null.content.null);
    let messages =
        json!([{ "role": "assistant", "content": "", "tool_calls": [call("a", json!({}))] }]);
    // The empty text loses the call there: it is only kept where the bare rendering is asked for.
    assert_eq!(
        adapted(&null, messages.clone(), true)[0]["content"],
        Json::Null
    );
    assert_eq!(adapted(&null, messages, false)[0]["content"], "");
}

#[test]
fn arguments_and_content_are_brought_into_the_form() {
    let object = form(
        "{{ m.content + '' }}",
        "{{ c.function.arguments | tojson }}",
    );
    let text = form("{{ m.content + '' }}", "{{ c.function.arguments + '' }}");
    for arguments in [json!({ "city": "Rome" }), json!("{\"city\": \"Rome\"}")] {
        let messages = json!([
            { "role": "assistant", "content": null, "tool_calls": [call("a", arguments)] },
            { "role": "assistant" },
        ]);
        let shown = adapted(&object, messages.clone(), false);
        assert_eq!(shown[0]["content"], "");
        assert_eq!(shown[1]["content"], "");
        let arguments = &shown[0]["tool_calls"][0]["function"]["arguments"];
        assert_eq!(*arguments, json!({ "city": "Rome" }));
        let shown = adapted(&text, messages, false);
        let arguments = &shown[0]["tool_calls"][0]["function"]["arguments"];
        assert_eq!(*arguments, "{\"city\": \"Rome\"}");
    }
}

#[test]
fn broken_argument_text_is_refused_by_name() {
    let object = form("{{ m.content }}", "{{ c.function.arguments | tojson }}");
    for broken in ["{", "[1]", "5"] {
        let calls = json!([call("a", json!({})), call("b", json!(broken))]);
        let mut messages =
            json!([{ "role": "user" }, { "role": "assistant", "tool_calls": calls }]);
        let error = object.adapt(&mut messages, true).unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT");
        assert_eq!(
            error.to_string(),
            "messages[1].tool_calls[1].function.arguments: expected JSON of an object"
        );
    }
}

#[test]
fn several_calls_are_split_for_a_template_that_takes_one() {
    let source = "{{ tools | tojson }}{% for m in messages %}\
        {% if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}\
        {{ m.tool_calls[0].function.arguments | tojson }}{% endif %}{{ m.content }}{% endfor %}";
    let one = ChatTemplate::new(source, "", "")
        .unwrap()
        .history_form(&|| false)
        .unwrap();
    assert!(one.single_call);
    let calls = [call("a", json!({ "n": 1 })), call("b", json!({ "n": 2 }))];
    let result = |id: &str| json!({ "role": "tool", "tool_call_id": id, "content": id });
    let messages = json!([
        { "role": "user", "content": "x" },
        { "role": "assistant", "content": "Wait.", "reasoning_content": "Hm.", "tool_calls": calls },
        result("b"),
        result("a"),
        { "role": "assistant", "content": "Done." },
    ]);
    let mut untouched = messages.clone();
    one.adapt(&mut untouched, false).unwrap();
    assert_eq!(untouched, messages);
    let split = json!([
        { "role": "user", "content": "x" },
        { "role": "assistant", "content": "Wait.", "reasoning_content": "Hm.", "tool_calls": [calls[0]] },
        result("a"),
        { "role": "assistant", "content": "", "tool_calls": [calls[1]] },
        result("b"),
        { "role": "assistant", "content": "Done." },
    ]);
    assert_eq!(adapted(&one, messages, true), split);
}

#[test]
fn ids_are_shortened_for_a_template_that_takes_nine_letters() {
    let short = form(
        "{{ m.content }}{% if m.tool_call_id and m.tool_call_id | length != 9 %}{{ raise_exception('id') }}{% endif %}",
        "{{ c.function.arguments | tojson }}",
    );
    assert!(short.short_ids);
    let calls = [
        call("call_one_of_many", json!({})),
        call("call00001", json!({})),
    ];
    let messages = json!([
        { "role": "assistant", "content": "", "tool_calls": calls },
        { "role": "tool", "tool_call_id": "call_one_of_many", "content": "1" },
        { "role": "tool", "tool_call_id": "call00001", "content": "2" },
    ]);
    let shown = adapted(&short, messages, true);
    assert_eq!(shown[0]["tool_calls"][0]["id"], "zq0000000");
    assert_eq!(shown[1]["tool_call_id"], "zq0000000");
    assert_eq!(shown[0]["tool_calls"][1]["id"], "call00001");
    assert_eq!(shown[2]["tool_call_id"], "call00001");
}

#[test]
fn developers_and_thoughts_go_by_the_names_that_the_template_knows() {
    let messages = || {
        json!([
            { "role": "developer", "content": "Be brief." },
            { "role": "assistant", "content": "Yes.", "reasoning": "Hm." },
        ])
    };
    let plain = form("{{ m.content }}", "").adapt_all(messages());
    assert_eq!(plain[0]["role"], "system");
    assert_eq!(plain[1]["reasoning"], "Hm.");
    let knows = form("{# developer #}{{ m.thinking }}{{ m.content }}", "").adapt_all(messages());
    assert_eq!(knows[0]["role"], "developer");
    assert_eq!(knows[1]["thinking"], "Hm.");
    assert!(knows[1].get("reasoning").is_none());
    // A variable of a similar name is none of a message.
    let variable = form(
        "{% if enable_thinking %}{{ m['reasoning_content'] }}{% endif %}",
        "",
    );
    assert_eq!(variable.reasoning, Some("reasoning_content"));
}

trait AdaptAll {
    fn adapt_all(&self, messages: Json) -> Json;
}

impl AdaptAll for HistoryForm {
    fn adapt_all(&self, messages: Json) -> Json {
        adapted(self, messages, true)
    }
}

#[test]
fn a_template_that_writes_no_calls_gets_messages_as_they_are() {
    let none = form(
        "{% if m.tool_calls %}{{ raise_exception('no') }}{% endif %}{{ m.content }}",
        "",
    );
    let messages =
        json!([{ "role": "assistant", "content": null, "tool_calls": [call("a", json!("{}"))] }]);
    assert_eq!(adapted(&none, messages.clone(), false), messages);
}

/// Real templates write a call in the shape of OpenAI's API as they write their own.
#[test]
fn real_templates_take_openai_shaped_histories() {
    let Some(folder) = common::shared("templates") else {
        return;
    };
    let tool = json!({ "name": "book", "description": "Books.", "parameters": {
        "type": "object", "properties": { "city": { "type": "string" } } } });
    let (mut ran, mut lost) = (0, Vec::new());
    for path in std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
    {
        if path
            .extension()
            .is_none_or(|extension| extension != "jinja")
        {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let Ok(template) = ChatTemplate::from_bytes(&std::fs::read(&path).unwrap(), "<s>", "</s>")
        else {
            continue;
        };
        let form = template.history_form(&|| false).unwrap();
        println!("{name}: {form:?}");
        let write = |content: Option<Json>, arguments: Json, id: &str, adapt: bool| {
            let mut calling = json!({ "role": "assistant", "tool_calls": [call(id, arguments)] });
            if let Some(content) = content {
                calling["content"] = content;
            }
            let mut messages = json!([
                { "role": "user", "content": "Hi" },
                calling,
                { "role": "tool", "tool_call_id": id, "name": "book", "content": "ok" },
            ]);
            if adapt {
                form.adapt(&mut messages, true).unwrap();
            }
            let mut input = ChatInput::new(messages);
            input.tools = Some(json!([{ "type": "function", "function": tool }]));
            template.render(&input)
        };
        let object = json!({ "city": "Rome" });
        let own = [Some(json!("")), Some(Json::Null)]
            .into_iter()
            .find_map(|content| {
                let text = write(content, object.clone(), "call00001", false).ok()?;
                text.contains("Rome").then_some(text)
            });
        let Some(own) = own else { continue };
        ran += 1;
        for content in [Some(json!("")), Some(Json::Null), None] {
            for arguments in [object.clone(), json!("{\"city\": \"Rome\"}")] {
                for id in ["call00001", "call_AbCdEfGhIjKlMn"] {
                    let text =
                        write(content.clone(), arguments.clone(), id, true).unwrap_or_default();
                    let strip = |text: &str| text.replace([' ', '\n'], "");
                    let text = text
                        .replace(id, "call00001")
                        .replace("zq0000000", "call00001");
                    if strip(&text).matches("Rome").count() != own.matches("Rome").count()
                        || strip(&text).contains("\\\"city")
                        || text.contains("None")
                    {
                        lost.push(format!("{name}: {content:?} {arguments} {id}"));
                    }
                }
            }
        }
    }
    assert!(ran > 20, "only {ran} templates write calls");
    assert!(lost.is_empty(), "{lost:#?}");
}
