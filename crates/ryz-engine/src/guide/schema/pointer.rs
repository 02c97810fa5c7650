//! JSON pointers (RFC 6901), and the references of JSON schemas.

use std::collections::HashMap;

use serde_json::Value;

/// A key as a part of a pointer.
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// What stands at a pointer.
pub fn at<'a>(root: &'a Value, pointer: &str) -> Option<&'a Value> {
    root.pointer(pointer)
}

/// The pointer that a reference stands for: `#`, `#/$defs/a`, `#name`, each percent-encoded, and with the schema's own address
/// before it. `None` where there is nothing, or another document.
pub fn of_reference(
    root: &Value,
    anchors: &HashMap<String, String>,
    reference: &str,
) -> Option<String> {
    let own = root
        .get("$id")
        .or_else(|| root.get("id"))
        .and_then(Value::as_str);
    let own = own.map(|id| id.trim_end_matches('#'));
    let fragment = match reference.split_once('#') {
        Some(("", fragment)) => fragment,
        Some((address, fragment)) if Some(address) == own => fragment,
        None if Some(reference) == own => "",
        _ => return None,
    };
    let fragment = decoded(fragment)?;
    if fragment.is_empty() || fragment == "/" {
        return Some(String::new());
    }
    if fragment.starts_with('/') {
        return at(root, &fragment).map(|_| fragment);
    }
    anchors.get(&fragment).cloned()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

/// The places that have names of their own (`$anchor`).
pub fn anchors(root: &Value) -> HashMap<String, String> {
    let mut found = HashMap::new();
    name_all(root, &mut String::new(), &mut found);
    found
}

fn name_all(value: &Value, place: &mut String, found: &mut HashMap<String, String>) {
    let length = place.len();
    match value {
        Value::Object(fields) => {
            let id = fields
                .get("$id")
                .or_else(|| fields.get("id"))
                .and_then(Value::as_str);
            let anchor = fields.get("$anchor").and_then(Value::as_str);
            if let Some(name) = anchor.or_else(|| id.and_then(|id| id.strip_prefix('#'))) {
                found.insert(name.to_owned(), place.clone());
            }
            for (key, value) in fields
                .iter()
                .filter(|(key, _)| *key != "const" && *key != "enum")
            {
                place.push('/');
                place.push_str(&escape(key));
                name_all(value, place, found);
                place.truncate(length);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                place.push_str(&format!("/{index}"));
                name_all(value, place, found);
                place.truncate(length);
            }
        }
        _ => {}
    }
}
