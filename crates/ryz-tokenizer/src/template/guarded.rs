//! Closes what minijinja's fuel leaves open: values that are small to build and huge to walk.
//!
//! Fuel pays for instructions and for the bytes and slots that they make, but a value may hold another many times over:
//! forty times `[x, x]` is a list of 2⁴⁰ leaves in eighty slots. Comparing, hashing or printing such a value is one
//! instruction. So the compiled template is changed where an instruction, filter or method looks into a value: it first
//! walks the value, and pays for what it meets. Every change keeps the number of values taken from and left on the stack, so
//! that no jump has to move.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, Value,
    machinery::{CodeGenerator, Instruction, Instructions, parse},
    syntax::SyntaxConfig,
    value::{Rest, Tuple, ValueKind},
};

use super::python;

/// How deeply a value may nest when it is looked into.
const MAX_DEPTH: usize = 100;
/// Values met for a unit of fuel.
const VALUES_PER_FUEL: u64 = 8;
/// Bytes of text met for a unit of fuel.
const BYTES_PER_FUEL: u64 = 64;

/// Filters that look at a value and not into it, or that pay for themselves.
const SHALLOW: [&str; 11] = [
    "attr", "count", "d", "default", "first", "items", "last", "length", "list", "reverse",
    "tojson",
];
/// Tests that look into their operands.
const DEEP_TESTS: [&str; 16] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "eq",
    "equalto",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "le",
    "lessthan",
    "lt",
    "ne",
];

/// No id for a filter that is looked up once and kept.
const UNCACHED: u8 = u8::MAX;

/// A template's instructions, and those of its blocks.
pub(super) struct Program<'a> {
    pub(super) instructions: Instructions<'a>,
    pub(super) blocks: BTreeMap<&'a str, Instructions<'a>>,
}

/// The names that calls of filters, tests and methods get, `|trim`, `?eq` and `.items`: they live as long as the template.
pub(super) struct Names(Vec<String>);

impl Names {
    /// For every filter and test that occurs in the source, which is every word in it.
    pub(super) fn new(source: &str) -> Names {
        let words = source.split(|c: char| !(c.is_alphanumeric() || "_=<>!".contains(c)));
        let mut names: Vec<String> = words
            .filter(|word| !word.is_empty() && word.len() <= 32)
            .flat_map(|word| [format!("|{word}"), format!("?{word}"), format!(".{word}")])
            .chain(DEEP_TESTS.map(|test| format!("?{test}")))
            .collect();
        names.sort_unstable();
        names.dedup();
        Names(names)
    }

    fn get(&self, prefix: char, name: &str) -> Option<&str> {
        let name = format!("{prefix}{name}");
        self.0.binary_search(&name).ok().map(|i| self.0[i].as_str())
    }
}

/// Parses, compiles and guards a template.
pub(super) fn compile<'a>(
    name: &'a str,
    source: &'a str,
    syntax: SyntaxConfig,
    names: &'a Names,
) -> Result<Program<'a>, Error> {
    let tree = parse(source, name, syntax)?;
    let mut generator = CodeGenerator::new(name, source);
    generator.compile_stmt(&tree);
    let (mut instructions, mut blocks) = generator.finish();
    for instructions in blocks.values_mut().chain([&mut instructions]) {
        guard(instructions, names)?;
        expand_comparisons(instructions);
    }
    Ok(Program {
        instructions,
        blocks,
    })
}

fn guard<'a>(instructions: &mut Instructions<'a>, names: &'a Names) -> Result<(), Error> {
    let mut index = 0;
    while let Some(instruction) = instructions.get_mut(index) {
        let operator = |name| Instruction::ApplyFilter(name, Some(2), UNCACHED);
        let call = |prefix, name: &str, count: Option<u16>| match (names.get(prefix, name), count) {
            (Some(name), Some(count)) => Ok(Instruction::CallMethod(name, Some(count))),
            _ => Err(unsupported(format!(
                "{prefix}{name} with unpacked arguments"
            ))),
        };
        let guarded = match *instruction {
            Instruction::Add => operator("operator_add"),
            Instruction::StringConcat => operator("operator_concat"),
            Instruction::Eq => operator("operator_eq"),
            Instruction::Ne => operator("operator_ne"),
            Instruction::Lt => operator("operator_lt"),
            Instruction::Lte => operator("operator_le"),
            Instruction::Gt => operator("operator_gt"),
            Instruction::Gte => operator("operator_ge"),
            Instruction::In => operator("operator_in"),
            Instruction::GetItem => operator("operator_item"),
            Instruction::BuildMap(pairs) if pairs < 1 << 12 => {
                Instruction::ApplyFilter("operator_map", Some(2 * pairs as u16), UNCACHED)
            }
            Instruction::BuildMap(_) => return Err(unsupported("so large a map".to_owned())),
            Instruction::Rem => operator("operator_rem"),
            // What is a method in Python is found before a key of the same name.
            Instruction::GetAttr(name) if python::is_method(name) => call('.', name, Some(1))?,
            Instruction::ApplyFilter(name, count, _) if !SHALLOW.contains(&name) => {
                call('|', name, count)?
            }
            Instruction::PerformTest(name, count, _) if DEEP_TESTS.contains(&name) => {
                call('?', name, count)?
            }
            _ => {
                index += 1;
                continue;
            }
        };
        *instruction = guarded;
        index += 1;
    }
    Ok(())
}

/// Lets both sides of the comparisons in a chain be walked first; jumps move with the instructions behind.
fn expand_comparisons(instructions: &mut Instructions<'_>) {
    let mut old = Vec::new();
    let mut places = Vec::new();
    let mut place = 0;
    while let Some(instruction) = instructions.get(old.len() as u32) {
        places.push(place);
        let chained = matches!(instruction, Instruction::CompareAndPreserve(_));
        place += if chained { 3 } else { 1 };
        let line = instructions.get_line(old.len() as u32);
        let line = line.map_or(u16::MAX, |line| u16::try_from(line).unwrap_or(u16::MAX));
        old.push((instruction.clone(), line));
    }
    if place as usize == old.len() {
        return;
    }
    places.push(place);
    let mut new = Instructions::new(instructions.name(), instructions.source());
    for (mut instruction, line) in old {
        match &mut instruction {
            Instruction::CompareAndPreserve(_) => {
                let pair = Instruction::ApplyFilter("operator_pair", Some(2), UNCACHED);
                new.add_with_line(pair, line);
                new.add_with_line(Instruction::UnpackList(2), line);
            }
            Instruction::Jump(to)
            | Instruction::JumpIfFalse(to)
            | Instruction::JumpIfFalseOrPop(to)
            | Instruction::JumpIfTrueOrPop(to)
            | Instruction::Iterate(to)
            | Instruction::BuildMacro(_, to, _) => {
                *to = places.get(*to as usize).copied().unwrap_or(*to);
            }
            _ => {}
        }
        new.add_with_line(instruction, line);
    }
    *instructions = new;
}

fn unsupported(what: String) -> Error {
    Error::new(ErrorKind::SyntaxError, format!("{what} is not supported"))
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Registers what the guarded instructions call.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(
        |out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value| {
            go_on()?;
            if value.kind() == ValueKind::String {
                return minijinja::escape_formatter(out, state, value);
            }
            walk(state, value)?;
            let text = python::text(value);
            if matches!(state.auto_escape(), AutoEscape::None) {
                return out.write_str(&text).map_err(Error::from);
            }
            minijinja::escape_formatter(out, state, &Value::from(&*text))
        },
    );
    environment.add_filter("operator_add", add);
    environment.add_filter("operator_concat", concat);
    environment.add_filter("operator_item", item);
    environment.add_filter("operator_map", map);
    environment.add_filter("operator_rem", remainder);
    environment.add_filter("operator_pair", pair);
    environment.add_filter("attr", attribute);
    environment.add_filter(
        "operator_in",
        |state: &mut State<'_, '_>, left: Value, right: Value| {
            walk_all(state, &[&left, &right])?;
            state.perform_test("in", &[left, right])
        },
    );
    macro_rules! comparison {
        ($name:literal, $operator:tt) => {
            environment.add_filter($name, |state: &State<'_, '_>, left: &Value, right: &Value| {
                walk_all(state, &[left, right])?;
                Ok::<bool, Error>(left $operator right)
            });
        };
    }
    comparison!("operator_eq", ==);
    comparison!("operator_ne", !=);
    comparison!("operator_lt", <);
    comparison!("operator_le", <=);
    comparison!("operator_gt", >);
    comparison!("operator_ge", >=);
    environment.add_function(
        "raise_exception",
        |state: &State<'_, '_>, message: &Value| {
            walk(state, message)?;
            Err::<Value, Error>(super::raised(python::text(message).into_owned()))
        },
    );
}

thread_local! {
    // Each rendering has a thread of its own.
    static ENDED: RefCell<Arc<AtomicBool>> = RefCell::default();
}

/// Ends what this thread renders soon after the flag is set.
pub(super) fn end_with(flag: Arc<AtomicBool>) {
    ENDED.set(flag);
}

/// Fails once the rendering was cancelled.
fn go_on() -> Result<(), Error> {
    if ENDED.with_borrow(|ended| ended.load(Ordering::Relaxed)) {
        return Err(invalid("the rendering was cancelled"));
    }
    Ok(())
}

/// What a walk met.
#[derive(Default)]
struct WalkCost {
    values: u64,
    bytes: u64,
}

impl WalkCost {
    /// Pays for so many bytes more: of many short texts, too, each of which alone would cost nothing.
    fn pay(&mut self, state: &State<'_, '_>, bytes: u64) -> Result<(), Error> {
        let paid = self.bytes / BYTES_PER_FUEL;
        self.bytes += bytes;
        state.consume_fuel(self.bytes / BYTES_PER_FUEL - paid)
    }
}

/// Pays for a value and everything in it, as often as it is in it.
fn walk(state: &State<'_, '_>, value: &Value) -> Result<WalkCost, Error> {
    go_on()?;
    let mut met = WalkCost::default();
    visit(state, value, 0, &mut met)?;
    Ok(met)
}

fn walk_all(state: &State<'_, '_>, values: &[&Value]) -> Result<(), Error> {
    for value in values {
        walk(state, value)?;
    }
    Ok(())
}

fn visit(
    state: &State<'_, '_>,
    value: &Value,
    depth: usize,
    met: &mut WalkCost,
) -> Result<(), Error> {
    met.values += 1;
    if met.values.is_multiple_of(VALUES_PER_FUEL) {
        go_on()?;
        state.consume_fuel(1)?;
    }
    if let Some(text) = value.as_str() {
        return met.pay(state, text.len() as u64);
    }
    if value.as_object().is_none() {
        return met.pay(state, 24);
    }
    let kind = value.kind();
    if !matches!(kind, ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
        return Ok(());
    }
    if depth == MAX_DEPTH {
        return Err(invalid("the value is nested too deeply"));
    }
    for item in value.try_iter()? {
        visit(state, &item, depth + 1, met)?;
        if kind == ValueKind::Map {
            visit(state, &value.get_item(&item)?, depth + 1, met)?;
        }
    }
    Ok(())
}

/// `left + right`: numbers, texts and lists. A text that is added to one marked as safe is escaped, as Jinja2 does it.
fn add(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    let refused = || {
        let kinds = format!("tried to add {} and {}", left.kind(), right.kind());
        Error::new(ErrorKind::InvalidOperation, kinds)
    };
    match (left.kind(), right.kind()) {
        (ValueKind::String, ValueKind::String) if left.is_safe() || right.is_safe() => {
            let sum = concat(state, &python::escape(left), &python::escape(right))?;
            Ok(Value::from_safe_string(sum.to_string()))
        }
        (ValueKind::String, ValueKind::String) => concat(state, left, right),
        (ValueKind::Number | ValueKind::Bool, ValueKind::Number | ValueKind::Bool) => {
            let float = |value: &Value| !(value.is_integer() || value.kind() == ValueKind::Bool);
            if float(left) || float(right) {
                return Ok(Value::from(
                    f64::try_from(left.clone())? + f64::try_from(right.clone())?,
                ));
            }
            let sum = i128::try_from(left.clone())?.checked_add(i128::try_from(right.clone())?);
            let sum = sum.ok_or_else(|| invalid("the sum is too large"))?;
            Ok(i64::try_from(sum).map_or_else(|_| Value::from(sum), Value::from))
        }
        (ValueKind::Seq | ValueKind::Iterable, ValueKind::Seq | ValueKind::Iterable) => {
            let mut items = Vec::new();
            for item in left.try_iter()?.chain(right.try_iter()?) {
                state.consume_fuel(1)?;
                items.push(item);
            }
            Ok(Value::from(items))
        }
        _ => Err(refused()),
    }
}

/// `left ~ right`.
fn concat(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    let bytes = walk(state, left)?.bytes + walk(state, right)?.bytes;
    state.consume_fuel(bytes / BYTES_PER_FUEL)?;
    Ok(match (left.as_str(), right.as_str()) {
        (Some(left), Some(right)) => Value::from([left, right].concat()),
        _ => Value::from([python::text(left), python::text(right)].concat()),
    })
}

/// `container[key]`.
fn item(state: &State<'_, '_>, container: &Value, key: &Value) -> Result<Value, Error> {
    walk(state, key)?;
    match container.as_str() {
        Some(text) => state.consume_fuel(text.len() as u64 / BYTES_PER_FUEL)?,
        None if container.kind() == ValueKind::Iterable => {
            let index = key.as_i64().unwrap_or(0).unsigned_abs();
            state.consume_fuel(index.min(container.len().unwrap_or(0) as u64) / VALUES_PER_FUEL)?;
        }
        None => {}
    }
    let found = container.get_item(key)?;
    match key.as_str() {
        Some(name) if found.is_undefined() && python::is_method(name) => {
            Ok(python::attribute(container, name).unwrap_or(found))
        }
        _ => Ok(found),
    }
}

/// `value|attr(name)`: a method, or what a namespace holds; never an item.
fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    match python::attribute(value, name) {
        Some(method) => Ok(method),
        None if value.kind() == ValueKind::Map && python::is_dict(value) => Ok(Value::UNDEFINED),
        None => value.get_attr(name),
    }
}

/// Both sides of a comparison whose right one is compared again: the second first, as they are unpacked.
fn pair(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    walk_all(state, &[left, right])?;
    Ok(Tuple::from([right.clone(), left.clone()]).into())
}

/// `left % right`: of numbers with the sign of the right one, or of a pattern and its values.
fn remainder(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(pattern) = left.as_str() {
        walk_all(state, &[left, right])?;
        return python::percent(state, pattern, right).map(Value::from);
    }
    let whole = |value: &Value| value.is_integer() || value.kind() == ValueKind::Bool;
    if whole(left) && whole(right) {
        let (left, right) = (
            i128::try_from(left.clone())?,
            i128::try_from(right.clone())?,
        );
        let rest = left
            .checked_rem(right)
            .ok_or_else(|| invalid("modulo by zero"))?;
        let rest = if rest != 0 && (rest < 0) != (right < 0) {
            rest + right
        } else {
            rest
        };
        return Ok(i64::try_from(rest).map_or_else(|_| Value::from(rest), Value::from));
    }
    let (left, right) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
    if right == 0.0 {
        return Err(invalid("modulo by zero"));
    }
    let rest = left % right;
    Ok(Value::from(
        if rest != 0.0 && (rest < 0.0) != (right < 0.0) {
            rest + right
        } else if rest == 0.0 {
            0f64.copysign(right)
        } else {
            rest
        },
    ))
}

/// `{key: value, …}`.
fn map(state: &State<'_, '_>, parts: Rest<Value>) -> Result<Value, Error> {
    let mut pairs = Vec::with_capacity(parts.len() / 2);
    for pair in parts.chunks_exact(2) {
        walk(state, &pair[0])?;
        pairs.push((pair[0].clone(), pair[1].clone()));
    }
    Ok(Value::from_pairs(pairs))
}

/// Filters and tests that look into their operands, and Python's methods.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    go_on()?;
    let all = || [std::slice::from_ref(value), args].concat();
    if let Some(filter) = name.strip_prefix('|') {
        walk_all(state, &[value])?;
        walk_all(state, &args.iter().collect::<Vec<_>>())?;
        return state.apply_filter(filter, &all());
    }
    if let Some(test) = name.strip_prefix('?') {
        walk_all(state, &[value])?;
        walk_all(state, &args.iter().collect::<Vec<_>>())?;
        return state.perform_test(test, &all()).map(Value::from);
    }
    if let Some(name) = name.strip_prefix('.') {
        return match python::attribute(value, name) {
            Some(method) => Ok(method),
            None => value.get_attr(name),
        };
    }
    walk_all(state, &args.iter().collect::<Vec<_>>())?;
    // These look into every item.
    if value.as_str().is_none() && ["count", "index"].contains(&name) {
        walk(state, value)?;
    }
    python::method(state, value, name, args)
}
