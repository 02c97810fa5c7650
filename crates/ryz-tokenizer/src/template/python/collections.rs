//! The methods of Python's `dict`, `list` and `tuple`, their views, and attributes that are methods.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::{bind, integer, required};
use super::{invalid, strings};

/// The methods that Jinja2's sandbox lets a template call on a mapping.
const MAP_METHODS: [&str; 5] = ["copy", "get", "items", "keys", "values"];
/// Those of lists and tuples.
const SEQUENCE_METHODS: [&str; 3] = ["copy", "count", "index"];

/// Items that are made one after the other in Python: a generator, or what a mapping shows of itself.
#[derive(Debug)]
pub(super) struct View {
    name: Option<&'static str>,
    items: Vec<Value>,
}

impl View {
    /// What a filter makes lazily in Python: true even when it is empty.
    pub(super) fn generator(items: Vec<Value>) -> Value {
        Value::from_object(View { name: None, items })
    }

    /// The name that Python shows; none for a generator.
    pub(super) fn name(&self) -> Option<&'static str> {
        self.name
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.name.is_none() || !self.items.is_empty()
    }
}

/// `range(start, stop, step)`.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) start: i64,
    pub(super) stop: i64,
    pub(super) step: i64,
    pub(super) length: usize,
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = key.as_usize().filter(|&index| index < self.length)?;
        Some(Value::from(self.start + index as i64 * self.step))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.length)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            1 => write!(f, "range({}, {})", self.start, self.stop),
            step => write!(f, "range({}, {}, {step})", self.start, self.stop),
        }
    }
}

/// A method of a value, not called yet.
#[derive(Debug)]
struct Bound {
    value: Value,
    name: String,
}

impl Object for Bound {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        self.value.call_method(state, &self.name, args)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.value.kind() {
            ValueKind::String => "str",
            ValueKind::Map => "dict",
            _ => "list",
        };
        write!(f, "<built-in method {} of {kind} object>", self.name)
    }
}

/// The method of that name, where Python's value has one and a template may call it.
pub(crate) fn attribute(value: &Value, name: &str) -> Option<Value> {
    let known = match value.kind() {
        ValueKind::String => strings::NAMES.binary_search(&name).is_ok(),
        ValueKind::Map => is_dict(value) && MAP_METHODS.contains(&name),
        ValueKind::Seq | ValueKind::Iterable => SEQUENCE_METHODS.contains(&name),
        _ => false,
    };
    known.then(|| {
        Value::from_object(Bound {
            value: value.clone(),
            name: name.to_owned(),
        })
    })
}

/// Whether an attribute of that name may be a method.
pub(crate) fn is_method(name: &str) -> bool {
    MAP_METHODS.contains(&name) || strings::NAMES.binary_search(&name).is_ok()
}

/// Whether a mapping is a `dict`: a namespace has attributes only.
pub(crate) fn is_dict(value: &Value) -> bool {
    let type_name = value.as_object().map(|object| object.type_name());
    !type_name.is_some_and(|name| name.contains("Namespace"))
}

pub(super) fn map_method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    if !is_dict(value) {
        return Err(unknown());
    }
    let view = |name, items| {
        Value::from_object(View {
            name: Some(name),
            items,
        })
    };
    match name {
        "get" => {
            let [key, default] = bind(["key", "default"], args)?;
            let object = value.as_object().ok_or_else(unknown)?;
            let found = object.get_value(&required(key)?);
            Ok(found.or(default).unwrap_or_else(|| Value::from(())))
        }
        "keys" => {
            bind([], args)?;
            Ok(view("dict_keys", keys(state, value)?))
        }
        "values" => {
            bind([], args)?;
            let pairs = pairs(state, value)?.into_iter();
            Ok(view("dict_values", pairs.map(|(_, value)| value).collect()))
        }
        "items" => {
            bind([], args)?;
            Ok(view("dict_items", items(state, value)?))
        }
        "copy" => {
            bind([], args)?;
            Ok(Value::from_pairs(pairs(state, value)?))
        }
        _ => Err(unknown()),
    }
}

fn keys(state: &State<'_, '_>, value: &Value) -> Result<Vec<Value>, Error> {
    state.consume_fuel(1 + value.len().unwrap_or(0) as u64)?;
    Ok(value.try_iter()?.collect())
}

fn pairs(state: &State<'_, '_>, value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    let keys = keys(state, value)?.into_iter();
    keys.map(|key| Ok((key.clone(), value.get_item(&key)?)))
        .collect()
}

/// The pairs of a mapping as tuples.
pub(super) fn items(state: &State<'_, '_>, value: &Value) -> Result<Vec<Value>, Error> {
    let pairs = pairs(state, value)?.into_iter();
    Ok(pairs
        .map(|(key, value)| Tuple::from([key, value]).into())
        .collect())
}

pub(super) fn sequence_method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match name {
        "count" => {
            let [wanted] = bind(["value"], args)?;
            let wanted = required(wanted)?;
            Ok(value
                .try_iter()?
                .filter(|item| *item == wanted)
                .count()
                .into())
        }
        "index" => {
            let [wanted, start, stop] = bind(["value", "start", "stop"], args)?;
            let wanted = required(wanted)?;
            let length = value.len().unwrap_or(0) as i64;
            let place = |at: i64| if at < 0 { (at + length).max(0) } else { at };
            let start = place(integer(&start)?.unwrap_or(0));
            let stop = place(integer(&stop)?.unwrap_or(i64::MAX));
            let mut items = value.try_iter()?.zip(0i64..);
            let found = items.find(|(item, at)| (start..stop).contains(at) && *item == wanted);
            let (_, at) = found.ok_or_else(|| invalid("the value is not in the list"))?;
            Ok(at.into())
        }
        "copy" if value.kind() == ValueKind::Seq && !value.is_tuple() => {
            bind([], args)?;
            state.consume_fuel(1 + value.len().unwrap_or(0) as u64)?;
            Ok(value.try_iter()?.collect::<Vec<Value>>().into())
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}
