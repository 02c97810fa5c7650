//! Chat templates: the prompt formats of real models, Python's ways of writing, and bounds on hostile ones.
//!
//! The renderings are those of Jinja2 with Hugging Face's settings. The templates are written for these tests with the
//! constructs that the models' own templates use.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::time::{Duration, UNIX_EPOCH};

use common::{SPECIAL, chain, gguf};
use ryz_tokenizer::{ChatInput, ChatTemplate, TemplateError};
use serde_json::{Value, json};

fn render(source: &str, messages: Value) -> String {
    let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
    let mut input = ChatInput::new(messages);
    input.now = Some(UNIX_EPOCH + Duration::from_secs(1_721_995_200));
    template
        .render(&input)
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn fails(source: &str) -> TemplateError {
    let messages =
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]);
    ChatTemplate::new(source, "<s>", "</s>")
        .and_then(|template| template.render(&ChatInput::new(messages)))
        .map(|text| panic!("{source:?} gives {} bytes", text.len()))
        .unwrap_err()
}

fn conversation() -> Value {
    json!([
        {"role": "system", "content": " You are brief. "},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHi!"},
        {"role": "user", "content": "How late is it? 🕐\n"},
    ])
}

#[test]
fn bitnet_names_roles_and_ends_turns() {
    let source = "{% for m in messages %}{{ m['role'] | capitalize + ': ' + m['content'] | trim + '<|eot_id|>' }}\
                  {% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";
    assert_eq!(
        render(source, conversation()),
        "System: You are brief.<|eot_id|>User: Hello<|eot_id|>Assistant: <think>\nA greeting.\n</think>\n\nHi!\
         <|eot_id|>User: How late is it? 🕐<|eot_id|>Assistant: "
    );
}

#[test]
fn chatml_adds_a_system_message_of_its_own() {
    let source = "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
                  {{ '<|im_start|>system\nI am the default.<|im_end|>\n' }}{% endif %}\
                  {{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
                  {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    assert_eq!(
        render(source, json!([{"role": "user", "content": "Hello"}])),
        "<|im_start|>system\nI am the default.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn llama_3_dates_its_system_message_and_writes_tools_over_lines() {
    let source = r#"{{- bos_token }}
{%- if not date is defined %}
    {%- set date = strftime_now("%d %b %Y") %}
{%- endif %}

{#- The system message comes out of the list. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday Date: " + date + "\n\n" + system + "<|eot_id|>" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n" }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One call at a time!") }}
        {%- endif %}
        {{- message.tool_calls[0].function.arguments | tojson }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"#;
    assert_eq!(
        render(
            source,
            json!([{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi"}])
        ),
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
    let call = |n: usize| {
        let call = json!({"function": {"name": "f", "arguments": {"tz": "Europe", "n": [1, 2.0, null, 1e-7, 1e20]}}});
        json!([{"role": "assistant", "content": "", "tool_calls": vec![call; n]}])
    };
    let mut input = ChatInput::new(call(1));
    input.add_generation_prompt = false;
    input.extra.insert("date".to_owned(), json!("today"));
    input.tools = Some(json!([{"name": "f", "parameters": {}, "required": ["tz"]}]));
    assert_eq!(
        template.render(&input).unwrap(),
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: today\n\n<|eot_id|>\
         {\n    \"name\": \"f\",\n    \"parameters\": {},\n    \"required\": [\n        \"tz\"\n    ]\n}\n\
         {\"tz\": \"Europe\", \"n\": [1, 2.0, null, 1e-07, 1e+20]}"
    );
    let error = template.render(&ChatInput::new(call(2))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "chat template refuses the conversation: One call at a time!"
    );
    assert_eq!(error.code(), "INVALID_TEMPLATE");
}

#[test]
fn qwen_3_forgets_what_was_thought_before_the_last_question() {
    let source = r#"{%- set ns = namespace(open=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.open and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.open = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"#;
    let question = "<|im_start|>user\nHow late is it? 🕐\n<|im_end|>\n";
    let before =
        "<|im_start|>system\n You are brief. <|im_end|>\n<|im_start|>user\nHello<|im_end|>\n";
    assert_eq!(
        render(source, conversation()),
        format!("{before}<|im_start|>assistant\nHi!<|im_end|>\n{question}<|im_start|>assistant\n")
    );
    let template = ChatTemplate::new(source, "", "").unwrap();
    let mut input = ChatInput::new(conversation());
    input
        .extra
        .insert("enable_thinking".to_owned(), json!(false));
    let messages = input.messages.as_array_mut().unwrap();
    messages.truncate(3);
    assert_eq!(
        template.render(&input).unwrap(),
        format!(
            "{before}<|im_start|>assistant\n<think>\nA greeting.\n</think>\n\nHi!<|im_end|>\n\
             <|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
    );
}

#[test]
fn values_are_written_as_python_writes_them() {
    let one = || json!([{"role": "user", "content": "a \"b\" <c>\n"}]);
    for (source, expected) in [
        (
            "{{ true }} {{ none }} {{ 3.0 }} {{ 7 / 2 }} {{ 7 // 2 }} {{ 2 ** 3 }}",
            "True None 3.0 3.5 3 8",
        ),
        (
            "{{ [1, 'a', none] }} {{ {'k': true} }} {{ 'a' ~ 1 ~ none }}",
            "[1, 'a', None] {'k': True} a1None",
        ),
        (
            "{{ messages[0] | tojson }}",
            r#"{"role": "user", "content": "a \"b\" <c>\n"}"#,
        ),
        (
            "{{ {'b': 1, 'a': []} | tojson(indent=2) }}",
            "{\n  \"b\": 1,\n  \"a\": []\n}",
        ),
        (
            "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}",
            r#"{"a":2,"b":1}"#,
        ),
        (
            "{{ 'é😀' | tojson(ensure_ascii=true) }}",
            r#""\u00e9\ud83d\ude00""#,
        ),
        (
            "{% macro f(x, n=2) -%} {{ x * n }} {%- endmacro %}{{ f('ab') }}",
            "abab",
        ),
        (
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "023",
        ),
        (
            "{% for k, v in messages[0].items() %}{{ k }}={{ v | length }};{% endfor %}",
            "role=4;content=10;",
        ),
        (
            "{{ messages[0].get('x', 'y') }} {{ messages[0].x is defined }} {{ x | default('d') }}",
            "y False d",
        ),
        ("  {% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb"),
        (
            "{{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
            "user 1",
        ),
        ("a {%- generation %} b {% endgeneration -%} c", "a b c"),
        (
            "{{ 'x' if false }}{{ ' Ab '.strip().lower() }}{{ 'a b'.title() }}",
            "abA B",
        ),
    ] {
        assert_eq!(render(source, one()), expected, "{source}");
    }
}

/// The template's text becomes control tokens, with what a user wrote it is the caller's choice.
#[test]
fn a_rendered_template_encodes_to_control_tokens() {
    let tokenizer = gguf("qwen2.gguf");
    let source =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
    let text = render(source, json!([{"role": "user", "content": "Hello"}]));
    let ids = tokenizer.encode(&text, SPECIAL).unwrap();
    let control: Vec<u32> = ids
        .iter()
        .copied()
        .filter(|&id| tokenizer.is_control(id))
        .collect();
    assert_eq!(control, [510, 511]);
}

#[test]
fn work_memory_and_output_are_bounded() {
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% set x = i * j %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}{% endfor %}",
        "{{ (['x'] * 100000) | join('y' * 100000) }}",
        "{{ 'x' * 4000000000 }}",
        "{{ ('x' * 100000).replace('x', 'y' * 100000) }}",
        "{{ ('x' * 100000) | replace('x', 'y' * 100000) }}",
        "{{ 'x'.join(['y' * 100000] * 100000) }}",
        "{{ '%4000000000d' | format(1) }}",
        "{{ '{:>4000000000}'.format(1) }}",
        "{{ messages | batch(4000000000, 'x') | list | length }}",
        "{{ ([messages] * 100000) | tojson }}",
        "{{ [[messages] * 1000] * 1000 }}",
        "{% set l = ['x' * 1000000] %}{% for i in range(100000) %}{{ (l * 100)|string|length }}{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x' | indent(4000000000) }}",
        "{{ 'x' | center(4000000000) }}",
        "{{ ('a b ' * 100000).split(' ') | sort | unique | list | length }}{% for i in range(1000) %}{{ ('a b ' * 100000).split(' ') | sort | length }}{% endfor %}",
    ] {
        let error = fails(source);
        let allowed = ["TEMPLATE_LIMIT", "INVALID_TEMPLATE"];
        assert!(allowed.contains(&error.code()), "{source}");
        if source.contains("range(100000) %}{%")
            || source.contains("recursive")
            || source.contains("60")
        {
            assert_eq!(
                error.code(),
                "TEMPLATE_LIMIT",
                "{source}: {}",
                chain(&error)
            );
        }
    }
}

#[test]
fn doubles_keep_every_bit() {
    let text = "[-122.41941550000001, 1e-30, 5e-324, 1.7976931348623157e+308]";
    let numbers = serde_json::from_str(text).unwrap();
    assert_eq!(render("{{ messages | tojson }}", numbers), text);
}

/// Each of these works for as long as its fuel lasts.
#[test]
fn a_cancelled_rendering_ends_early_as_cancelled() {
    let values: Vec<String> = (0..20_000).map(|i| i.to_string()).collect();
    for source in [
        "{% for m in messages %}{% for n in messages %}{% if m == n %}.{% endif %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{{ messages | length }}{% endfor %}",
        "{% for i in range(100000) %}{{ 'x'.upper() }}{% endfor %}",
    ] {
        let template = ChatTemplate::new(source, "", "").unwrap();
        let input = ChatInput::new(json!(values));
        let error = template.render_within(&input, &|| true).unwrap_err();
        assert!(
            matches!(error, TemplateError::Cancelled),
            "{source}: {error}"
        );
        assert_eq!(error.code(), "ABORTED", "{source}");
    }
    let template = ChatTemplate::new("{{ messages }}", "", "").unwrap();
    assert!(matches!(
        template.history_form(&|| true),
        Err(TemplateError::Cancelled)
    ));
    assert!(matches!(
        template.answer_form(true, &|| true),
        Err(TemplateError::Cancelled)
    ));
}

/// On the smallest stack that a caller may have: each of these would overflow it without the bounds on the source.
#[test]
fn nesting_is_bounded_on_a_small_stack() {
    let sources = [
        format!("{{{{ messages{} }}}}", "[0]".repeat(20_000)),
        format!("{{{{ messages{} }}}}", "[0]".repeat(120)),
        format!("{{{{ {}1 }}}}", "not ".repeat(20_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(390)),
        format!("{{{{ {}1 }}}}", "-".repeat(390)),
        format!("{{{{ {}1{} }}}}", "[".repeat(20_000), "]".repeat(20_000)),
        format!("{{{{ {}1{} }}}}", "(".repeat(190), ")".repeat(190)),
        format!("{{{{ 1{} }}}}", " ~ 1".repeat(195)),
        format!("{{{{ 1{} }}}}", "|string".repeat(195)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(95)),
        format!("{{{{ a{} }}}}", ".a".repeat(195)),
        format!("{}{}", "{% if 1 %}".repeat(5_000), "{% endif %}".repeat(5_000)),
        format!("{}{}", "{% if 1 %}".repeat(140), "{% endif %}".repeat(140)),
        format!("{}x{}", "{% for a in [1] %}".repeat(140), "{% endfor %}".repeat(140)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}x".repeat(20_000)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}x".repeat(99)),
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns|tojson }}{{ ns }}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a|tojson }}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a == ns.a }}".to_owned(),
        format!("{{% set ns = namespace(a=[]) %}}{{% for i in range(90000) %}}{{% set ns.a = {}ns.a{} %}}{{% endfor %}}{{{{ ns.a }}}}", "[".repeat(140), "]".repeat(140)),
        format!("{{% set ns = namespace(a=[]) %}}{{% for i in range(1200) %}}{{% set ns.a = {}ns.a{} %}}{{% endfor %}}{{{{ ns.a == [ns.a] }}}}", "[".repeat(70), "]".repeat(70)),
        format!("{{% set ns = namespace(a=[]) %}}{{% for i in range(1200) %}}{{% set ns.a = {}ns.a{} %}}{{% endfor %}}{{{{ ns.a|string|length }}}}", "[".repeat(70), "]".repeat(70)),
        "{% set ns = namespace(a={}) %}{% for i in range(25000) %}{% set ns.a = {'a': ns.a} %}{% endfor %}{{ ns.a ~ '' }}".to_owned(),
        "{% set ns = namespace(a={}) %}{% for i in range(25000) %}{% set ns.a = dict(a=ns.a) %}{% endfor %}{{ ns.a|pprint }}".to_owned(),
        "{% set ns = namespace(a=()) %}{% for i in range(25000) %}{% set ns.a = (ns.a, 1) %}{% endfor %}{{ {ns.a: 1}[ns.a] }}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(25000) %}{% set ns.a = [ns.a] + [1] %}{% endfor %}{{ ns.a }}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(25000) %}{% set ns.a = namespace(b=ns.a) %}{% endfor %}{{ ns.a }}".to_owned(),
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".to_owned(),
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}".to_owned(),
    ];
    let thread = std::thread::Builder::new().stack_size(1 << 20);
    let work = move || {
        for source in sources {
            // Whether it renders does not matter; that this returns does.
            let messages = json!([{"role": "user", "content": "Hi"}]);
            let template = ChatTemplate::new(&source, "", "");
            let _ = template.and_then(|template| template.render(&ChatInput::new(messages)));
        }
    };
    thread.spawn(work).unwrap().join().unwrap();
}

#[test]
fn nothing_of_the_host_is_reached() {
    for source in [
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ messages.constructor.constructor('return process')().exit(1) }}",
        "{% extends '/etc/passwd' %}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{{ debug() }}",
    ] {
        assert_eq!(fails(source).code(), "INVALID_TEMPLATE", "{source}");
    }
}

#[test]
fn faults_are_told_apart() {
    for (source, expected) in [
        ("{{ messages", "takes another one: syntax error"),
        (
            "{% for m in messages %}x",
            "takes another one: syntax error",
        ),
        ("{% frobnicate %}", "takes another one: syntax error"),
        ("{{ foo.bar.baz() }}", "does not render: undefined value"),
        (
            "{{ messages[99]['content'] }}",
            "does not render: undefined value",
        ),
        (
            "{% for i in range(0, 10, 0) %}x{% endfor %}",
            "does not render: invalid operation",
        ),
        (
            "{{ raise_exception('no') }}",
            "refuses the conversation: no",
        ),
    ] {
        let text = chain(&fails(source));
        assert!(text.contains(expected), "{source}: {text}");
    }
    let error = ChatTemplate::from_bytes(b"{{ messages }}\xFF\xFE", "", "").unwrap_err();
    assert_eq!(error.to_string(), "chat template is not UTF-8 at byte 14");
    let deep = (0..100).fold(json!(1), |value, _| json!([value]));
    let template = ChatTemplate::new("{{ messages }}", "", "").unwrap();
    let error = template.render(&ChatInput::new(deep)).unwrap_err();
    assert!(error.to_string().contains("levels of nesting"), "{error}");
}

/// A long conversation is work too, and is not taken for an attack.
#[test]
fn long_conversations_render() {
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}";
    let turn = json!({"role": "user", "content": "x".repeat(1000)});
    let text = render(source, json!(vec![turn; 4000]));
    assert_eq!(
        text.len(),
        4000 * (1000 + "<|im_start|>user\n<|im_end|>\n".len())
    );
    let text = render(
        source,
        json!([{"role": "user", "content": "x".repeat(20_000_000)}]),
    );
    assert!(text.len() > 20_000_000);
}

#[test]
fn conversations_with_tools_get_the_template_for_them() {
    let mut template = ChatTemplate::new("plain", "", "").unwrap();
    template.set_tool_use("{{ tools | length }} tools");
    let mut input = ChatInput::new(json!([]));
    for (tools, expected) in [
        (None, "plain"),
        (Some(json!([])), "plain"),
        (Some(json!(null)), "plain"),
        (Some(json!([{"name": "f"}])), "1 tools"),
    ] {
        input.tools = tools;
        assert_eq!(template.render(&input).unwrap(), expected);
    }
    template.set_tool_use("{% broken");
    assert_eq!(
        template.render(&input).unwrap_err().code(),
        "INVALID_TEMPLATE"
    );
    input.tools = None;
    assert_eq!(template.render(&input).unwrap(), "plain");
}

#[test]
fn a_template_that_does_not_parse_says_so_when_it_is_to_render() {
    let template = ChatTemplate::unchecked("{{ messages", "", "");
    let error = template.render(&ChatInput::new(json!([]))).unwrap_err();
    assert_eq!(error.code(), "INVALID_TEMPLATE");
    assert!(error.to_string().contains("chatTemplate"), "{error}");
}

#[test]
fn other_special_tokens_have_their_names() {
    let mut template = ChatTemplate::new("{{ pad_token }}|{{ unk_token }}", "", "").unwrap();
    template.set_token("pad_token", "<pad>");
    assert_eq!(
        template.render(&ChatInput::new(json!([]))).unwrap(),
        "<pad>|"
    );
}

#[test]
fn a_thought_has_all_of_its_names() {
    let mut input = ChatInput::new(json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "a", "reasoning": "one"},
        {"role": "assistant", "content": "b", "thinking": "two", "reasoning_content": null},
        {"role": "assistant", "content": "c", "thinking": "three", "reasoning_content": "four"},
    ]));
    input.share_reasoning();
    let source = "{% for m in messages %}{{ m.reasoning_content }}/{{ m.reasoning }}/{{ m.thinking }};{% endfor %}";
    let text = ChatTemplate::new(source, "", "")
        .unwrap()
        .render(&input)
        .unwrap();
    assert_eq!(text, "//;one/one/one;two/two/two;four/four/three;");
}
