//! Jinja2's tests, where minijinja's answer otherwise.

use minijinja::value::ValueKind;
use minijinja::{Environment, Value};

use super::collections::{View, is_dict};

pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_test("iterable", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Undefined
                | ValueKind::String
                | ValueKind::Bytes
                | ValueKind::Seq
                | ValueKind::Iterable
        ) || is_mapping(value)
    });
    // What has a length and can be indexed: texts and mappings, too.
    environment.add_test("sequence", |value: &Value| match value.kind() {
        ValueKind::Undefined | ValueKind::String | ValueKind::Bytes | ValueKind::Seq => true,
        ValueKind::Iterable => value.downcast_object_ref::<View>().is_none(),
        _ => is_mapping(value),
    });
    environment.add_test("mapping", is_mapping);
    environment.add_test("callable", |value: &Value| {
        let type_name = value.as_object().map(|object| object.type_name());
        matches!(value.kind(), ValueKind::Undefined | ValueKind::Plain)
            || type_name.is_some_and(|name| name.ends_with("::Macro"))
    });
}

fn is_mapping(value: &Value) -> bool {
    value.kind() == ValueKind::Map && is_dict(value)
}
