//! Arguments by position or by name, as Python binds them.

use minijinja::value::{Kwargs, from_args};
use minijinja::{Error, ErrorKind, Value};

use super::invalid;

/// Arguments in the order of `names`; those that are not given are none.
pub(crate) fn bind<const N: usize>(
    names: [&str; N],
    args: &[Value],
) -> Result<[Option<Value>; N], Error> {
    let (positional, named): (&[Value], Kwargs) = from_args(args)?;
    if positional.len() > N {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut bound = names.map(|_| None);
    for (index, (slot, name)) in bound.iter_mut().zip(names).enumerate() {
        *slot = match (positional.get(index), named.has(name)) {
            (Some(_), true) => return Err(Error::from(ErrorKind::TooManyArguments)),
            (Some(value), false) => Some(value.clone()),
            (None, true) => Some(named.get(name)?),
            (None, false) => None,
        };
    }
    named.assert_all_used()?;
    Ok(bound)
}

/// The same as keyword arguments, for functions that take them so.
pub(super) fn named<const N: usize>(names: [&str; N], args: &[Value]) -> Result<Kwargs, Error> {
    let bound = bind(names, args)?;
    let given = names.into_iter().zip(bound);
    Ok(given
        .filter_map(|(name, value)| Some((name, value?)))
        .collect())
}

/// An argument that must be there.
pub(super) fn required(value: Option<Value>) -> Result<Value, Error> {
    value.ok_or_else(|| Error::from(ErrorKind::MissingArgument))
}

/// A text that must be there.
pub(super) fn text(value: &Option<Value>) -> Result<&str, Error> {
    let value = value.as_ref();
    let value = value.ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    value
        .as_str()
        .ok_or_else(|| invalid(format!("expected a string, got {}", value.kind())))
}

/// A text, where `none` counts as not given.
pub(super) fn optional_text(value: &Option<Value>) -> Result<Option<&str>, Error> {
    match value {
        Some(given) if !given.is_none() => text(value).map(Some),
        _ => Ok(None),
    }
}

/// A whole number, where `none` counts as not given; numbers beyond 64 bits become the nearest.
pub(super) fn integer(value: &Option<Value>) -> Result<Option<i64>, Error> {
    match value {
        Some(value) if !value.is_none() => {
            let number = i128::try_from(value.clone())?;
            Ok(Some(number.clamp(i64::MIN.into(), i64::MAX.into()) as i64))
        }
        _ => Ok(None),
    }
}

/// Whether the argument is true in Python's sense.
pub(super) fn flag(value: &Option<Value>, default: bool) -> bool {
    value.as_ref().map_or(default, Value::is_true)
}

/// A width or count that text is made of: at most a million.
pub(super) fn width(value: &Option<Value>, default: usize) -> Result<usize, Error> {
    match integer(value)? {
        None => Ok(default),
        Some(width) if width <= 1 << 20 => Ok(usize::try_from(width).unwrap_or(0)),
        Some(_) => Err(invalid("expected a width of at most 1048576")),
    }
}
