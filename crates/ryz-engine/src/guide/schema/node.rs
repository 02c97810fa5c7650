//! What a JSON schema says, kind by kind, and what two schemas say together.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::number::NumberForm;
use super::pattern::Pattern;

/// A schema.
#[derive(Debug, Clone)]
pub enum Node {
    /// Any JSON.
    Any,
    /// No JSON, and why.
    Never(String),
    /// What stands at a place of the schema (a JSON pointer).
    Ref(String),
    /// One of these.
    Either(Vec<Node>),
    Null,
    Boolean,
    Const(Value),
    Number(NumberForm),
    String(StringForm),
    Array(ArrayForm),
    Object(ObjectForm),
}

/// Strings.
#[derive(Debug, Clone, Default)]
pub struct StringForm {
    pub min: usize,
    pub max: Option<usize>,
    /// All of these are found in it.
    pub patterns: Vec<Pattern>,
}

/// Lists.
#[derive(Debug, Clone, Default)]
pub struct ArrayForm {
    pub first: Vec<Node>,
    /// What stands behind those; anything if nothing is said.
    pub rest: Option<Box<Node>>,
    pub min: usize,
    pub max: Option<usize>,
}

/// Objects.
#[derive(Debug, Clone, Default)]
pub struct ObjectForm {
    pub properties: Vec<(String, Node)>,
    pub patterns: Vec<(String, Pattern, Node)>,
    /// What other properties are; anything if nothing is said.
    pub rest: Option<Box<Node>>,
    /// What the names of all properties are like.
    pub names: Vec<StringForm>,
    pub required: BTreeSet<String>,
    pub min: usize,
    pub max: Option<usize>,
    /// Where it stands.
    pub place: String,
}

impl Node {
    pub fn never(reason: impl Into<String>) -> Self {
        Self::Never(reason.into())
    }

    /// One of these, without those that nothing fits.
    pub fn either(nodes: Vec<Node>) -> Self {
        let mut some = Vec::new();
        let mut reason = None;
        for node in nodes {
            match node {
                Self::Any => return Self::Any,
                Self::Never(why) => reason = reason.or(Some(why)),
                Self::Either(inner) => some.extend(inner),
                node => some.push(node),
            }
        }
        match some.len() {
            0 => Self::Never(reason.unwrap_or_else(|| "there is no choice".to_owned())),
            1 => some.swap_remove(0),
            _ => Self::Either(some),
        }
    }

    /// Whether nothing can fit both, as far as that is plain to see.
    pub fn excludes(&self, other: &Node, work: &mut usize) -> bool {
        let Some(left) = work.checked_sub(1) else {
            return false;
        };
        *work = left;
        match (self, other) {
            (Self::Never(_), _) | (_, Self::Never(_)) => true,
            (Self::Any | Self::Ref(_), _) | (_, Self::Any | Self::Ref(_)) => false,
            (Self::Either(nodes), other) | (other, Self::Either(nodes)) => {
                nodes.iter().all(|node| node.excludes(other, work))
            }
            (Self::Const(a), Self::Const(b)) => a != b,
            (Self::Const(value), node) | (node, Self::Const(value)) => !node.may_hold(value, work),
            (Self::Object(a), Self::Object(b)) => a.required.union(&b.required).any(|name| {
                let of = |form: &ObjectForm| {
                    let named = form.properties.iter().find(|(own, _)| own == name);
                    match (named, &form.rest, form.patterns.is_empty()) {
                        (Some((_, node)), ..) => node.clone(),
                        (None, Some(rest), true) => (**rest).clone(),
                        _ => Self::Any,
                    }
                };
                of(a).excludes(&of(b), work)
            }),
            (Self::Number(a), Self::Number(b)) => a.clone().and(b.clone()).terminal().is_none(),
            (a, b) => std::mem::discriminant(a) != std::mem::discriminant(b),
        }
    }

    /// Whether a value may fit; `true` where that takes a closer look.
    pub fn may_hold(&self, value: &Value, work: &mut usize) -> bool {
        let Some(left) = work.checked_sub(1) else {
            return true;
        };
        *work = left;
        match (self, value) {
            (Self::Any | Self::Ref(_), _) => true,
            (Self::Never(_), _) => false,
            (Self::Either(nodes), value) => nodes.iter().any(|node| node.may_hold(value, work)),
            (Self::Const(own), value) => own == value,
            (Self::Null, Value::Null) | (Self::Boolean, Value::Bool(_)) => true,
            (Self::Number(form), Value::Number(number)) => form.holds(number),
            (Self::String(form), Value::String(text)) => form.holds(text, work),
            (Self::Array(form), Value::Array(items)) => {
                items.len() >= form.min
                    && form.max.is_none_or(|max| items.len() <= max)
                    && items.iter().enumerate().all(|(index, item)| {
                        let own = form.first.get(index).or(form.rest.as_deref());
                        own.is_none_or(|node| node.may_hold(item, work))
                    })
            }
            (Self::Object(form), Value::Object(fields)) => {
                let by_name = form.by_name();
                fields.len() >= form.min
                    && form.max.is_none_or(|max| fields.len() <= max)
                    && form.required.iter().all(|name| fields.contains_key(name))
                    && fields.iter().all(|(name, value)| {
                        form.names.iter().all(|names| names.holds(name, work))
                            && form
                                .of(name, by_name.get(name.as_str()).copied(), work)
                                .iter()
                                .all(|node| node.may_hold(value, work))
                    })
            }
            _ => false,
        }
    }
}

impl StringForm {
    pub fn and(mut self, other: Self) -> Self {
        self.min = self.min.max(other.min);
        self.max = least(self.max, other.max);
        self.patterns.extend(other.patterns);
        self
    }

    /// Whether a text fits; `true` after too much work.
    pub fn holds(&self, text: &str, work: &mut usize) -> bool {
        let length = text.chars().count();
        length >= self.min
            && self.max.is_none_or(|max| length <= max)
            && self
                .patterns
                .iter()
                .all(|pattern| pattern.is_match(text, work).unwrap_or(true))
    }
}

impl ObjectForm {
    /// Whether any object fits.
    pub fn is_any(&self) -> bool {
        let says_names =
            !self.properties.is_empty() || !self.patterns.is_empty() || !self.names.is_empty();
        !(says_names
            || self.rest.is_some()
            || !self.required.is_empty()
            || self.min > 0
            || self.max.is_some())
    }

    /// All that is said of a property, `named` being what is said of it by its name.
    pub fn of(&self, name: &str, named: Option<&Node>, work: &mut usize) -> Vec<Node> {
        let mut found: Vec<_> = named.into_iter().cloned().collect();
        for (_, pattern, node) in &self.patterns {
            if pattern.is_match(name, work).unwrap_or(true) {
                found.push(node.clone());
            }
        }
        if found.is_empty()
            && let Some(rest) = &self.rest
        {
            found.push((**rest).clone());
        }
        found
    }

    /// What is said of properties by their names.
    pub fn by_name(&self) -> HashMap<&str, &Node> {
        let named = self.properties.iter();
        named.map(|(name, node)| (name.as_str(), node)).collect()
    }
}

/// The lesser of two limits.
pub fn least(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
