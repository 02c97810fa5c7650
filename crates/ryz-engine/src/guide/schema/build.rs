//! From the keywords of a JSON schema to what they say ([`Node`]).
//!
//! Every step is counted, so that no schema takes long; every refusal names its place as a JSON pointer.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::formats::{self, Format};
use super::limit;
use super::node::{ArrayForm, Node, ObjectForm, StringForm, least};
use super::number::{self, Bound, Decimal, NumberForm};
use super::pattern::{self, Pattern};
use super::pointer::{self, escape};
use super::quote::{self, Script};
use crate::error::EngineError;

/// Most schemas that are read or put together, through all references.
const MAX_STEPS: usize = 100_000;
/// Most schemas within each other, through all references.
const MAX_DEPTH: usize = 400;
/// Most properties of an object.
const MAX_PROPERTIES: usize = 8000;
/// Most patterns that one string must match: their automata multiply.
const MAX_TOGETHER: usize = 6;
/// Most steps of matching names against patterns.
const MAX_MATCHING: usize = 2_000_000;
/// Most `patternProperties` of an object.
const MAX_PATTERNS: usize = 32;
/// Most bytes of all patterns.
const MAX_PATTERN_BYTES: usize = 64 << 10;
/// Most names that a pattern of names is written out to.
const MAX_NAMES: usize = 64;
/// Most branches of a `oneOf`, each of which is compared with every other.
const MAX_BRANCHES: usize = 256;

/// Most characters of a place or a value in a message.
const MAX_SHOWN: usize = 300;

const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];

/// Keywords that cannot be enforced while text is generated.
const NOT_ENFORCED: [&str; 13] = [
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "$dynamicRef",
    "$recursiveRef",
    "$dynamicAnchor",
    "$recursiveAnchor",
    "extends",
];

/// Reads a schema.
pub struct Builder<'a> {
    pub root: &'a Value,
    pub option: &'a str,
    /// Whether what cannot be enforced is refused, or passed over.
    pub strict: bool,
    steps: usize,
    matching: usize,
    pattern_bytes: usize,
    anchors: HashMap<String, String>,
    /// References that are being put together with other keywords.
    resolving: Vec<String>,
}

type Built<T> = Result<T, EngineError>;

impl<'a> Builder<'a> {
    pub fn new(option: &'a str, root: &'a Value, strict: bool) -> Self {
        Self {
            root,
            option,
            strict,
            steps: MAX_STEPS,
            matching: MAX_MATCHING,
            pattern_bytes: MAX_PATTERN_BYTES,
            anchors: pointer::anchors(root),
            resolving: Vec::new(),
        }
    }

    /// What stands at a place of the schema.
    pub fn resolve(&mut self, place: &str) -> Built<Node> {
        match pointer::at(self.root, place) {
            Some(value) => self.build(value, place, 0),
            None => Err(self.invalid(place, "refers to nothing")),
        }
    }

    /// A refusal of what is wrong.
    pub fn invalid(&self, place: &str, message: impl Into<String>) -> EngineError {
        EngineError::InvalidGrammar {
            option: format!("{}{}", self.option, short(place)),
            message: message.into(),
        }
    }

    /// A refusal of what is too much.
    pub fn too_much(&self, place: &str, message: impl Into<String>) -> EngineError {
        EngineError::GrammarLimit {
            option: format!("{}{}", self.option, short(place)),
            message: message.into(),
        }
    }

    /// Refuses what cannot be enforced, unless that is to be passed over.
    pub fn unenforced(&self, place: &str, message: impl Into<String>) -> Built<()> {
        if self.strict {
            Err(self.invalid(place, message))
        } else {
            Ok(())
        }
    }

    fn step(&mut self, place: &str) -> Built<()> {
        self.steps = self.steps.checked_sub(1).ok_or_else(|| {
            self.too_much(
                place,
                format!("takes more than {MAX_STEPS} schemas to read"),
            )
        })?;
        Ok(())
    }

    fn build(&mut self, value: &Value, place: &str, depth: usize) -> Built<Node> {
        self.step(place)?;
        if depth > MAX_DEPTH {
            return Err(self.too_much(place, format!("is more than {MAX_DEPTH} schemas deep")));
        }
        let fields = match value {
            Value::Bool(true) => return Ok(Node::Any),
            Value::Bool(false) => return Ok(Node::never("false allows nothing")),
            Value::Object(fields) => fields,
            _ => return Err(self.invalid(place, "expected a schema: an object, true or false")),
        };
        for key in NOT_ENFORCED {
            if fields.contains_key(key) {
                self.unenforced(&format!("{place}/{key}"), "cannot be enforced")?;
            }
        }
        let mut node = self.by_type(fields, place, depth)?;
        if let Some(value) = fields.get("const") {
            node = self.and(Node::Const(value.clone()), node, place, depth)?;
        }
        if let Some(values) = fields.get("enum") {
            let at = format!("{place}/enum");
            let Some(values) = values.as_array() else {
                return Err(self.invalid(&at, "expected a list"));
            };
            let values = values.iter().cloned().map(Node::Const).collect();
            node = self.and(Node::either(values), node, &at, depth)?;
        }
        for (index, branch) in self.list(fields, place, "allOf")?.iter().enumerate() {
            let at = format!("{place}/allOf/{index}");
            let branch = self.build(branch, &at, depth + 1)?;
            node = self.and(node, branch, &at, depth)?;
        }
        for key in ["anyOf", "oneOf"] {
            if !fields.contains_key(key) {
                continue;
            }
            let mut branches = Vec::new();
            for (index, branch) in self.list(fields, place, key)?.iter().enumerate() {
                branches.push(self.build(branch, &format!("{place}/{key}/{index}"), depth + 1)?);
            }
            let at = format!("{place}/{key}");
            if key == "oneOf" {
                branches = self.exclusive(branches, &at)?;
            }
            node = self.and(Node::either(branches), node, &at, depth)?;
        }
        if let Some(reference) = fields.get("$ref") {
            let at = format!("{place}/$ref");
            let target = reference
                .as_str()
                .and_then(|reference| pointer::of_reference(self.root, &self.anchors, reference))
                .ok_or_else(|| self.invalid(&at, "refers to nothing in this schema"))?;
            node = self.and(Node::Ref(target), node, &at, depth)?;
        }
        if let Some(inner) = fields.get("not") {
            let at = format!("{place}/not");
            match self.build(inner, &at, depth + 1)? {
                Node::Any => node = Node::never("not excludes everything"),
                Node::Never(_) => {}
                _ => self.unenforced(&at, "cannot be enforced")?,
            }
        }
        self.unevaluated(node, fields, place, depth)
    }

    /// The branches of a `oneOf`, if at most one can hold.
    fn exclusive(&mut self, branches: Vec<Node>, place: &str) -> Built<Vec<Node>> {
        if branches.len() > MAX_BRANCHES {
            return Err(self.too_much(place, format!("has more than {MAX_BRANCHES} branches")));
        }
        let mut resolved = Vec::new();
        for branch in &branches {
            let mut branch = branch.clone();
            for _ in 0..8 {
                let Node::Ref(target) = &branch else { break };
                branch = self.resolve(&target.clone())?;
            }
            resolved.push(branch);
        }
        let mut work = self.matching;
        for (index, a) in resolved.iter().enumerate() {
            let clash = resolved[index + 1..]
                .iter()
                .position(|b| !a.excludes(b, &mut work));
            if let Some(offset) = clash {
                let other = index + 1 + offset;
                let message = format!(
                    "cannot be enforced: a value may fit branch {index} and branch {other}; use anyOf"
                );
                self.unenforced(place, message)?;
            }
        }
        self.matching = work;
        Ok(branches)
    }

    fn list<'v>(
        &self,
        fields: &'v Map<String, Value>,
        place: &str,
        key: &str,
    ) -> Built<&'v [Value]> {
        match fields.get(key) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.invalid(&format!("{place}/{key}"), "expected a list")),
        }
    }

    fn count(&self, fields: &Map<String, Value>, place: &str, key: &str) -> Built<Option<usize>> {
        let Some(value) = fields.get(key) else {
            return Ok(None);
        };
        let whole = value
            .as_f64()
            .filter(|number| *number >= 0.0 && number.fract() == 0.0);
        // Numbers beyond any list are any number.
        let whole = whole.map(|number| number.min(1e9) as usize);
        let expected = "expected a whole number from 0";
        whole
            .map(Some)
            .ok_or_else(|| self.invalid(&format!("{place}/{key}"), expected))
    }

    /// What the keywords of each type say.
    fn by_type(&mut self, fields: &Map<String, Value>, place: &str, depth: usize) -> Built<Node> {
        let at = format!("{place}/type");
        let named: Vec<&str> = match fields.get("type") {
            None => TYPES.to_vec(),
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) => {
                let names: Option<Vec<_>> = names.iter().map(Value::as_str).collect();
                names.ok_or_else(|| self.invalid(&at, "expected names of types"))?
            }
            Some(_) => return Err(self.invalid(&at, "expected the name of a type")),
        };
        let untyped = !fields.contains_key("type");
        let mut nodes = Vec::new();
        let mut says_something = false;
        for name in &named {
            let node = match *name {
                "null" => Node::Null,
                "boolean" => Node::Boolean,
                "integer" if named.contains(&"number") => continue,
                "number" | "integer" => {
                    Node::Number(self.number(fields, place, *name == "integer")?)
                }
                "string" => Node::String(self.string(fields, place)?),
                "array" => Node::Array(self.array(fields, place, depth)?),
                "object" => self.object(fields, place, depth)?,
                name => return Err(self.invalid(&at, format!("there is no type {name:?}"))),
            };
            says_something |= match &node {
                Node::Number(form) => *form != NumberForm::default(),
                Node::String(form) => {
                    form.min > 0 || form.max.is_some() || !form.patterns.is_empty()
                }
                Node::Array(form) => {
                    !form.first.is_empty()
                        || form.rest.is_some()
                        || form.min > 0
                        || form.max.is_some()
                }
                Node::Object(form) => !form.is_any(),
                Node::Never(_) => true,
                _ => false,
            };
            nodes.push(node);
        }
        if untyped && !says_something {
            return Ok(Node::Any);
        }
        Ok(Node::either(nodes))
    }

    fn number(
        &mut self,
        fields: &Map<String, Value>,
        place: &str,
        integer: bool,
    ) -> Built<NumberForm> {
        let mut form = NumberForm {
            integer,
            ..NumberForm::default()
        };
        let mut bounds = [
            ("minimum", "exclusiveMinimum", None),
            ("maximum", "exclusiveMaximum", None),
        ];
        for (index, (key, exclusive_key, bound)) in bounds.iter_mut().enumerate() {
            let of = |key: &str| match fields.get(key) {
                None | Some(Value::Bool(_)) => Ok(None),
                Some(Value::Number(number)) => Ok(Some(Decimal::of(number))),
                Some(_) => Err(self.invalid(&format!("{place}/{key}"), "expected a number")),
            };
            // In draft 4 a boolean says whether the other bound is one of them.
            let exclusive = fields.get(*exclusive_key) == Some(&Value::Bool(true));
            let own = of(key)?.map(|value| Bound { value, exclusive });
            let other = of(exclusive_key)?.map(|value| Bound {
                value,
                exclusive: true,
            });
            let one = |bound| match index {
                0 => NumberForm {
                    min: bound,
                    ..NumberForm::default()
                },
                _ => NumberForm {
                    max: bound,
                    ..NumberForm::default()
                },
            };
            let both = one(own).and(one(other));
            *bound = if index == 0 { both.min } else { both.max };
        }
        let [(.., min), (.., max)] = bounds;
        (form.min, form.max) = (min, max);
        match fields.get("multipleOf") {
            None => {}
            Some(Value::Number(divisor))
                if divisor.as_f64().is_some_and(|divisor| divisor > 0.0) =>
            {
                if number::multiples(divisor).is_some() || number::automaton(divisor).is_some() {
                    form.multiples.push(divisor.clone());
                } else if self.strict {
                    let most = number::MAX_DIVISOR;
                    let message =
                        format!("{divisor} takes an automaton of more than {most} states");
                    return Err(self.too_much(&format!("{place}/multipleOf"), message));
                }
            }
            Some(_) => {
                return Err(
                    self.invalid(&format!("{place}/multipleOf"), "expected a number above 0")
                );
            }
        }
        Ok(form)
    }

    fn string(&mut self, fields: &Map<String, Value>, place: &str) -> Built<StringForm> {
        let mut form = StringForm {
            min: self.count(fields, place, "minLength")?.unwrap_or(0),
            max: self.count(fields, place, "maxLength")?,
            patterns: Vec::new(),
        };
        let mut has_pattern = false;
        if let Some(value) = fields.get("pattern") {
            let at = format!("{place}/pattern");
            let Some(text) = value.as_str() else {
                return Err(self.invalid(&at, "expected a string"));
            };
            has_pattern = true;
            form.patterns.extend(self.pattern(text, &at)?);
        }
        if let Some(value) = fields.get("format") {
            let at = format!("{place}/format");
            let Some(name) = value.as_str() else {
                return Err(self.invalid(&at, "expected a string"));
            };
            match formats::lookup(name) {
                Format::Pattern(text) if !has_pattern || formats::is_standard(name) => {
                    form.patterns.extend(self.pattern(text, &at)?);
                }
                Format::Unknown if !has_pattern => {
                    let message = format!(
                        "there is no format {name:?} that could be enforced; put a pattern beside it"
                    );
                    self.unenforced(&at, message)?;
                }
                // Beside a pattern it is an annotation.
                _ => {}
            }
        } else if let (Some(name), false) = (
            fields.get("contentEncoding").and_then(Value::as_str),
            has_pattern,
        ) && matches!(name, "base64" | "base64url")
            && let Format::Pattern(text) = formats::lookup(name)
        {
            form.patterns.extend(self.pattern(text, place)?);
        }
        Ok(form)
    }

    fn pattern(&mut self, text: &str, place: &str) -> Built<Option<Pattern>> {
        limit(
            &format!("{}{}", self.option, short(place)),
            "bytes of a pattern",
            text.len(),
            pattern::MAX_BYTES,
        )?;
        self.pattern_bytes = self.pattern_bytes.checked_sub(text.len()).ok_or_else(|| {
            self.too_much(
                place,
                format!("there are more than {MAX_PATTERN_BYTES} bytes of patterns"),
            )
        })?;
        let text = formats::equivalent(text).unwrap_or(text);
        // What cannot be written as a terminal is refused here, where its place is known.
        let read = Pattern::parse(text)
            .and_then(|pattern| quote::text_with(&pattern, Script::Json).map(|_| pattern));
        match read {
            Ok(pattern) => Ok(Some(pattern)),
            Err(message) if message.ends_with("cannot be enforced") => {
                self.unenforced(place, message)?;
                Ok(None)
            }
            Err(message) if message.contains("too large") || message.contains("more than") => {
                Err(self.too_much(place, message))
            }
            Err(message) => Err(self.invalid(place, message)),
        }
    }

    fn array(
        &mut self,
        fields: &Map<String, Value>,
        place: &str,
        depth: usize,
    ) -> Built<ArrayForm> {
        let mut form = ArrayForm {
            min: self.count(fields, place, "minItems")?.unwrap_or(0),
            max: self.count(fields, place, "maxItems")?,
            ..ArrayForm::default()
        };
        // Before 2020 a list of `items` was what `prefixItems` is now, and `additionalItems` what stands behind.
        let (first, rest) = match fields.get("items") {
            Some(Value::Array(_)) => ("items", "additionalItems"),
            _ => ("prefixItems", "items"),
        };
        for (index, item) in self.list(fields, place, first)?.iter().enumerate() {
            form.first
                .push(self.build(item, &format!("{place}/{first}/{index}"), depth + 1)?);
        }
        if let Some(item) = fields.get(rest) {
            let item = self.build(item, &format!("{place}/{rest}"), depth + 1)?;
            form.rest = (!matches!(item, Node::Any)).then(|| Box::new(item));
        }
        if fields.get("uniqueItems") == Some(&Value::Bool(true))
            && form.max.is_none_or(|max| max > 1)
        {
            self.unenforced(&format!("{place}/uniqueItems"), "cannot be enforced")?;
        }
        Ok(form)
    }

    fn object(&mut self, fields: &Map<String, Value>, place: &str, depth: usize) -> Built<Node> {
        let mut form = ObjectForm {
            min: self.count(fields, place, "minProperties")?.unwrap_or(0),
            max: self.count(fields, place, "maxProperties")?,
            place: place.to_owned(),
            ..ObjectForm::default()
        };
        let named = |key: &str| match fields.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Object(inner)) => Ok(inner.iter().collect::<Vec<_>>()),
            Some(_) => Err(self.invalid(&format!("{place}/{key}"), "expected an object")),
        };
        let (properties, patterns) = (named("properties")?, named("patternProperties")?);
        if patterns.len() > MAX_PATTERNS {
            let at = format!("{place}/patternProperties");
            return Err(self.too_much(&at, format!("has more than {MAX_PATTERNS} patterns")));
        }
        for (name, value) in properties {
            let at = format!("{place}/properties/{}", escape(name));
            form.properties
                .push((name.clone(), self.build(value, &at, depth + 1)?));
        }
        for (text, value) in patterns {
            let at = format!("{place}/patternProperties/{}", escape(text));
            let node = self.build(value, &at, depth + 1)?;
            match self.pattern(text, &at)? {
                Some(pattern) => form.patterns.push((text.clone(), pattern, node)),
                None => form.rest = None,
            }
        }
        if let Some(value) = fields.get("additionalProperties") {
            let node = self.build(value, &format!("{place}/additionalProperties"), depth + 1)?;
            form.rest = (!matches!(node, Node::Any)).then(|| Box::new(node));
        }
        for name in self.list(fields, place, "required").or_else(|error| {
            // In draft 3 a boolean beside each property.
            if fields.get("required").is_some_and(Value::is_boolean) {
                Ok(&[])
            } else {
                Err(error)
            }
        })? {
            let at = format!("{place}/required");
            let name = name
                .as_str()
                .ok_or_else(|| self.invalid(&at, "expected names of properties"))?;
            form.required.insert(name.to_owned());
        }
        if let Some(value) = fields.get("propertyNames") {
            let at = format!("{place}/propertyNames");
            let names = self.build(value, &at, depth + 1)?;
            return self.with_names(form, names, &at, depth);
        }
        self.settled(form, place, depth)
    }

    /// An object whose names fit a schema.
    fn with_names(
        &mut self,
        mut form: ObjectForm,
        names: Node,
        place: &str,
        depth: usize,
    ) -> Built<Node> {
        let string = Node::String(StringForm::default());
        let choices = match self.and(names, string, place, depth)? {
            Node::String(names) => {
                if names.min > 0 || names.max.is_some() || !names.patterns.is_empty() {
                    form.names.push(names);
                }
                return self.settled(form, place, depth);
            }
            Node::Never(_) => Vec::new(),
            Node::Either(nodes) => nodes,
            node => vec![node],
        };
        let mut allowed = BTreeSet::new();
        for choice in &choices {
            match choice {
                Node::Const(Value::String(name)) => allowed.insert(name.clone()),
                _ => {
                    self.unenforced(
                        place,
                        "cannot be enforced: expected names, or a pattern of them",
                    )?;
                    return self.settled(form, place, depth);
                }
            };
        }
        let by_name = form.by_name();
        let mut settled = ObjectForm {
            properties: Vec::new(),
            ..form.clone()
        };
        // In the order in which they are listed.
        for choice in choices {
            if let Node::Const(Value::String(name)) = choice
                && allowed.remove(&name)
            {
                let node = self.of(
                    &form,
                    &name,
                    by_name.get(name.as_str()).copied(),
                    place,
                    depth,
                )?;
                settled.properties.push((name, node));
            }
        }
        settled.patterns.clear();
        settled.rest = Some(Box::new(Node::never("its name is not allowed")));
        self.settled(settled, place, depth)
    }

    /// All that an object says of one property.
    fn of(
        &mut self,
        form: &ObjectForm,
        name: &str,
        named: Option<&Node>,
        place: &str,
        depth: usize,
    ) -> Built<Node> {
        let nodes = form.of(name, named, &mut self.matching);
        if self.matching == 0 {
            return Err(self.too_much(
                place,
                "takes too long to match its names against its patterns",
            ));
        }
        let mut node = Node::Any;
        for other in nodes {
            node = self.and(node, other, place, depth)?;
        }
        Ok(node)
    }

    /// An object with patterns applied to the properties that it names, and those that must be there named.
    fn settled(&mut self, mut form: ObjectForm, place: &str, depth: usize) -> Built<Node> {
        let known: BTreeSet<String> = form
            .properties
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        let mut names: Vec<String> = Vec::new();
        // Patterns of a few names are written out: so they are counted, and none comes twice.
        let mut spelt = BTreeSet::new();
        for (text, pattern, _) in &form.patterns {
            if let Some(texts) = pattern.texts(MAX_NAMES)
                && names.len() + texts.len() <= MAX_NAMES
            {
                names.extend(texts);
                spelt.insert(text.clone());
            }
        }
        names.extend(form.required.iter().cloned());
        let mut added = BTreeSet::new();
        names.retain(|name| !known.contains(name) && added.insert(name.clone()));
        let mut properties = std::mem::take(&mut form.properties);
        if !form.patterns.is_empty() {
            for (name, node) in &mut properties {
                *node = self.of(&form, name, Some(node), place, depth)?;
            }
        }
        for name in names {
            let node = self.of(&form, &name, None, place, depth)?;
            properties.push((name, node));
        }
        if properties.len() > MAX_PROPERTIES {
            return Err(self.too_much(place, format!("has more than {MAX_PROPERTIES} properties")));
        }
        form.properties = properties;
        form.patterns.retain(|(text, ..)| !spelt.contains(text));
        Ok(Node::Object(form))
    }

    /// What both say.
    pub fn and(&mut self, a: Node, b: Node, place: &str, depth: usize) -> Built<Node> {
        self.step(place)?;
        if depth > MAX_DEPTH {
            return Err(self.too_much(place, format!("is more than {MAX_DEPTH} schemas deep")));
        }
        Ok(match (a, b) {
            (Node::Any, node) | (node, Node::Any) => node,
            (Node::Never(reason), _) | (_, Node::Never(reason)) => Node::Never(reason),
            (Node::Ref(a), Node::Ref(b)) if a == b => Node::Ref(a),
            (Node::Ref(target), other) => {
                let target = self.entered(target, place)?;
                let node = self.and(target, other, place, depth + 1);
                self.resolving.pop();
                node?
            }
            (other, Node::Ref(target)) => {
                let target = self.entered(target, place)?;
                let node = self.and(other, target, place, depth + 1);
                self.resolving.pop();
                node?
            }
            (Node::Either(nodes), other) => {
                let mut both = Vec::new();
                for node in nodes {
                    both.push(self.and(node, other.clone(), place, depth + 1)?);
                }
                Node::either(both)
            }
            (other, Node::Either(nodes)) => {
                let mut both = Vec::new();
                for node in nodes {
                    both.push(self.and(other.clone(), node, place, depth + 1)?);
                }
                Node::either(both)
            }
            (Node::Const(value), node) | (node, Node::Const(value)) => {
                if node.may_hold(&value, &mut self.matching) {
                    Node::Const(value)
                } else {
                    Node::never(format!("{} does not fit", short(&value.to_string())))
                }
            }
            (Node::Null, Node::Null) => Node::Null,
            (Node::Boolean, Node::Boolean) => Node::Boolean,
            (Node::Number(a), Node::Number(b)) => Node::Number(a.and(b)),
            (Node::String(a), Node::String(b)) => {
                let both = a.and(b);
                if both.patterns.len() > MAX_TOGETHER {
                    return Err(self.too_much(
                        place,
                        format!("puts more than {MAX_TOGETHER} patterns together"),
                    ));
                }
                Node::String(both)
            }
            (Node::Array(a), Node::Array(b)) => Node::Array(self.arrays(a, b, place, depth)?),
            (Node::Object(a), Node::Object(b)) => self.objects(a, b, place, depth)?,
            _ => Node::never("no value has both types"),
        })
    }

    /// The target of a reference that is put together with something.
    fn entered(&mut self, target: String, place: &str) -> Built<Node> {
        if self.resolving.contains(&target) {
            return Err(self.invalid(
                place,
                "refers to itself beside other keywords, which cannot be enforced",
            ));
        }
        let node = self.resolve(&target)?;
        self.resolving.push(target);
        Ok(node)
    }

    fn arrays(
        &mut self,
        a: ArrayForm,
        b: ArrayForm,
        place: &str,
        depth: usize,
    ) -> Built<ArrayForm> {
        let rest = |form: &ArrayForm| form.rest.as_deref().cloned().unwrap_or(Node::Any);
        let mut first = Vec::new();
        for index in 0..a.first.len().max(b.first.len()) {
            let of =
                |form: &ArrayForm| form.first.get(index).cloned().unwrap_or_else(|| rest(form));
            first.push(self.and(of(&a), of(&b), place, depth + 1)?);
        }
        let rest = self.and(rest(&a), rest(&b), place, depth + 1)?;
        Ok(ArrayForm {
            first,
            rest: (!matches!(rest, Node::Any)).then(|| Box::new(rest)),
            min: a.min.max(b.min),
            max: least(a.max, b.max),
        })
    }

    fn objects(&mut self, a: ObjectForm, b: ObjectForm, place: &str, depth: usize) -> Built<Node> {
        let mut both = ObjectForm {
            min: a.min.max(b.min),
            max: least(a.max, b.max),
            place: if a.min >= b.min {
                a.place.clone()
            } else {
                b.place.clone()
            },
            ..ObjectForm::default()
        };
        both.names.extend(a.names.iter().chain(&b.names).cloned());
        both.required
            .extend(a.required.iter().chain(&b.required).cloned());
        let (in_a, in_b) = (a.by_name(), b.by_name());
        let more = b.properties.iter().map(|(name, _)| name);
        let more = more.filter(|name| !in_a.contains_key(name.as_str()));
        for name in a.properties.iter().map(|(name, _)| name).chain(more) {
            let from_a = self.of(&a, name, in_a.get(name.as_str()).copied(), place, depth + 1)?;
            let from_b = self.of(&b, name, in_b.get(name.as_str()).copied(), place, depth + 1)?;
            let node = self.and(from_a, from_b, place, depth + 1)?;
            both.properties.push((name.clone(), node));
        }
        let rest = |form: &ObjectForm| form.rest.as_deref().cloned().unwrap_or(Node::Any);
        for (one, other) in [(&a, &b), (&b, &a)] {
            for (text, pattern, node) in &one.patterns {
                if both.patterns.iter().any(|(own, ..)| own == text) {
                    continue;
                }
                let same = other.patterns.iter().find(|(own, ..)| own == text);
                let theirs = same.map_or_else(|| rest(other), |(.., node)| node.clone());
                let node = self.and(node.clone(), theirs, place, depth + 1)?;
                both.patterns.push((text.clone(), pattern.clone(), node));
            }
        }
        let rest = self.and(rest(&a), rest(&b), place, depth + 1)?;
        both.rest = (!matches!(rest, Node::Any)).then(|| Box::new(rest));
        Ok(Node::Object(both))
    }

    /// What is said of properties and items that no other keyword speaks of.
    fn unevaluated(
        &mut self,
        node: Node,
        fields: &Map<String, Value>,
        place: &str,
        depth: usize,
    ) -> Built<Node> {
        let mut node = node;
        for key in ["unevaluatedProperties", "unevaluatedItems"] {
            let Some(value) = fields.get(key) else {
                continue;
            };
            let at = format!("{place}/{key}");
            let rest = self.build(value, &at, depth + 1)?;
            if matches!(rest, Node::Any) {
                continue;
            }
            if let Node::Ref(target) = node {
                node = self.resolve(&target)?;
            }
            let close = |node: &mut Node| match node {
                Node::Object(form) if key == "unevaluatedProperties" => {
                    form.rest.get_or_insert_with(|| Box::new(rest.clone()));
                    true
                }
                Node::Array(form) if key == "unevaluatedItems" => {
                    form.rest.get_or_insert_with(|| Box::new(rest.clone()));
                    true
                }
                Node::Ref(_) | Node::Any => false,
                _ => true,
            };
            let closed = match &mut node {
                Node::Either(nodes) => nodes.iter_mut().all(close),
                node => close(node),
            };
            if !closed {
                self.unenforced(&at, "cannot be enforced here")?;
            }
        }
        Ok(node)
    }
}

/// A text in a message.
fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
