//! From what a schema says to a grammar: rules and terminals in llguidance's dialect of Lark.
//!
//! JSON is cut into terminals in one way: brackets, commas, colons, and each string, number and word as a whole. So whatever
//! may stand at a place, terminals begin and end together, and the lexer need not look back.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::build::Builder;
use super::node::{ArrayForm, Node, ObjectForm, StringForm};
use super::number::{self, NumberForm};
use super::pattern::Pattern;
use super::quote::{self, CHAR, Script};
use crate::error::EngineError;
use crate::guide::constraint::WhiteSpace;

/// White space between JSON's tokens, where it is wanted: a space, or a line break and an indentation.
const WHITE_SPACE: &str = "[ ]|\\r?\\n[ \\t]{0,32}";
/// Most bytes of a grammar.
const MAX_GRAMMAR: usize = 4 << 20;
/// Longer texts are cut into terminals of this many characters: the lexer's work grows with what is left of one.
const CHUNK: usize = 48;
/// Most states of counting an object's properties.
const MAX_COUNTED: usize = 4000;
/// Where more may be forced at once, the model chooses tokens one by one.
const MAX_FORCED: u64 = 256;
/// Most properties of an object that may be left out: any of them may be the next.
const MAX_OPTIONAL: usize = 800;
/// Whole numbers up to this one are exact as doubles.
const MAX_EXACT: i64 = (1 << 53) - 1;
/// Longer rules are given a name.
const LONG: usize = 2000;
/// No list or text counts further.
const MAX_REPEAT: usize = 1_000_000;

type Emitted = Result<Option<String>, EngineError>;

/// A terminal's body.
pub struct TerminalBody {
    pub text: String,
    /// Whether no text at all fits, as far as its length says.
    pub may_be_empty: bool,
}

/// Writes a grammar.
pub struct Emitter<'a> {
    builder: Builder<'a>,
    white_space: WhiteSpace,
    text: String,
    named: HashMap<String, String>,
    count: usize,
    references: HashMap<String, String>,
    pending: Vec<String>,
    /// Long texts: what is forced is not looked for from each token to their end.
    unforced: bool,
}

/// Terms whose product is the text of a string.
fn string_body(form: &StringForm, script: Script) -> Result<String, String> {
    let (char, quote) = (script.char(), script.quote());
    let mut parts = Vec::new();
    for pattern in &form.patterns {
        let part = quote::text_with(pattern, script)?;
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    match (
        form.min.min(MAX_REPEAT),
        form.max.map(|max| max.min(MAX_REPEAT)),
    ) {
        (0, None) if parts.is_empty() => parts.push(format!("/{quote}{char}*{quote}/")),
        (0, None) => {}
        (min, None) => parts.push(format!("/{quote}{char}{{{min},}}{quote}/")),
        (min, Some(max)) => {
            parts.push(format!("/{quote}{char}{{{min},{}}}{quote}/", max.max(min)));
        }
    }
    Ok(parts.join(" & "))
}

impl<'a> Emitter<'a> {
    pub fn new(builder: Builder<'a>, white_space: WhiteSpace) -> Self {
        Self {
            builder,
            white_space,
            text: String::new(),
            named: HashMap::new(),
            count: 0,
            references: HashMap::new(),
            pending: Vec::new(),
            unforced: false,
        }
    }

    /// The grammar of the whole schema.
    pub fn grammar(mut self) -> Result<String, EngineError> {
        let start = self.reference("")?;
        while let Some(place) = self.pending.pop() {
            let rule = self.references[&place].clone();
            let node = self.target(&place)?;
            match self.node(&node)? {
                Some(body) => drop(writeln!(self.text, "{rule}: {body}")),
                None => {
                    let reason = match node {
                        Node::Never(reason) => format!("nothing fits: {reason}"),
                        _ => "nothing fits".to_owned(),
                    };
                    return Err(self.builder.invalid(&place, reason));
                }
            }
            if self.text.len() > MAX_GRAMMAR {
                return Err(self
                    .builder
                    .too_much(&place, "is too large once it is written as a grammar"));
            }
        }
        if self.is_flexible() {
            self.text += "ws: WS?\n";
            let _ = writeln!(self.text, "WS: /{WHITE_SPACE}/");
        }
        if self.unforced || repeats_much(&self.text) {
            self.text += "%llguidance { \"no_forcing\": true }\n";
        }
        Ok(format!("start: {start}\n{}", self.text))
    }

    /// What a text without quotation marks must be, as terms; none where it may be anything.
    pub fn text(mut self) -> Result<Option<TerminalBody>, EngineError> {
        let node = self.target("")?;
        let nodes = match node {
            Node::Either(nodes) => nodes,
            node => vec![node],
        };
        let mut choices = Vec::new();
        let mut may_be_empty = false;
        let mut is_free = false;
        for node in &nodes {
            match node {
                Node::String(form)
                    if form.min == 0 && form.max.is_none() && form.patterns.is_empty() =>
                {
                    is_free = true;
                }
                Node::String(form) => match string_body(form, Script::Plain) {
                    Ok(body) => {
                        may_be_empty |= form.min == 0;
                        choices.push(format!("({body})"));
                    }
                    Err(message) => {
                        self.builder
                            .unenforced("", format!("a pattern {message}"))?;
                        is_free = true;
                    }
                },
                Node::Const(Value::String(text)) => {
                    may_be_empty |= text.is_empty();
                    choices.push(literal(text));
                }
                Node::Const(value) => choices.push(literal(&value.to_string())),
                Node::Null => choices.push("\"null\"".to_owned()),
                Node::Boolean => choices.push("\"true\" | \"false\"".to_owned()),
                Node::Never(_) => {}
                _ => is_free = true,
            }
        }
        let is_bound = nodes.iter().any(|node| {
            matches!(node, Node::String(form) if form.min > 0 || form.max.is_some() || !form.patterns.is_empty())
        });
        if is_free && is_bound {
            self.builder.unenforced(
                "",
                "bounds of a text beside values of other types".to_owned(),
            )?;
        }
        Ok((!is_free && !choices.is_empty()).then(|| TerminalBody {
            text: choices.join(" | "),
            may_be_empty,
        }))
    }

    /// What stands at a place, through references that only refer.
    fn target(&mut self, place: &str) -> Result<Node, EngineError> {
        let mut node = self.builder.resolve(place)?;
        for _ in 0..100 {
            let Node::Ref(target) = &node else {
                return Ok(node);
            };
            node = self.builder.resolve(&target.clone())?;
        }
        Err(self.builder.invalid(place, "refers only to itself"))
    }

    fn reference(&mut self, place: &str) -> Result<String, EngineError> {
        if let Some(rule) = self.references.get(place) {
            return Ok(rule.clone());
        }
        let rule = self.fresh("r");
        self.references.insert(place.to_owned(), rule.clone());
        self.pending.push(place.to_owned());
        Ok(rule)
    }

    fn fresh(&mut self, letter: &str) -> String {
        self.count += 1;
        format!("{letter}{}", self.count)
    }

    /// The name of a terminal.
    fn terminal(&mut self, body: &str) -> String {
        self.define("T", body)
    }

    /// The name of a rule.
    fn rule(&mut self, body: &str) -> String {
        self.define("n", body)
    }

    fn define(&mut self, letter: &str, body: &str) -> String {
        if let Some(name) = self.named.get(body) {
            return name.clone();
        }
        let name = self.fresh(letter);
        let _ = writeln!(self.text, "{name}: {body}");
        self.named.insert(body.to_owned(), name.clone());
        name
    }

    fn is_flexible(&self) -> bool {
        self.white_space == WhiteSpace::Flexible
    }

    fn space(&self) -> &'static str {
        if self.is_flexible() { " ws " } else { " " }
    }

    fn comma(&self) -> &'static str {
        match self.white_space {
            WhiteSpace::Compact => "\",\"",
            WhiteSpace::Spaced => "/, ?/",
            WhiteSpace::Flexible => "ws \",\" ws",
        }
    }

    fn colon(&self) -> &'static str {
        match self.white_space {
            WhiteSpace::Compact => "\":\"",
            WhiteSpace::Spaced => "/: ?/",
            WhiteSpace::Flexible => "ws \":\" ws",
        }
    }

    /// What is written for a schema; nothing where nothing fits.
    fn node(&mut self, node: &Node) -> Emitted {
        Ok(match node {
            Node::Never(_) => None,
            Node::Any => Some(self.any()),
            Node::Null => Some("\"null\"".to_owned()),
            Node::Boolean => Some(self.terminal("\"true\" | \"false\"")),
            Node::Const(value) => Some(self.constant(value)),
            Node::Ref(place) => Some(self.reference(place)?),
            Node::Number(form) => self.number(form)?,
            Node::String(form) => self.string(form)?,
            Node::Array(form) => self.array(form)?,
            Node::Object(form) => self.object(form)?,
            Node::Either(nodes) => self.either(nodes)?,
        })
    }

    fn either(&mut self, nodes: &[Node]) -> Emitted {
        // Words and short texts make one terminal.
        let mut words = Vec::new();
        let mut choices = Vec::new();
        for node in nodes {
            match node {
                Node::Const(Value::Array(_) | Value::Object(_)) => choices.extend(self.node(node)?),
                Node::Const(value) => match value.to_string() {
                    text if text.len() <= CHUNK * 4 => words.push(literal(&text)),
                    _ => choices.push(self.constant(value)),
                },
                node => choices.extend(self.node(node)?),
            }
        }
        if !words.is_empty() {
            words.dedup();
            choices.push(self.terminal(&words.join(" | ")));
        }
        choices.dedup();
        Ok(match choices.len() {
            0 => None,
            1 => choices.pop(),
            _ => Some(format!("({})", choices.join(" | "))),
        })
    }

    fn constant(&mut self, value: &Value) -> String {
        match value {
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| self.constant(item)).collect();
                self.enclosed('[', &items.join(&format!(" {} ", self.comma())), ']')
            }
            Value::Object(fields) => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(name, value)| {
                        let value = self.constant(value);
                        format!("{} {} {value}", name_literal(name), self.colon())
                    })
                    .collect();
                self.enclosed('{', &fields.join(&format!(" {} ", self.comma())), '}')
            }
            value => {
                let text = value.to_string();
                if text.len() <= CHUNK * 4 {
                    return literal(&text);
                }
                self.unforced = true;
                let chars: Vec<char> = text.chars().collect();
                let chunks = chars
                    .chunks(CHUNK)
                    .map(|chunk| literal(&chunk.iter().collect::<String>()));
                // A rule of a rule for every so many: long ones are as cheap as short ones.
                let chunks: Vec<_> = chunks.collect();
                let parts: Vec<_> = chunks
                    .chunks(64)
                    .map(|part| self.rule(&part.join(" ")))
                    .collect();
                self.rule(&parts.join(" "))
            }
        }
    }

    fn enclosed(&self, open: char, inner: &str, close: char) -> String {
        let space = self.space();
        let (open, close) = (literal(&open.to_string()), literal(&close.to_string()));
        if inner.is_empty() {
            return format!("{open}{space}{close}");
        }
        format!("{open}{space}{inner}{space}{close}")
    }

    fn any(&mut self) -> String {
        if !self.named.contains_key("any") {
            self.named.insert("any".to_owned(), "any".to_owned());
            let string = self.terminal(&format!("/\"{CHAR}*\"/"));
            let number = NumberForm::default().terminal().unwrap_or_default();
            let number = self.terminal(&number);
            let word = self.terminal("\"true\" | \"false\" | \"null\"");
            let (comma, colon) = (self.comma(), self.colon());
            let field = format!("{string} {colon} any");
            let list = self.optional_inside('[', &format!("any ({comma} any)*"), ']');
            let object = self.optional_inside('{', &format!("{field} ({comma} {field})*"), '}');
            let _ = writeln!(
                self.text,
                "any: {string} | {number} | {word} | {list} | {object}"
            );
        }
        "any".to_owned()
    }

    fn optional_inside(&self, open: char, inner: &str, close: char) -> String {
        let space = self.space();
        let (open, close) = (literal(&open.to_string()), literal(&close.to_string()));
        format!("{open}{space}({inner}{space})? {close}")
    }

    fn number(&mut self, form: &NumberForm) -> Emitted {
        let Some(range) = form.terminal() else {
            return Ok(None);
        };
        let mut parts = vec![range];
        let mut automaton = None;
        for divisor in &form.multiples {
            match number::multiples(divisor) {
                Some(terminal) => parts.push(terminal),
                None if automaton.is_none() => automaton = Some(divisor),
                None => {
                    self.builder.unenforced(
                        "",
                        "cannot be enforced: it has to be a multiple of two numbers",
                    )?;
                }
            }
        }
        let Some(divisor) = automaton else {
            return Ok(Some(self.terminal(&parts.join(" & "))));
        };
        if parts.len() > 1 {
            self.builder.unenforced(
                "",
                "cannot be enforced: it has to be a multiple of two numbers",
            )?;
            return Ok(Some(self.terminal(&parts.join(" & "))));
        }
        let kind = if form.integer { "integer" } else { "number" };
        let mut schema = json!({ "type": kind, "multipleOf": divisor });
        // Bounds beyond what a double counts in ones are no bounds here.
        for (key, exclusive, bound) in [
            ("minimum", "exclusiveMinimum", &form.min),
            ("maximum", "exclusiveMaximum", &form.max),
        ] {
            let Some(bound) = bound else {
                // Beyond it doubles have gaps, and every number is a multiple of something else.
                schema[key] = json!(if key == "minimum" {
                    -MAX_EXACT
                } else {
                    MAX_EXACT
                });
                continue;
            };
            if let Some(value) = bound.value.to_f64().filter(|value| value.abs() < 1e15) {
                schema[if bound.exclusive { exclusive } else { key }] = json!(value);
            }
        }
        Ok(Some(format!("%json {schema}")))
    }

    fn string(&mut self, form: &StringForm) -> Emitted {
        let body = match string_body(form, Script::Json) {
            Ok(body) => body,
            Err(message) => {
                self.builder
                    .unenforced("", format!("a pattern {message}"))?;
                format!("/\"{CHAR}*\"/")
            }
        };
        if form.max.is_some_and(|max| max < form.min) {
            return Ok(None);
        }
        Ok(Some(self.terminal(&body)))
    }

    fn array(&mut self, form: &ArrayForm) -> Emitted {
        let mut max = form.max;
        let mut first = Vec::new();
        for (index, node) in form.first.iter().enumerate() {
            if max.is_some_and(|max| index >= max) {
                break;
            }
            match self.node(node)? {
                Some(item) => first.push(item),
                None => {
                    max = Some(index);
                    break;
                }
            }
        }
        let rest = match &form.rest {
            Some(rest) => self.node(rest)?,
            None => Some(self.any()),
        };
        if max.is_some_and(|max| max < form.min) {
            return Ok(None);
        }
        let comma = self.comma();
        let (least, most) = (
            form.min.saturating_sub(first.len()),
            max.map(|max| max.saturating_sub(first.len())),
        );
        // What stands behind each item, and whether it must.
        let mut behind: Option<(String, bool)> = match rest {
            Some(rest) if most != Some(0) => {
                let rest = self.short(rest);
                Some((repeated(&rest, comma, least.max(1), most), least > 0))
            }
            _ if least > 0 => return Ok(None),
            _ => None,
        };
        for (index, item) in first.into_iter().enumerate().rev() {
            let text = match behind {
                None => item,
                Some((behind, true)) => format!("{item} {comma} {behind}"),
                Some((behind, false)) => format!("{item} ({comma} {behind})?"),
            };
            behind = Some((self.short(text), index < form.min));
        }
        Ok(Some(match behind {
            None => self.enclosed('[', "", ']'),
            Some((inner, true)) => self.enclosed('[', &inner, ']'),
            Some((inner, false)) => self.optional_inside('[', &inner, ']'),
        }))
    }

    /// A text, or the name of a rule where it is long.
    fn short(&mut self, text: String) -> String {
        if text.len() > LONG {
            self.rule(&text)
        } else {
            text
        }
    }

    fn object(&mut self, form: &ObjectForm) -> Emitted {
        let colon = self.colon();
        let mut members = Vec::new();
        let mut work = 1_000_000;
        for (name, node) in &form.properties {
            let required = form.required.contains(name);
            let named = form.names.iter().all(|names| names.holds(name, &mut work));
            let value = if named { self.node(node)? } else { None };
            match value {
                Some(value) => {
                    let value = self.short(value);
                    members.push((format!("{} {colon} {value}", name_literal(name)), required));
                }
                None if required => return Ok(None),
                None => {}
            }
        }
        let optional = members.iter().filter(|(_, required)| !required).count();
        if optional > MAX_OPTIONAL {
            let message = format!("has more than {MAX_OPTIONAL} properties that may be left out");
            return Err(self.builder.too_much(&form.place, message));
        }
        let extras = self.extras(form)?;
        let required = members.iter().filter(|(_, required)| *required).count();
        if form.max.is_some_and(|max| max < required) {
            return Ok(None);
        }
        let need = form.min.saturating_sub(required);
        let room = form.max.map(|max| max - required);
        // Names that are not known may be written twice: together they count as one.
        let distinct = optional + usize::from(extras.is_some());
        let mut counted = need;
        if need > distinct {
            if extras.is_none() {
                return Ok(None);
            }
            let message = "cannot be enforced: names that only a pattern describes may come twice";
            self.builder
                .unenforced(&format!("{}/minProperties", form.place), message)?;
            counted = distinct;
        }
        let states = (members.len() + 1) * (room.unwrap_or(counted).min(members.len()) + 1);
        if (counted > 0 || room.is_some()) && states > MAX_COUNTED {
            let message = "there are too many properties to count";
            return Err(self.builder.too_much(&form.place, message));
        }
        if counted == 0 && room.is_none() {
            let comma = self.comma();
            if let Some(extra) = extras {
                members.push((repeated(&extra, comma, 1, None), false));
            }
            return Ok(Some(match self.uncounted(&members) {
                None => self.enclosed('{', "", '}'),
                Some((inner, true)) => self.enclosed('{', &inner, '}'),
                Some((inner, false)) => self.optional_inside('{', &inner, '}'),
            }));
        }
        let mut fields = Fields {
            members,
            extras,
            need: counted,
            room,
            known: HashMap::new(),
        };
        let inner = self.counted(&mut fields);
        Ok(inner.map(|inner| self.enclosed('{', &inner, '}')))
    }

    /// What properties that are not named may be.
    fn extras(&mut self, form: &ObjectForm) -> Emitted {
        if form.max == Some(form.required.len()) {
            return Ok(None);
        }
        let mut work = 1_000_000;
        let mut like = Vec::new();
        for (_, pattern, _) in &form.patterns {
            let body = quote::text_with(pattern, Script::Json).map_err(|message| {
                self.builder.invalid(
                    &format!("{}/patternProperties", form.place),
                    format!("a pattern {message}"),
                )
            })?;
            like.push(self.terminal(&body));
        }
        let mut names = Vec::new();
        for form in &form.names {
            match self.string(form)? {
                Some(name) => names.push(name),
                None => return Ok(None),
            }
        }
        let string = self.terminal(&format!("/\"{CHAR}*\"/"));
        let nodes = form.patterns.iter().map(|(.., node)| Some(node.clone()));
        let rest = form.rest.as_deref().cloned().unwrap_or(Node::Any);
        let nodes: Vec<_> = nodes.chain([None]).collect();
        let mut choices = Vec::new();
        for (index, node) in nodes.into_iter().enumerate() {
            let Some(value) = self.node(node.as_ref().unwrap_or(&rest))? else {
                continue;
            };
            // A name that two patterns describe is not written: it would have to fit both.
            let own = form.patterns.get(index).map(|(_, pattern, _)| pattern);
            let clashes = |other: &Pattern| own.is_none_or(|own| !own.excludes(other));
            let mut not: Vec<_> = (form.patterns.iter().zip(&like).enumerate())
                .filter(|(other, ((_, pattern, _), _))| *other != index && clashes(pattern))
                .map(|(_, (_, name))| format!("~{name}"))
                .collect();
            let taken: Vec<_> = (form.properties.iter())
                .filter(|(name, _)| {
                    own.is_none_or(|own| own.is_match(name, &mut work).unwrap_or(true))
                })
                .map(|(name, _)| name_literal(name))
                .collect();
            if !taken.is_empty() {
                not.push(format!("~{}", self.terminal(&taken.join(" | "))));
            }
            let own = like.get(index).unwrap_or(&string).clone();
            let parts: Vec<_> = [own]
                .into_iter()
                .chain(names.iter().cloned())
                .chain(not)
                .collect();
            let key = match parts.as_slice() {
                [one] => one.clone(),
                parts => self.terminal(&parts.join(" & ")),
            };
            let value = self.short(value);
            choices.push(format!("{key} {} {value}", self.colon()));
        }
        Ok(match choices.len() {
            0 => None,
            1 => choices.pop(),
            _ => Some(self.rule(&choices.join(" | "))),
        })
    }

    /// At least one of these properties in their order, and whether one must be there. Halves of halves: no rule goes deep.
    fn uncounted(&mut self, members: &[(String, bool)]) -> Option<(String, bool)> {
        match members {
            [] => return None,
            [(member, required)] => return Some((member.clone(), *required)),
            _ => {}
        }
        let (before, behind) = members.split_at(members.len() / 2);
        let (a, a_must) = self.uncounted(before)?;
        let (b, b_must) = self.uncounted(behind)?;
        let comma = self.comma();
        let text = match (a_must, b_must) {
            (true, true) => format!("{a} {comma} {b}"),
            (true, false) => format!("{a} ({comma} {b})?"),
            (false, true) => format!("({a} {comma})? {b}"),
            (false, false) => {
                let b = self.rule(&b);
                self.rule(&format!("{a} ({comma} {b})? | {b}"))
            }
        };
        Some((self.short(text), a_must || b_must))
    }

    /// The properties where it matters how many there are; nothing where that cannot be.
    fn counted(&mut self, fields: &mut Fields) -> Option<String> {
        for index in (0..=fields.members.len()).rev() {
            for count in 0..=fields.cap() {
                for first in [true, false] {
                    let text = self.field(fields, index, count, first);
                    let text = text.map(|text| {
                        if text.len() > LONG / 4 {
                            self.rule(&text)
                        } else {
                            text
                        }
                    });
                    fields.known.insert((index, count, first), text);
                }
            }
        }
        fields.known.get(&(0, 0, true)).cloned().flatten()
    }

    fn field(
        &mut self,
        fields: &Fields,
        index: usize,
        count: usize,
        first: bool,
    ) -> Option<String> {
        let comma = if first { "" } else { self.comma() };
        let known = |count: usize, first: bool| {
            fields
                .known
                .get(&(index + 1, count, first))
                .cloned()
                .flatten()
        };
        let Some((member, required)) = fields.members.get(index) else {
            return fields.end(count, comma, self.comma());
        };
        let with = |count| {
            known(count, false).map(|rest| format!("{comma} {member} {rest}").trim().to_owned())
        };
        if *required {
            return with(count);
        }
        let taken = if fields.room.is_none_or(|room| count < room) {
            with((count + 1).min(fields.cap()))
        } else {
            None
        };
        let left = known(count, first);
        match (taken, left) {
            (Some(taken), Some(left)) if left.is_empty() => Some(format!("({taken})?")),
            (Some(taken), Some(left)) => Some(self.rule(&format!("{taken} | {left}"))),
            (taken, left) => taken.or(left),
        }
    }
}

/// The properties of an object in their order.
struct Fields {
    members: Vec<(String, bool)>,
    extras: Option<String>,
    /// Fewest of those that need not be there, and most.
    need: usize,
    room: Option<usize>,
    /// What was written for the properties from one on.
    known: HashMap<(usize, usize, bool), Option<String>>,
}

impl Fields {
    /// Further counts make no difference.
    fn cap(&self) -> usize {
        self.room.map_or(self.need, |room| {
            room.min(self.members.len()).max(self.need)
        })
    }

    /// Behind the last one that is named.
    fn end(&self, count: usize, before: &str, comma: &str) -> Option<String> {
        let least = self.need.saturating_sub(count);
        let most = self.room.map(|room| room.saturating_sub(count));
        match &self.extras {
            Some(extra) if most != Some(0) && least <= 1 => {
                let text = repeated(extra, comma, 1, most);
                let text = format!("{before} {text}").trim().to_owned();
                Some(if least > 0 {
                    text
                } else {
                    format!("({text})?")
                })
            }
            _ if least > 0 => None,
            _ => Some(String::new()),
        }
    }
}

/// So many items with commas between them.
fn repeated(item: &str, comma: &str, least: usize, most: Option<usize>) -> String {
    let least = least.saturating_sub(1).min(MAX_REPEAT);
    match most.map(|most| most.saturating_sub(1).min(MAX_REPEAT)) {
        Some(0) => item.to_owned(),
        Some(most) => format!("{item} ({comma} {item}){{{least},{}}}", most.max(least)),
        None if least == 0 => format!("{item} ({comma} {item})*"),
        None => format!("{item} ({comma} {item}){{{least},}}"),
    }
}

/// Whether a grammar may force a long text by counting.
pub fn repeats_much(grammar: &str) -> bool {
    let counts = grammar.split('{').skip(1).filter_map(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        rest[..digits].parse::<u64>().ok()
    });
    counts.fold(1u64, |all, count| all.saturating_mul(count.max(1))) > MAX_FORCED
}

fn literal(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// A property's name as a terminal.
fn name_literal(name: &str) -> String {
    literal(&literal(name))
}
