//! Namespaces that contain themselves, or each other, would never be freed: values are reference-counted.
//!
//! So a rendering remembers the namespaces it made, and empties them when it is over.

use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, functions, machinery, syntax::SyntaxConfig};

use super::{guarded, python};

/// The namespaces of one rendering.
#[derive(Clone, Default)]
pub(super) struct Namespaces(Arc<Mutex<Vec<Value>>>);

impl Namespaces {
    /// Lets `namespace()` in this environment remember what it makes.
    pub fn watch(&self, environment: &mut Environment<'static>) {
        let made = Arc::clone(&self.0);
        environment.add_function("namespace", move |defaults: Rest<ValueOrKwargs>| {
            let namespace = functions::namespace(Some(python::dict(defaults)?.into()))?;
            let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
            made.push(namespace.clone());
            Ok(namespace)
        });
    }

    /// Empties those that hold other values than plain ones: a cycle goes through them.
    pub fn clear(&self, environment: &Environment<'static>, syntax: &SyntaxConfig) {
        let made = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for namespace in made {
            let Ok(keys) = namespace.try_iter() else {
                continue;
            };
            // What `set` has assigned has an identifier for a name.
            let assigned: Vec<String> = keys
                .filter_map(|key| Some(key.as_str()?.to_owned()))
                .filter(|key| is_identifier(key))
                .filter(|key| namespace.get_attr(key).is_ok_and(|value| may_hold(&value)))
                .collect();
            if assigned.is_empty() {
                continue;
            }
            let source: String = assigned
                .iter()
                .map(|key| format!("{{% set n.{key} = none %}}"))
                .collect();
            let names = guarded::Names::new(&source);
            let Ok(program) = guarded::compile("clean-up", &source, syntax.clone(), &names) else {
                continue;
            };
            // Nothing in it can fail; if it did, the namespace would stay as it is.
            drop(machinery::eval(
                environment,
                &program.instructions,
                Value::from_pairs([("n", namespace)]),
                &program.blocks,
                &mut machinery::make_string_output(&mut String::new()),
                AutoEscape::None,
            ));
        }
    }
}

fn is_identifier(key: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && key.chars().all(word)
}

/// Whether a namespace may be inside.
fn may_hold(value: &Value) -> bool {
    use ValueKind::{Bool, Bytes, None, Number, String, Undefined};
    !matches!(
        value.kind(),
        Undefined | None | Bool | Number | String | Bytes
    )
}
