//! Reads JSON objects field by field, with errors that name the field, the required type and the
//! actual type.

use serde_json::{Map, Value};

use super::MAX_JSON_BYTES;
use crate::FormatError;

/// An object, and the prefix of its fields' names in errors.
pub(crate) struct Object<'a> {
    fields: &'a Map<String, Value>,
    prefix: &'a str,
}

/// Parses a document of limited size.
pub(crate) fn parse<'a, T: serde::Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, FormatError> {
    if bytes.len() as u64 > MAX_JSON_BYTES {
        let got = bytes.len() as u64;
        return Err(FormatError::LimitExceeded {
            what: format!("bytes of {what}"),
            limit: MAX_JSON_BYTES,
            got,
        });
    }
    serde_json::from_slice(bytes).map_err(|source| FormatError::Json { what, source })
}

impl<'a> Object<'a> {
    /// The document itself, which must be an object.
    pub(crate) fn parse(
        what: &'static str,
        bytes: &[u8],
    ) -> Result<Map<String, Value>, FormatError> {
        parse(what, bytes)
    }

    pub(crate) fn new(fields: &'a Map<String, Value>) -> Object<'a> {
        Object { fields, prefix: "" }
    }

    fn key(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// A field that is present and not null.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn find<T>(
        &self,
        field: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FormatError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(FormatError::KeyType {
                key: self.key(field),
                expected,
                got: type_name(value),
            }),
        }
    }

    pub(crate) fn find_size(&self, field: &str) -> Result<Option<usize>, FormatError> {
        self.find(field, "an integer of at least 0", |value| {
            usize::try_from(value.as_u64()?).ok()
        })
    }

    pub(crate) fn find_f32(&self, field: &str) -> Result<Option<f32>, FormatError> {
        self.find(field, "a number", |value| {
            value.as_f64().map(|number| number as f32)
        })
    }

    pub(crate) fn find_bool(&self, field: &str) -> Result<Option<bool>, FormatError> {
        self.find(field, "a bool", Value::as_bool)
    }

    pub(crate) fn find_str(&self, field: &str) -> Result<Option<&'a str>, FormatError> {
        self.find(field, "a string", Value::as_str)
    }

    /// A nested object, whose fields are named with `prefix`: `"NAME."`.
    pub(crate) fn find_object(
        &self,
        field: &str,
        prefix: &'a str,
    ) -> Result<Option<Object<'a>>, FormatError> {
        let fields = self.find(field, "an object", Value::as_object)?;
        Ok(fields.map(|fields| Object { fields, prefix }))
    }

    pub(crate) fn find_array(&self, field: &str) -> Result<Option<&'a Vec<Value>>, FormatError> {
        self.find(field, "an array", Value::as_array)
    }

    /// Like the others, for a required field.
    pub(crate) fn need<T>(&self, field: &str, found: Option<T>) -> Result<T, FormatError> {
        found.ok_or_else(|| FormatError::MissingKey {
            key: self.key(field),
        })
    }

    pub(crate) fn size(&self, field: &str) -> Result<usize, FormatError> {
        self.need(field, self.find_size(field)?)
    }

    pub(crate) fn unsupported(&self, field: &str, got: impl ToString) -> FormatError {
        FormatError::UnsupportedValue {
            key: self.key(field),
            got: got.to_string(),
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(number) if number.is_i64() => "negative integer",
        Value::Number(_) => "fraction",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
