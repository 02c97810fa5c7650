//! Jinja2's global functions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::arguments::bind;
use super::collections::Range;
use super::invalid;

/// The longest range, as Jinja2's sandbox has it.
const MAX_RANGE: u64 = 100_000;

pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_function("range", range);
    environment.add_function("dict", dict);
    environment.add_function("cycler", |items: Rest<Value>| {
        if items.is_empty() {
            return Err(invalid("at least one item has to be provided"));
        }
        let next = AtomicUsize::new(0);
        Ok(Value::from_object(Cycler {
            items: items.0,
            next,
        }))
    });
    environment.add_function("joiner", |separator: Option<Value>| {
        let separator = separator.unwrap_or_else(|| ", ".into());
        let used = AtomicUsize::new(0);
        Value::from_object(Joiner { separator, used })
    });
}

fn range(first: i64, stop: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, stop) = stop.map_or((0, first), |stop| (first, stop));
    let step = step.unwrap_or(1);
    let span = match step {
        0 => return Err(invalid("range: the step must not be zero")),
        1.. => i128::from(stop) - i128::from(start),
        _ => i128::from(start) - i128::from(stop),
    };
    let length = span.max(0) as u128;
    let length = length.div_ceil(u128::from(step.unsigned_abs()));
    if length > u128::from(MAX_RANGE) {
        return Err(invalid("range: too long, the limit is 100000"));
    }
    let length = length as usize;
    Ok(Value::from_object(Range {
        start,
        stop,
        step,
        length,
    }))
}

/// `dict(pairs, key=value, …)`.
pub(crate) fn dict(args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, named): (&[Value], Kwargs) = from_args(&args)?;
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    match positional {
        [] => {}
        [value] if value.kind() == ValueKind::Map => {
            for key in value.try_iter()? {
                pairs.push((key.clone(), value.get_item(&key)?));
            }
        }
        [value] => {
            for pair in value.try_iter()? {
                if pair.len() != Some(2) {
                    return Err(invalid("dict: expected pairs"));
                }
                pairs.push((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?));
            }
        }
        _ => return Err(Error::from(ErrorKind::TooManyArguments)),
    }
    for name in named.args() {
        pairs.push((name.into(), named.peek(name)?));
    }
    Ok(Value::from_pairs(pairs))
}

/// Gives its items in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    next: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = self.next.load(Ordering::Relaxed) % self.items.len();
        (key.as_str() == Some("current")).then(|| self.items[at].clone())
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        bind([], args)?;
        match method {
            "next" => {
                let at = self.next.fetch_add(1, Ordering::Relaxed) % self.items.len();
                Ok(self.items[at].clone())
            }
            "reset" => {
                self.next.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// Gives nothing the first time, and its separator from then on.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    used: AtomicUsize,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        bind([], args)?;
        Ok(match self.used.swap(1, Ordering::Relaxed) {
            0 => "".into(),
            _ => self.separator.clone(),
        })
    }
}
