//! Jinja2's filters, where minijinja's take other arguments or give something else.

use std::borrow::Cow;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

use super::arguments::{bind, flag, integer, named, required};
use super::collections::{View, items};
use super::{format, invalid, pay, text};

/// What a filter is called with: its subject first.
type Args = Rest<ValueOrKwargs>;

pub(super) fn install(environment: &mut Environment<'static>) {
    macro_rules! filter {
        ($name:literal, $function:expr) => {
            environment.add_filter($name, |state: &mut State<'_, '_>, args: Args| {
                let args = args.into_values();
                let (value, rest) = args
                    .split_first()
                    .ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
                let function: fn(&mut State<'_, '_>, &Value, &[Value]) -> Result<Value, Error> =
                    $function;
                function(state, value, rest)
            });
        };
    }
    filter!("default", default);
    filter!("d", default);
    filter!("float", to_float);
    filter!("int", to_int);
    filter!("items", |state, value, args| {
        bind([], args)?;
        match value.kind() {
            ValueKind::Undefined => Ok(View::generator(Vec::new())),
            ValueKind::Map => Ok(View::generator(items(state, value)?)),
            _ => Err(invalid("can only get item pairs from a mapping")),
        }
    });
    filter!("join", join);
    filter!("string", |_, value, _| Ok(match value.as_str() {
        Some(_) => value.clone(),
        None => text(value).into(),
    }));
    filter!("format", |state, value, args| {
        let pattern = text(value).into_owned();
        if args.len() == 1 && args[0].is_kwargs() {
            return format::printf(state, &pattern, args).map(Value::from);
        }
        format::printf(state, &pattern, args).map(Value::from)
    });
    filter!("map", |state, value, args| {
        let args = Rest(args.iter().cloned().map(ValueOrKwargs::from).collect());
        filters::map(state, value.clone(), args).map(View::generator)
    });
    filter!("select", |state, value, args| select(
        state, value, args, false
    ));
    filter!("reject", |state, value, args| select(
        state, value, args, true
    ));
    filter!("selectattr", |state, value, args| select_by(
        state, value, args, false
    ));
    filter!("rejectattr", |state, value, args| select_by(
        state, value, args, true
    ));
    filter!("batch", |state, value, args| {
        let [count, fill] = bind(["linecount", "fill_with"], args)?;
        let count = usize::try_from(required(count)?)?;
        let fill = fill.filter(|fill| !fill.is_none());
        lazy(filters::batch(state, value.clone(), count, fill)?)
    });
    filter!("slice", |state, value, args| {
        let [count, fill] = bind(["slices", "fill_with"], args)?;
        let count = usize::try_from(required(count)?)?;
        let fill = fill.filter(|fill| !fill.is_none());
        lazy(filters::slice(state, value.clone(), count, fill)?)
    });
    filter!("reverse", |state, value, args| {
        bind([], args)?;
        if let Some(text) = value.as_str() {
            return Ok(text.chars().rev().collect::<String>().into());
        }
        state.consume_fuel(value.len().unwrap_or(0) as u64)?;
        lazy(value.reverse()?)
    });
    filter!("unique", |state, value, args| {
        let args = named(["case_sensitive", "attribute"], args)?;
        lazy(filters::unique(state, value.clone(), args)?)
    });
    filter!("sort", |state, value, args| {
        let names = ["reverse", "case_sensitive", "attribute"];
        let args = with_path(names, args)?;
        filters::sort(state, value.clone(), args)
    });
    filter!("min", |state, value, args| {
        let args = with_path(["case_sensitive", "attribute"], args)?;
        filters::min(state, value.clone(), args)
    });
    filter!("max", |state, value, args| {
        let args = with_path(["case_sensitive", "attribute"], args)?;
        filters::max(state, value.clone(), args)
    });
    filter!("dictsort", |state, value, args| {
        let args = named(["case_sensitive", "by", "reverse"], args)?;
        let count = value.len().unwrap_or(0) as u64;
        state.consume_fuel(count * u64::from(count.checked_ilog2().unwrap_or(0) + 1))?;
        filters::dictsort(value, args)
    });
    filter!("abs", |_, value, args| match value.kind() {
        ValueKind::Bool => {
            bind([], args)?;
            Ok(i64::from(value.is_true()).into())
        }
        _ => {
            bind([], args)?;
            filters::abs(value.clone())
        }
    });
}

/// The items that a filter made, as a generator.
fn lazy(made: Value) -> Result<Value, Error> {
    Ok(View::generator(made.try_iter()?.collect()))
}

/// Keyword arguments whose attribute is a path: an index becomes text.
fn with_path<const N: usize>(
    names: [&'static str; N],
    args: &[Value],
) -> Result<minijinja::value::Kwargs, Error> {
    let bound = bind(names, args)?;
    let given = names.into_iter().zip(bound);
    let given = given.filter_map(|(name, value)| Some((name, value?)));
    Ok(given
        .filter(|(_, value)| !value.is_none())
        .map(|(name, value)| match value.kind() {
            ValueKind::Number if name == "attribute" => (name, text(&value).into()),
            _ => (name, value),
        })
        .collect())
}

fn default(_: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [default, boolean] = bind(["default_value", "boolean"], args)?;
    if value.is_undefined() || (flag(&boolean, false) && !value.is_true()) {
        return Ok(default.unwrap_or_else(|| "".into()));
    }
    Ok(value.clone())
}

/// The digits of a number as Python reads them: white space around it and `_` between digits are allowed.
fn digits(text: &str) -> Option<Cow<'_, str>> {
    let text = super::strings::strip(text, "strip", None);
    if !text.contains('_') {
        return Some(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let digit = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphanumeric);
    let between = |at: usize| at > 0 && digit(bytes.get(at - 1)) && digit(bytes.get(at + 1));
    let mut underscores = text.match_indices('_');
    underscores
        .all(|(at, _)| between(at))
        .then(|| Cow::Owned(text.replace('_', "")))
}

fn parse_int(text: &str, base: i64) -> Option<i128> {
    let text = digits(text)?;
    let (negative, number) = match text.strip_prefix(['+', '-']) {
        Some(number) => (text.starts_with('-'), number),
        None => (false, &*text),
    };
    let marked = number
        .get(..2)
        .and_then(|mark| match &*mark.to_ascii_lowercase() {
            "0x" => Some(16),
            "0o" => Some(8),
            "0b" => Some(2),
            _ => None,
        });
    let (base, number) = match (base, marked) {
        (0, Some(marked)) => (marked, &number[2..]),
        (0, None) => (10, number),
        (base, Some(marked)) if base == marked => (base, &number[2..]),
        (base, _) => (base, number),
    };
    let base = u32::try_from(base)
        .ok()
        .filter(|base| (2..=36).contains(base))?;
    if number.is_empty() || number.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from_str_radix(number, base).ok()?;
    Some(if negative { -magnitude } else { magnitude })
}

fn parse_float(text: &str) -> Option<f64> {
    let text = digits(text)?;
    text.parse().ok()
}

fn whole(number: f64) -> Option<Value> {
    let number = number.trunc();
    (number.abs() < 1e38).then(|| integer_value(number as i128))
}

fn integer_value(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

fn to_int(_: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [default, base] = bind(["default", "base"], args)?;
    let default = || default.unwrap_or_else(|| 0.into());
    let base = integer(&base)?.unwrap_or(10);
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bool => i64::from(value.is_true()).into(),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => whole(f64::try_from(value.clone())?).unwrap_or_else(default),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let number = parse_int(text, base).map(integer_value);
            let number = number.or_else(|| whole(parse_float(text)?));
            number.unwrap_or_else(default)
        }
        _ => default(),
    })
}

fn to_float(_: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [default] = bind(["default"], args)?;
    let default = || default.unwrap_or_else(|| 0.0.into());
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bool => f64::from(u8::from(value.is_true())).into(),
        ValueKind::Number => f64::try_from(value.clone())?.into(),
        ValueKind::String => {
            parse_float(value.as_str().unwrap_or_default()).map_or_else(default, Value::from)
        }
        _ => default(),
    })
}

fn join(state: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [separator, path] = bind(["d", "attribute"], args)?;
    let separator = separator.unwrap_or_else(|| "".into());
    let separator = text(&separator);
    let mut out = String::new();
    if value.is_undefined() {
        return Ok(out.into());
    }
    for (index, item) in value.try_iter()?.enumerate() {
        let item = match &path {
            Some(path) if !path.is_none() => along(&item, path)?,
            _ => item,
        };
        let separator = if index > 0 { &*separator } else { "" };
        let item = text(&item);
        state.consume_fuel(1)?;
        pay(state, separator.len() + item.len())?;
        out.push_str(separator);
        out.push_str(&item);
    }
    Ok(out.into())
}

/// The value at a path such as `a.0.b`, which goes through mappings and lists.
fn along(value: &Value, path: &Value) -> Result<Value, Error> {
    let path = text(path);
    path.split('.')
        .try_fold(value.clone(), |value, part| match part.parse::<usize>() {
            Ok(index) => value.get_item_by_index(index),
            Err(_) => value.get_attr(part),
        })
}

/// The name of a test or attribute, and the arguments after it.
fn name_first(args: &[Value]) -> (Option<Cow<'_, str>>, Args) {
    let name = args.first().map(text);
    let rest = args.iter().skip(1).cloned();
    (name, Rest(rest.map(ValueOrKwargs::from).collect()))
}

fn select(
    state: &mut State<'_, '_>,
    value: &Value,
    args: &[Value],
    reject: bool,
) -> Result<Value, Error> {
    let (test, rest) = name_first(args);
    let filter = if reject {
        filters::reject
    } else {
        filters::select
    };
    filter(state, value.clone(), test, rest).map(View::generator)
}

fn select_by(
    state: &mut State<'_, '_>,
    value: &Value,
    args: &[Value],
    reject: bool,
) -> Result<Value, Error> {
    let (path, args) = args
        .split_first()
        .ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    let (test, rest) = name_first(args);
    let filter = if reject {
        filters::rejectattr
    } else {
        filters::selectattr
    };
    filter(state, value.clone(), text(path), test, rest).map(View::generator)
}
