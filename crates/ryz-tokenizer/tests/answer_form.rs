//! The forms that chat templates write, of thoughts and of calls: those of real models, learnt
//! without knowing them by name.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::path::Path;

use ryz_tokenizer::{AnswerForm, CallBody, CallForm, ChatTemplate, JsonName, NameEnd};

const TEMPLATES: &str = "../../../shared/templates";

fn form(source: &str) -> AnswerForm {
    let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
    template.answer_form(true, &|| false).unwrap()
}

/// A template that writes calls like this; `c` is a call.
fn writing(calls: &str) -> CallForm {
    let source = format!(
        "{{{{ tools | tojson }}}}{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ m.content }}}}{calls}<end>{{% endfor %}}\
         {{% if add_generation_prompt %}}<assistant>{{% endif %}}"
    );
    form(&source).calls.expect("a form")
}

fn each(call: &str) -> CallForm {
    writing(&format!(
        "{{% for c in m.tool_calls or [] %}}{call}{{% endfor %}}"
    ))
}

/// The marks of a form in one line, and what a call is made of.
fn described(form: &CallForm) -> String {
    let end = |name: &NameEnd| {
        let index = name.index.as_deref().map(|index| format!("{index}N"));
        let id = name.after_id.as_deref().map(|after| format!("ID{after}"));
        format!(
            "NAME{}{}{}",
            index.unwrap_or_default(),
            name.after,
            id.unwrap_or_default()
        )
    };
    let body = match &form.body {
        CallBody::Json {
            name,
            arguments,
            example,
            counters,
        } => {
            let name = match name {
                JsonName::At(path) => path.join("."),
                JsonName::Key => "KEY".to_owned(),
            };
            let list = if example.is_array() { "list " } else { "" };
            let counted = counters.iter().map(|key| format!(" #{key}"));
            format!(
                "json {list}{name}({}){}",
                arguments.join("."),
                counted.collect::<String>()
            )
        }
        CallBody::Named { name, .. } => format!("{}{{}}", end(name)),
        CallBody::Tagged { name, parameter } => format!(
            "{}({}KEY{}|{}VALUE{}{})",
            end(name),
            parameter.open,
            parameter.after_key,
            parameter.after_key_other,
            parameter.close,
            parameter.separator
        ),
        CallBody::Literal {
            open,
            assign,
            close,
            quote,
        } => format!("NAME{open}KEY{assign}{quote}VALUE{quote}{close}"),
    };
    let flags = [
        (form.arguments_as_text, " text"),
        (form.single, " single"),
        (!form.written, " guessed"),
    ];
    let flags: String = flags
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
    let text = format!(
        "{}~{}~{body}~{}~{}~{}{flags}",
        form.begin, form.open, form.close, form.separator, form.end
    );
    text.replace('\n', "\\n")
}

/// Every handed template that takes tools, or that thinks; the others have neither.
const FORMS: [(&str, &str, &str); 40] = [
    (
        "Apertus-8B-Instruct",
        "<|inner_prefix|>…<|inner_suffix|>",
        "~<|tools_prefix|>~json list KEY()~<|tools_suffix|>~~",
    ),
    (
        "Bielik-11B-v3.0-Instruct",
        "<think>…</think>",
        "~<tool_call>~json name(arguments)~</tool_call>~~",
    ),
    (
        "ByteDance-Seed-OSS",
        "<seed:think>…</seed:think>",
        "~<seed:tool_call>\\n<function=~NAME>(<parameter=KEY>|>VALUE</parameter>)~</function>\\n</seed:tool_call>~~",
    ),
    (
        "CohereForAI-c4ai-command-r-plus-tool_use",
        "",
        "~Action:\\n```json~json list tool_name(parameters)~```~~",
    ),
    (
        "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
        "<|START_THINKING|>…<|END_THINKING|>",
        "~<|START_ACTION|>~json list tool_name(parameters) #tool_call_id~<|END_ACTION|>~~",
    ),
    (
        "GLM-4.7-Flash",
        "<think>…</think>",
        "~<tool_call>~NAME(<arg_key>KEY</arg_key><arg_value>|</arg_key><arg_value>VALUE</arg_value>)~</tool_call>~~",
    ),
    (
        "GLM-5.2",
        "<think>…</think>",
        "~<tool_call>~NAME(<arg_key>KEY</arg_key><arg_value>|</arg_key><arg_value>VALUE</arg_value>)~</tool_call>~~",
    ),
    (
        "GigaChat3.1-10B-A1.8B",
        "",
        "~<|function_call|>~json name(arguments)~~~ single",
    ),
    ("HuggingFaceTB-SmolLM3-3B", "<think>…</think>", ""),
    (
        "Kimi-K2-Thinking",
        "<think>…</think>",
        "<|tool_calls_section_begin|>~<|tool_call_begin|>functions.~NAME:N<|tool_call_argument_begin|>{}~<|tool_call_end|>~~<|tool_calls_section_end|> guessed",
    ),
    (
        "LFM2-8B-A1B",
        "",
        "<|tool_call_start|>[~~NAME(KEY=\"VALUE\")~~,~]<|tool_call_end|> guessed",
    ),
    (
        "MiMo-VL",
        "",
        "~<tool_call>~json name(arguments)~</tool_call>~~",
    ),
    (
        "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "<think>…</think>",
        "~<tool_call>\\n<function=~NAME>(<parameter=KEY>\\n|>\\nVALUE\\n</parameter>)~</function>\\n</tool_call>~~",
    ),
    (
        "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
        "",
        "~<tool_call>~json name(arguments)~</tool_call>~~",
    ),
    (
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
        "",
        "~<tool_call>~json name(arguments)~</tool_call>~~",
    ),
    (
        "Qwen-QwQ-32B",
        "<think>…</think>",
        "~<tool_call>~json name(arguments)~</tool_call>~~",
    ),
    (
        "Qwen-Qwen2.5-7B-Instruct",
        "",
        "~<tool_call>~json name(arguments)~</tool_call>~~",
    ),
    (
        "Qwen-Qwen3-0.6B",
        "<think>…</think>",
        "~<tool_call>~json name(arguments)~</tool_call>~~",
    ),
    (
        "Qwen3-Coder",
        "",
        "~<tool_call>\\n<function=~NAME>(<parameter=KEY>\\n|>\\nVALUE\\n</parameter>)~</function>\\n</tool_call>~~",
    ),
    (
        "Qwen3.5-4B",
        "<think>…</think>",
        "~<tool_call>\\n<function=~NAME>(<parameter=KEY>\\n|>\\nVALUE\\n</parameter>)~</function>\\n</tool_call>~~",
    ),
    (
        "StepFun3.5-Flash",
        "<think>…</think>",
        "~<tool_call>\\n<function=~NAME>(<parameter=KEY>\\n|>\\nVALUE\\n</parameter>)~</function>\\n</tool_call>~~",
    ),
    (
        "cz-granite-3.0-instruct",
        "",
        "~<|tool_call|>~json list name(arguments)~~~ guessed",
    ),
    (
        "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
        "<think>…</think>",
        "",
    ),
    ("deepseek-ai-DeepSeek-V3.1", "<think>…</think>", ""),
    (
        "deepseek-ai-DeepSeek-V3.2",
        "<think>…</think>",
        "<｜DSML｜function_calls>~<｜DSML｜invoke name=\"~NAME\">(<｜DSML｜parameter name=\"KEY\" string=\"true\">|\" string=\"false\">VALUE</｜DSML｜parameter>)~</｜DSML｜invoke>~~</｜DSML｜function_calls>",
    ),
    (
        "google-gemma-4-31B-it",
        "<|channel>thought…<channel|>",
        "~<|tool_call>call:~NAME{KEY:<|\"|>VALUE<|\"|>}~<tool_call|>~~<|tool_response>",
    ),
    (
        "ibm-granite-granite-3.3-2B-Instruct",
        "<think>…</think>",
        "~<|tool_call|>~json list name(arguments)~~~ guessed",
    ),
    ("llama-cpp-rwkv-world", "<think>…</think>", ""),
    (
        "meetkai-functionary-medium-v3.1",
        "",
        "~<function=~NAME>{}~</function>~~<|eom_id|>",
    ),
    (
        "meta-llama-Llama-3.1-8B-Instruct",
        "",
        "~~json name(parameters)~~~ single",
    ),
    (
        "meta-llama-Llama-3.2-3B-Instruct",
        "",
        "~~json name(parameters)~~~ single",
    ),
    (
        "minja-Qwen3-Coder-30B",
        "",
        "~<tool_call>\\n<function=~NAME>(<parameter=KEY>\\n|>\\nVALUE\\n</parameter>)~</function>\\n</tool_call>~~",
    ),
    (
        "mistralai-Mistral-Nemo-Instruct-2407",
        "",
        "~[TOOL_CALLS]~json list name(arguments)~~~",
    ),
    (
        "moonshotai-Kimi-K2",
        "",
        "<|tool_calls_section_begin|>~<|tool_call_begin|>functions.~NAME:N<|tool_call_argument_begin|>{}~<|tool_call_end|>~~<|tool_calls_section_end|>",
    ),
    (
        "mrs-mistral_nemo_tool_call",
        "",
        "~[TOOL_CALLS]~json list name(arguments)~~~",
    ),
    (
        "mrs-nousresearch_hermes2_pro_tool_use",
        "",
        "~<tool_call>~json name(arguments)~</tool_call>~~",
    ),
    (
        "mrs-nousresearch_hermes3_tool_use",
        "",
        "~<tool_call>~json name(arguments)~</tool_call>~~",
    ),
    (
        "openai-gpt-oss-120b",
        "<|channel|>analysis<|message|>…<|end|><|start|>assistant",
        "~to=functions.~NAME<|channel|>commentary json<|message|>{}~<|call|>~~ single",
    ),
    (
        "stepfun-ai-Step-3.5-Flash",
        "<think>…</think>",
        "~<tool_call>\\n<function=~NAME>(<parameter=KEY>\\n|>\\nVALUE\\n</parameter>)~</function>\\n</tool_call>~~",
    ),
    (
        "unsloth-mistral-Devstral-Small-2507",
        "",
        "~[TOOL_CALLS]~NAME[ARGS]{}~~~",
    ),
];

/// Templates that cannot write a question with tools: one wants another variable, the other has
/// a macro that uses a name which it does not see.
const REFUSED: [&str; 2] = ["MiroThinker", "fireworks-ai-llama-3-firefunction-v2"];

#[test]
fn every_handed_template_that_takes_tools_gives_its_form() {
    let folder = Path::new(TEMPLATES);
    if !folder.is_dir() {
        println!("SKIPPED: there are no templates at {TEMPLATES}");
        return;
    }
    let (mut seen, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_none_or(|extension| extension != "jinja")
        {
            continue;
        }
        seen += 1;
        let name = path.file_stem().unwrap().to_str().unwrap();
        let source = std::fs::read(&path).unwrap();
        let template = ChatTemplate::from_bytes(&source, "<|endoftext|>", "<|im_end|>").unwrap();
        let Ok(form) = template.answer_form(true, &|| false) else {
            if !REFUSED.contains(&name) {
                wrong.push(format!("{name} fails"));
            }
            continue;
        };
        let thoughts = form.reasoning.as_ref();
        let thoughts = thoughts.map(|marks| format!("{}…{}", marks.open, marks.close));
        let calls = form.calls.as_ref().map(described);
        let got = (thoughts.unwrap_or_default(), calls.unwrap_or_default());
        let known = FORMS.iter().find(|(known, _, _)| *known == name);
        let expected = known.map_or(("", ""), |(_, thoughts, calls)| (*thoughts, *calls));
        if (got.0.as_str(), got.1.as_str()) != expected {
            wrong.push(format!("{name}: {got:?}, expected {expected:?}"));
        }
    }
    println!("{seen} templates");
    assert_eq!(wrong, Vec::<String>::new());
    assert!(seen >= FORMS.len(), "{seen}");
}

#[test]
fn calls_are_json_in_marks_or_without() {
    let json =
        r#"{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}"#;
    let tagged = each(&format!("\n<tool_call>\n{json}\n</tool_call>"));
    assert_eq!(
        described(&tagged),
        "~<tool_call>~json name(arguments)~</tool_call>~~"
    );
    assert_eq!(described(&each(json)), "~~json name(arguments)~~~");
    let nested =
        r#"<tool>{"type": "function", "function": {{ c.function | tojson }}, "id": "{{ c.id }}"}"#;
    let nested = each(nested);
    assert_eq!(
        described(&nested),
        "~<tool>~json function.name(function.arguments)~~~"
    );
    let CallBody::Json { example, .. } = &nested.body else {
        panic!("{nested:?}");
    };
    assert_eq!(example["id"], CallForm::EXAMPLE_ID);
}

#[test]
fn calls_of_mistral_are_written_in_three_ways() {
    let list = "{% if m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}\
        {\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}, \"id\": \"{{ c.id }}\"}\
        {{ ', ' if not loop.last }}{% endfor %}]{% endif %}";
    assert_eq!(
        described(&writing(list)),
        "~[TOOL_CALLS]~json list name(arguments)~~~"
    );
    let arguments = "{{ c.function.arguments | tojson }}";
    let named = each(&format!(
        "[TOOL_CALLS]{{{{ c.function.name }}}}[ARGS]{arguments}"
    ));
    assert_eq!(described(&named), "~[TOOL_CALLS]~NAME[ARGS]{}~~~");
    let with_id = each(&format!(
        "[TOOL_CALLS]{{{{ c.function.name }}}}[CALL_ID]{{{{ c.id }}}}[ARGS]{arguments}"
    ));
    assert_eq!(
        described(&with_id),
        "~[TOOL_CALLS]~NAME[CALL_ID]ID[ARGS]{}~~~"
    );
}

#[test]
fn calls_are_lists_of_a_programming_language() {
    let list = "{% if m.tool_calls %}[{% for c in m.tool_calls %}{{ c.function.name }}(\
        {% for k, v in c.function.arguments | items %}{{ k }}={{ v | tojson }}{{ ', ' if not loop.last }}{% endfor %})\
        {{ ', ' if not loop.last }}{% endfor %}]{% endif %}";
    assert_eq!(described(&writing(list)), "[~~NAME(KEY=\"VALUE\")~~,~]");
}

#[test]
fn a_template_that_writes_arguments_as_they_come_takes_them_as_text() {
    let form = each("{{ c.function.name }}:{{ c.function.arguments }}");
    assert_eq!(described(&form), "~~NAME:{}~~~ text");
}

#[test]
fn a_template_that_refuses_a_second_call_takes_one() {
    let refusing = "{% if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}\
        {% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}";
    assert!(writing(refusing).single);
    let forgetful =
        "{% if m.tool_calls %}<call>{{ m.tool_calls[0].function | tojson }}</call>{% endif %}";
    assert!(writing(forgetful).single);
    assert!(!each("<call>{{ c.function | tojson }}</call>").single);
}

#[test]
fn thoughts_are_learnt_from_each_way_in_which_messages_carry_them() {
    let marks = |source: &str| {
        let template = ChatTemplate::new(source, "", "").unwrap();
        let reasoning = template.answer_form(false, &|| false).unwrap().reasoning;
        reasoning.map(|marks| (marks.open, marks.close))
    };
    let pair = |open: &str, close: &str| Some((open.to_owned(), close.to_owned()));
    let turn = |inside: &str| {
        format!(
            "{{% for m in messages %}}<|{{{{ m.role }}}}|>{inside}<|end|>{{% endfor %}}\
             {{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"
        )
    };
    let field = turn(
        "{% if m.reasoning_content %}<seed:think>{{ m.reasoning_content }}</seed:think>{% endif %}{{ m.content }}",
    );
    assert_eq!(marks(&field), pair("<seed:think>", "</seed:think>"));
    let parts = turn(
        "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}\
         {% if p.type == 'thinking' %}[THINK]{{ p.thinking }}[/THINK]{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}",
    );
    assert_eq!(marks(&parts), pair("[THINK]", "[/THINK]"));
    let cut = turn("{{ m.content.split('</think>')[-1] }}") + "{# <think> #}";
    assert_eq!(marks(&cut), pair("<think>", "</think>"));
    assert_eq!(marks(&turn("{{ m.content }}")), None);
    // One that prints what it does not know writes no marks.
    assert_eq!(marks(&turn("{{ m | tojson }}")), None);
}

#[test]
fn a_template_without_tools_has_no_form_of_calls() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    assert_eq!(form(source), AnswerForm::default());
    let refusing = "{{ tools | tojson }}{% for m in messages %}{% if m.tool_calls %}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}";
    assert_eq!(form(refusing).calls, None);
}
