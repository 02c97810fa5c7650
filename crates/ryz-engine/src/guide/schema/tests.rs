use llguidance::ParserFactory;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::ApproximateTokEnv;
use serde_json::{Map, json};

use super::*;

/// Whether a schema's grammar lets a text through, as a whole.
fn accepts_as(schema: &Value, settings: SchemaSettings, text: &str) -> bool {
    let grammar = grammar("s", schema, settings).unwrap_or_else(|error| panic!("{error}"));
    let factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env());
    let mut factory = factory.expect("a factory");
    factory.quiet();
    let parser = factory.create_parser(TopLevelGrammar::from_lark(grammar.clone()));
    let mut parser = parser.unwrap_or_else(|error| panic!("{error}\n{grammar}"));
    parser.start_without_prompt();
    for byte in text.bytes() {
        let mask = parser.compute_mask().expect("a mask");
        if !mask.is_allowed(u32::from(byte)) {
            return false;
        }
        parser
            .consume_token(u32::from(byte))
            .expect("it was allowed");
    }
    parser.is_accepting()
}

fn accepts(schema: &Value, text: &str) -> bool {
    accepts_as(schema, SchemaSettings::default(), text)
}

fn check(schema: &Value, yes: &[&str], no: &[&str]) {
    for text in yes {
        assert!(accepts(schema, text), "{schema} refuses {text}");
    }
    for text in no {
        assert!(!accepts(schema, text), "{schema} lets {text} through");
    }
}

fn refused(schema: &Value) -> String {
    let error = grammar("s", schema, SchemaSettings::default()).expect_err("it is refused");
    error.to_string()
}

#[test]
fn numbers_are_within_bounds_of_any_double() {
    let bounds = |min: f64, max: f64| json!({ "type": "number", "minimum": min, "maximum": max });
    check(
        &bounds(-1.5, 12.25),
        &["-1.5", "-1.25", "0", "9.999", "12", "12.25", "12.2"],
        &["-1.6", "12.26", "13", "100", "-2"],
    );
    check(
        &bounds(1e19, 2e20),
        &["10000000000000000000", "199999999999999999999.5"],
        &["9999999999999999999", "200000000000000000001", "0"],
    );
    check(
        &bounds(-3.402_823_466_385_288_6e38, 3.402_823_466_385_288_6e38),
        &["0", "-1e9", "123.5"],
        &["1e99"],
    );
    check(
        &json!({ "type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 1000 }),
        &["10", "99", "999"],
        &["9", "1000", "10.5", "010"],
    );
    check(
        &json!({ "type": "number", "minimum": 0.125, "exclusiveMaximum": 0.25 }),
        &["0.125", "0.2", "0.2499"],
        &["0.25", "0.1", "0.12", "1"],
    );
    check(
        &json!({ "type": "number", "minimum": 0, "exclusiveMinimum": true }),
        &["0.001", "7"],
        &["0", "-1", "0.0"],
    );
    assert!(refused(&bounds(2.0, 1.0)).contains("nothing fits"));
}

#[test]
fn random_ranges_hold_what_lies_in_them_and_nothing_else() {
    let mut state = 7u64;
    let mut next = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    for _ in 0..60 {
        let mut bound = || (next(4000) as f64 - 2000.0) / [1.0, 4.0, 100.0][next(3) as usize];
        let (a, b) = (bound(), bound());
        let (low, high) = (a.min(b), a.max(b));
        let schema = json!({ "type": "number", "minimum": low, "maximum": high });
        for value in [
            low,
            high,
            (low + high) / 2.0,
            low - 0.01,
            high + 0.01,
            bound(),
        ] {
            let value = (value * 1000.0).round() / 1000.0;
            let fits = low <= value && value <= high;
            assert_eq!(
                accepts(&schema, &value.to_string()),
                fits,
                "{value} in {low} to {high}"
            );
        }
    }
}

#[test]
fn multiples_are_those_of_the_divisor() {
    check(
        &json!({ "type": "integer", "multipleOf": 25 }),
        &["0", "75", "-100", "1225"],
        &["5", "110"],
    );
    check(
        &json!({ "type": "number", "multipleOf": 0.25 }),
        &["0.5", "3.75", "2"],
        &["0.3", "1.255"],
    );
    check(
        &json!({ "type": "integer", "multipleOf": 7 }),
        &["0", "14", "-21", "700"],
        &["15", "1"],
    );
    let error = refused(&json!({ "items": { "multipleOf": 9_999_991 } }));
    assert!(error.starts_with("s/items/multipleOf"), "{error}");
}

#[test]
fn patterns_are_ecma_262s() {
    let pattern = |text: &str| json!({ "type": "string", "pattern": text });
    check(
        &pattern("^\\s$"),
        &["\" \"", "\"\\n\"", "\"\u{a0}\"", "\"\u{feff}\""],
        &["\"\u{85}\"", "\"a\""],
    );
    check(&pattern("b"), &["\"b\"", "\"abc\""], &["\"\"", "\"ac\""]);
    check(
        &pattern("^a|b$"),
        &["\"ax\"", "\"xb\"", "\"a\""],
        &["\"xa\"", "\"bx\""],
    );
    check(
        &pattern("^$|^(?:[a-z]{2})+$"),
        &["\"\"", "\"abcd\""],
        &["\"abc\""],
    );
    check(
        &pattern("^[^\\d\"]\\/\\u00e9$"),
        &["\"a/é\""],
        &["\"1/é\"", "\"a/e\""],
    );
    check(&pattern("^\"\\\\$"), &["\"\\\"\\\\\""], &["\"\""]);
    check(
        &pattern("^(?!\\.)(?!.*\\.\\.)[a-z.]+$"),
        &["\"a.b\"", "\"ab\""],
        &["\".a\"", "\"a..b\""],
    );
    check(
        &pattern("^(?=.{2,3}$)[a-z]*$"),
        &["\"ab\"", "\"abc\""],
        &["\"a\"", "\"abcd\""],
    );
    check(
        &pattern("^P(?:(\\d+W)|(?!.*W)(?=\\d|T\\d)(\\d+D)?(T(?=\\d)(\\d+H)?)?)$"),
        &["\"P1W\"", "\"P2DT3H\"", "\"PT3H\""],
        &["\"P\"", "\"P1DT\""],
    );
    for (text, word) in [
        ("(a)\\1", "refers back"),
        ("\\bx", "word boundary"),
        ("(?<=a)b", "behind"),
        ("(", "without"),
        ("((?=a)b)*", "repetition"),
    ] {
        let error = refused(&pattern(text));
        assert!(
            error.starts_with("s/pattern") && error.contains(word),
            "{error}"
        );
    }
}

#[test]
fn known_formats_are_kept_to_and_others_are_annotations_beside_a_pattern() {
    let format = |name: &str| json!({ "type": "string", "format": name });
    check(
        &format("email"),
        &["\"a.b@c.de\""],
        &["\"a@b\"", "\"a@b.c.\"", "\"@b.cd\""],
    );
    check(
        &format("date"),
        &["\"2024-02-29\"", "\"2023-12-31\""],
        &["\"2023-02-29\"", "\"2023-13-01\""],
    );
    check(
        &format("uri"),
        &["\"https://a.bc/d?e=f#g\""],
        &["\"a.bc\"", "\"https://\""],
    );
    assert!(refused(&format("iban")).starts_with("s/format"));
    check(
        &json!({ "type": "string", "format": "iban", "pattern": "^a$" }),
        &["\"a\""],
        &["\"b\""],
    );
    check(
        &json!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": 1 }),
        &["1"],
        &["2"],
    );
}

#[test]
fn names_do_not_repeat_where_they_are_counted() {
    let names = json!({ "type": "object", "patternProperties": { "^[ab]$": { "type": "null" } },
        "additionalProperties": false, "minProperties": 2 });
    check(
        &names,
        &[r#"{"a":null,"b":null}"#],
        &[r#"{"b":null,"b":null}"#, r#"{"a":null}"#],
    );
    let one = json!({ "patternProperties": { "^a$": {} }, "additionalProperties": false, "type": "object", "minProperties": 2 });
    assert!(refused(&one).contains("nothing fits"));
    let open = json!({ "type": "object", "patternProperties": { "^a+$": {} }, "minProperties": 2 });
    assert!(refused(&open).starts_with("s/minProperties"));
    let counted = json!({ "type": "object", "properties": { "a": { "type": "null" }, "b": { "type": "null" }, "c": { "type": "null" } },
        "required": ["b"], "additionalProperties": false, "minProperties": 2, "maxProperties": 2 });
    check(
        &counted,
        &[r#"{"a":null,"b":null}"#, r#"{"b":null,"c":null}"#],
        &[
            r#"{"b":null}"#,
            r#"{"a":null,"b":null,"c":null}"#,
            r#"{"a":null,"c":null}"#,
        ],
    );
}

#[test]
fn names_may_be_described() {
    check(
        &json!({ "type": "object", "propertyNames": { "enum": ["a", "b"] }, "additionalProperties": { "type": "null" } }),
        &["{}", r#"{"a":null}"#, r#"{"a":null,"b":null}"#],
        &[r#"{"c":null}"#, r#"{"a":1}"#, r#"{"a":null,"a":null}"#],
    );
    check(
        &json!({ "type": "object", "propertyNames": { "pattern": "^[a-z]{1,2}$" }, "additionalProperties": { "type": "null" } }),
        &[r#"{"ab":null}"#],
        &[r#"{"abc":null}"#],
    );
    check(
        &json!({ "type": "object", "propertyNames": { "type": "string" } }),
        &[r#"{"x":1}"#],
        &[],
    );
}

#[test]
fn references_are_decoded_and_recursion_goes_on() {
    for (reference, key) in [
        ("#/definitions/Foo%3CBar%3E", "Foo<Bar>"),
        ("#/definitions/a~1b~0c", "a/b~c"),
    ] {
        check(
            &json!({ "$ref": reference, "definitions": { key: { "type": "null" } } }),
            &["null"],
            &["1"],
        );
    }
    check(
        &json!({ "type": "array", "items": { "$ref": "#" } }),
        &["[]", "[[],[[]]]"],
        &["[1]"],
    );
    check(
        &json!({ "$ref": "#a", "$defs": { "x": { "$anchor": "a", "const": 1 } } }),
        &["1"],
        &["2"],
    );
    assert!(refused(&json!({ "$ref": "#" })).contains("only to itself"));
    assert!(refused(&json!({ "$ref": "http://localhost/a" })).starts_with("s/$ref"));
}

#[test]
fn schemas_that_hold_together_are_put_together() {
    let both = json!({ "allOf": [
        { "type": "object", "properties": { "a": { "type": "integer" } }, "required": ["a"] },
        { "properties": { "a": { "maximum": 5 }, "b": { "type": "null" } } },
    ], "unevaluatedProperties": false });
    check(
        &both,
        &[r#"{"a":5}"#, r#"{"a":0,"b":null}"#],
        &[r#"{"a":6}"#, r#"{"a":1,"c":1}"#, "{}"],
    );
    let one = json!({ "oneOf": [
        { "type": "object", "properties": { "t": { "const": "a" }, "n": { "type": "null" } }, "required": ["t", "n"], "additionalProperties": false },
        { "type": "object", "properties": { "t": { "const": "b" } }, "required": ["t"], "additionalProperties": false },
    ] });
    check(
        &one,
        &[r#"{"t":"a","n":null}"#, r#"{"t":"b"}"#],
        &[r#"{"t":"a"}"#, r#"{"t":"b","n":null}"#],
    );
    assert!(
        refused(&json!({ "oneOf": [{ "type": "string" }, { "maxLength": 3 }] }))
            .starts_with("s/oneOf")
    );
    check(
        &json!({ "enum": [1, "two", { "three": [3] }], "type": ["string", "object"] }),
        &["\"two\"", r#"{"three":[3]}"#],
        &["1"],
    );
}

#[test]
fn lists_have_their_items_in_order() {
    check(
        &json!({ "prefixItems": [{ "const": 1 }, { "const": 2 }], "items": { "const": 3 }, "minItems": 1, "maxItems": 4, "type": "array" }),
        &["[1]", "[1,2]", "[1,2,3,3]"],
        &["[]", "[2]", "[1,2,3,3,3]", "[1,3]"],
    );
    check(
        &json!({ "items": [{ "const": 1 }], "additionalItems": false, "type": "array" }),
        &["[]", "[1]"],
        &["[1,1]"],
    );
}

#[test]
fn white_space_is_what_was_asked_for() {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "array", "items": { "type": "null" } } },
        "required": ["a"], "additionalProperties": false });
    let accepts = |white_space, text: &str| {
        let strict = true;
        accepts_as(
            &schema,
            SchemaSettings {
                white_space,
                strict,
            },
            text,
        )
    };
    let (compact, spaced, broken) = (
        r#"{"a":[null,null]}"#,
        r#"{"a": [null, null]}"#,
        "{\n  \"a\": [\n    null\n  ]\n}",
    );
    assert!(accepts(WhiteSpace::Compact, compact));
    assert!(!accepts(WhiteSpace::Compact, spaced));
    assert!(accepts(WhiteSpace::Spaced, compact) && accepts(WhiteSpace::Spaced, spaced));
    assert!(!accepts(WhiteSpace::Spaced, broken));
    assert!(
        [compact, spaced, broken]
            .iter()
            .all(|text| accepts(WhiteSpace::Flexible, text))
    );
}

#[test]
fn what_takes_too_much_work_is_a_limit() {
    let patterns = |count: usize| {
        let all = (0..count).map(|n| (format!("^p{n}[a-z]$"), json!({})));
        json!({ "patternProperties": all.collect::<Map<_, _>>() })
    };
    for schema in [
        patterns(800),
        json!({ "patternProperties": { "(a|b)*".repeat(30_000): {} } }),
        json!({ "multipleOf": 9_999_991 }),
        json!({ "type": "string", "allOf": (0..50).map(|n| json!({ "pattern": format!("a{n}.*b") })).collect::<Vec<_>>() }),
        json!({ "properties": (0..3000).map(|n| (format!("p{n}"), json!({}))).collect::<Map<_, _>>() }),
    ] {
        let error = grammar("s", &schema, SchemaSettings::default()).expect_err("it is too much");
        assert_eq!(error.code(), "GRAMMAR_LIMIT", "{error}");
        assert!(error.to_string().len() < 1000, "{error}");
    }
    let long = json!({ "const": "x".repeat(5000) });
    assert!(accepts(&long, &long["const"].to_string()));
}

#[test]
fn a_chain_of_references_is_as_deep_as_all_of_it() {
    let chain = |n: usize| {
        let next = |i: usize| json!({ "items": { "$ref": format!("#/$defs/d{}", i + 1) } });
        let mut defs: Map<_, _> = (0..n).map(|i| (format!("d{i}"), next(i))).collect();
        defs.insert(format!("d{n}"), json!({}));
        json!({ "$ref": "#/$defs/d0", "$defs": defs })
    };
    assert!(check_size("s", &chain(1000)).is_ok());
    let error = check_size("s", &chain(2000)).expect_err("it is too deep");
    assert_eq!(error.code(), "GRAMMAR_LIMIT");
    assert!(error.to_string().contains("levels"), "{error}");
}

#[test]
fn deep_and_large_texts_are_limits_and_broken_ones_are_not() {
    let deep = format!("{}true{}", "[".repeat(200), "]".repeat(200));
    assert_eq!(parse("s", &deep).expect_err("deep").code(), "GRAMMAR_LIMIT");
    let large = "a".repeat(MAX_BYTES + 1);
    assert_eq!(
        parse("s", &large).expect_err("large").code(),
        "GRAMMAR_LIMIT"
    );
    let error = parse("s", "{").expect_err("broken");
    assert_eq!(error.code(), "INVALID_ARGUMENT");
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn faults_have_a_place() {
    for (schema, place) in [
        (
            json!({ "properties": { "a/b": { "items": { "contains": {} } } } }),
            "s/properties/a~1b/items/contains",
        ),
        (
            json!({ "anyOf": [true, { "type": "text" }] }),
            "s/anyOf/1/type",
        ),
        (json!({ "properties": { "a": 3 } }), "s/properties/a"),
        (json!({ "minLength": -1 }), "s/minLength"),
        (
            json!({ "x-guidance": { "item_separator": "a" } }),
            "s/x-guidance/item_separator",
        ),
    ] {
        let error = refused(&schema);
        assert!(
            error.starts_with(&format!("{place}: ")) || error.starts_with(&format!("{place} ")),
            "{error}"
        );
    }
    // A property may be called like a keyword.
    check(
        &json!({ "type": "object", "properties": { "not": { "type": "null" } } }),
        &[r#"{"not":null}"#],
        &[],
    );
}
