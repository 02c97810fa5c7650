//! A file's key–value pairs, with getters whose errors name the key, the required type and the
//! actual type.

use std::{borrow::Cow, fmt};

use crate::FormatError;

/// One value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant is named after its type")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array of one type, stored without a tag per element.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant is named after its type")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Strings(StringArray),
}

/// Concatenated strings: a vocabulary takes its text and four bytes per token, without an
/// allocation for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StringArray {
    text: String,
    /// The end of each string in `text`.
    ends: Vec<u32>,
}

impl StringArray {
    /// An empty array with room for `strings` strings of `bytes` bytes in total.
    pub fn with_capacity(strings: usize, bytes: usize) -> StringArray {
        StringArray {
            text: String::with_capacity(bytes),
            ends: Vec::with_capacity(strings),
        }
    }

    /// Appends a string.
    ///
    /// # Panics
    /// When the text would exceed 4 GiB; the parser rejects such an array earlier.
    pub fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends
            .push(u32::try_from(self.text.len()).expect("less than 4 GiB of text"));
    }

    /// The number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `index`, if it exists.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 {
            0
        } else {
            self.ends[index - 1] as usize
        };
        Some(&self.text[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.len()).map(|i| self.get(i).expect("in range"))
    }
}

impl<S: AsRef<str>> FromIterator<S> for StringArray {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> StringArray {
        let mut array = StringArray::default();
        strings
            .into_iter()
            .for_each(|string| array.push(string.as_ref()));
        array
    }
}

impl Array {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::F64(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::Strings(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn type_name(&self) -> &'static str {
        match self {
            Array::U8(_) => "array of u8",
            Array::I8(_) => "array of i8",
            Array::U16(_) => "array of u16",
            Array::I16(_) => "array of i16",
            Array::U32(_) => "array of u32",
            Array::I32(_) => "array of i32",
            Array::U64(_) => "array of u64",
            Array::I64(_) => "array of i64",
            Array::F32(_) => "array of f32",
            Array::F64(_) => "array of f64",
            Array::Bool(_) => "array of bool",
            Array::Strings(_) => "array of string",
        }
    }

    /// Every element as i64, or `None` if they are not integers or one does not fit.
    fn to_i64(&self) -> Option<Vec<i64>> {
        fn all<T: Copy + TryInto<i64>>(v: &[T]) -> Option<Vec<i64>> {
            v.iter().map(|&x| x.try_into().ok()).collect()
        }
        match self {
            Array::U8(v) => all(v),
            Array::I8(v) => all(v),
            Array::U16(v) => all(v),
            Array::I16(v) => all(v),
            Array::U32(v) => all(v),
            Array::I32(v) => all(v),
            Array::U64(v) => all(v),
            Array::I64(v) => all(v),
            _ => None,
        }
    }
}

impl Value {
    /// The type's name in errors.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F32(_) => "f32",
            Value::F64(_) => "f64",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Array(array) => array.type_name(),
        }
    }

    /// The value of any numeric type; a bool is 0 or 1.
    pub(crate) fn as_number(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            Value::Bool(v) => Some(f64::from(u8::from(v))),
            _ => self.as_integer().map(|v| v as f64),
        }
    }

    /// The value of any integer type.
    fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }
}

/// For messages: strings unquoted, arrays as their length.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::String(v) => f.write_str(v),
            Value::Array(array) => write!(f, "{} of {}", array.type_name(), array.len()),
            Value::Bool(v) => write!(f, "{v}"),
            Value::F32(v) => write!(f, "{v}"),
            Value::F64(v) => write!(f, "{v}"),
            _ => match self.as_integer() {
                Some(v) => write!(f, "{v}"),
                None => f.write_str(self.type_name()),
            },
        }
    }
}

macro_rules! value_from {
    ($($variant:ident $type:ty),*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Value {
                Value::$variant(value)
            }
        }
    )*};
}
value_from!(U8 u8, I8 i8, U16 u16, I16 i16, U32 u32, I32 i32, U64 u64, I64 i64, F32 f32, F64 f64, Bool bool, String String, Array Array);

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::String(value.to_owned())
    }
}

/// Key–value pairs in the file's order.
///
/// `get_*` requires the key; `find_*` returns `None` without it. A value of the wrong type is an
/// error for both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
    /// Indices into `pairs`, sorted by key.
    by_key: Vec<u32>,
}

impl Metadata {
    /// No pairs.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// Builds the map.
    ///
    /// # Errors
    ///
    /// [`FormatError::DuplicateKey`].
    pub fn from_pairs(pairs: Vec<(String, Value)>) -> Result<Metadata, FormatError> {
        let mut by_key: Vec<u32> = (0..pairs.len() as u32).collect();
        by_key.sort_unstable_by_key(|&i| &pairs[i as usize].0);
        for pair in by_key.windows(2) {
            let key = &pairs[pair[0] as usize].0;
            if *key == pairs[pair[1] as usize].0 {
                return Err(FormatError::DuplicateKey { key: key.clone() });
            }
        }
        Ok(Metadata { pairs, by_key })
    }

    /// Sets a key: in place if it exists, else at the end.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        match self.search(key) {
            Ok(i) => self.pairs[self.by_key[i] as usize].1 = value.into(),
            Err(i) => {
                self.by_key.insert(i, self.pairs.len() as u32);
                self.pairs.push((key.to_owned(), value.into()));
            }
        }
    }

    /// Removes a key if it exists.
    pub fn remove(&mut self, key: &str) {
        let Ok(i) = self.search(key) else {
            return;
        };
        let index = self.by_key.remove(i);
        self.pairs.remove(index as usize);
        for other in &mut self.by_key {
            *other -= u32::from(*other > index);
        }
    }

    /// The pairs in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let i = self.search(key).ok()?;
        Some(&self.pairs[self.by_key[i] as usize].1)
    }

    fn search(&self, key: &str) -> Result<usize, usize> {
        self.by_key
            .binary_search_by(|&i| self.pairs[i as usize].0.as_str().cmp(key))
    }

    /// A number of any integer type that fits u32.
    pub fn find_u32(&self, key: &str) -> Result<Option<u32>, FormatError> {
        self.find_integer(key, "an integer 0 to 4294967295")
    }

    /// A number of any integer type that fits i32.
    pub fn find_i32(&self, key: &str) -> Result<Option<i32>, FormatError> {
        self.find_integer(key, "an integer -2147483648 to 2147483647")
    }

    /// A number of any integer type that fits u64.
    pub fn find_u64(&self, key: &str) -> Result<Option<u64>, FormatError> {
        self.find_integer(key, "an integer of at least 0")
    }

    fn find_integer<T: TryFrom<i128>>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, FormatError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let integer = value
            .as_integer()
            .ok_or_else(|| key_type(key, expected, value))?;
        match T::try_from(integer) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(FormatError::KeyValue {
                key: key.to_owned(),
                expected: expected.to_owned(),
                got: integer.to_string(),
            }),
        }
    }

    /// A number of either float type; f64 is rounded.
    pub fn find_f32(&self, key: &str) -> Result<Option<f32>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(v)) => Ok(Some(*v)),
            Some(Value::F64(v)) => Ok(Some(*v as f32)),
            Some(other) => Err(key_type(key, "f32", other)),
        }
    }

    /// A bool.
    pub fn find_bool(&self, key: &str) -> Result<Option<bool>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(other) => Err(key_type(key, "bool", other)),
        }
    }

    /// A string.
    pub fn find_str(&self, key: &str) -> Result<Option<&str>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(other) => Err(key_type(key, "string", other)),
        }
    }

    /// An array of strings.
    pub fn find_strings(&self, key: &str) -> Result<Option<&StringArray>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::Strings(v))) => Ok(Some(v)),
            Some(other) => Err(key_type(key, "array of string", other)),
        }
    }

    /// An array of floats.
    pub fn find_f32s(&self, key: &str) -> Result<Option<Cow<'_, [f32]>>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(v))) => Ok(Some(Cow::Borrowed(v))),
            Some(Value::Array(Array::F64(v))) => Ok(Some(v.iter().map(|&x| x as f32).collect())),
            Some(other) => Err(key_type(key, "array of f32", other)),
        }
    }

    /// An array of any integer type whose elements fit i32.
    pub fn find_i32s(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>, FormatError> {
        let array = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(Array::I32(v))) => return Ok(Some(Cow::Borrowed(v))),
            Some(Value::Array(array)) => array,
            Some(other) => return Err(key_type(key, "array of i32", other)),
        };
        let wide = array.to_i64().ok_or(FormatError::KeyType {
            key: key.to_owned(),
            expected: "array of i32",
            got: array.type_name(),
        })?;
        let narrow = |x: i64| {
            i32::try_from(x).map_err(|_| FormatError::KeyValue {
                key: key.to_owned(),
                expected: "elements that fit i32".to_owned(),
                got: x.to_string(),
            })
        };
        wide.into_iter()
            .map(narrow)
            .collect::<Result<Vec<i32>, _>>()
            .map(|v| Some(Cow::Owned(v)))
    }
}

macro_rules! getters {
    ($($get:ident $find:ident $type:ty),*) => {impl Metadata {$(
        #[doc = concat!("As [`Metadata::", stringify!($find), "`], and a missing key is [`FormatError::MissingKey`].")]
        pub fn $get(&self, key: &str) -> Result<$type, FormatError> {
            self.$find(key)?.ok_or_else(|| FormatError::MissingKey { key: key.to_owned() })
        }
    )*}};
}
getters!(
    get_u32 find_u32 u32,
    get_i32 find_i32 i32,
    get_u64 find_u64 u64,
    get_f32 find_f32 f32,
    get_bool find_bool bool,
    get_str find_str &str,
    get_strings find_strings &StringArray,
    get_f32s find_f32s Cow<'_, [f32]>,
    get_i32s find_i32s Cow<'_, [i32]>
);

fn key_type(key: &str, expected: &'static str, got: &Value) -> FormatError {
    FormatError::KeyType {
        key: key.to_owned(),
        expected,
        got: got.type_name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn getters_name_the_key_and_the_types() {
        let mut map = Metadata::new();
        map.set("n", 7u8);
        map.set("minus", -5i32);
        map.set("name", "x");
        map.set("types", Value::Array(Array::U32(vec![1, 3])));
        assert_eq!(map.get_u32("n").unwrap(), 7);
        assert_eq!(
            map.get_u32("minus").unwrap_err().to_string(),
            "key \"minus\": expected an integer 0 to 4294967295, got \"-5\""
        );
        assert_eq!(
            map.get_bool("name").unwrap_err().to_string(),
            "key \"name\": expected bool, got string"
        );
        assert_eq!(
            map.get_f32("none").unwrap_err().to_string(),
            "key \"none\" is missing"
        );
        assert_eq!(map.find_f32("none").unwrap(), None);
        assert_eq!(*map.get_i32s("types").unwrap(), [1, 3]);
        map.set("n", 8u32);
        assert_eq!((map.len(), map.get_u32("n").unwrap()), (4, 8));
    }

    #[test]
    fn string_arrays_keep_their_borders() {
        let array: StringArray = ["a", "", "ñb"].into_iter().collect();
        assert_eq!(array.iter().collect::<Vec<_>>(), ["a", "", "ñb"]);
        assert_eq!(array.get(3), None);
    }
}
