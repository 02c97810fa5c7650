//! Numbers within bounds, as a terminal. Bounds are compared as decimal digits, so that any double will do.

use std::cmp::Ordering;

use serde_json::Number;

/// Most digits before the point where nothing bounds them: longer ones are no use to a double.
const MAX_WHOLE: usize = 20;
/// Most digits behind the point, beyond those of a bound.
const MAX_FRACTION: usize = 20;
/// A divisor that takes an automaton of more states is refused.
pub const MAX_DIVISOR: u64 = 1000;
/// Most endings that numbers may have for a divisor's sake.
const MAX_ENDINGS: u64 = 1000;

/// A decimal number without exponent; zero has no sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    /// Without leading zeros, but `0`.
    whole: String,
    /// Without trailing zeros.
    fraction: String,
}

impl Decimal {
    const ZERO: Self = Self {
        negative: false,
        whole: String::new(),
        fraction: String::new(),
    };

    /// A number as JSON has it.
    pub fn of(number: &Number) -> Self {
        let text = match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(n), ..) => n.to_string(),
            (_, Some(n), _) => n.to_string(),
            (.., f) => f.unwrap_or(0.0).to_string(),
        };
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.as_str()),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let whole = whole.trim_start_matches('0').to_owned();
        let fraction = fraction.trim_end_matches('0').to_owned();
        let is_zero = whole.is_empty() && fraction.is_empty();
        Self {
            negative: negative && !is_zero,
            whole,
            fraction,
        }
    }

    /// Whether it is a whole number.
    pub fn is_whole(&self) -> bool {
        self.fraction.is_empty()
    }

    /// The double next to it.
    pub fn to_f64(&self) -> Option<f64> {
        self.to_string().parse().ok()
    }

    fn magnitude(&self) -> Self {
        Self {
            negative: false,
            ..self.clone()
        }
    }

    fn cmp_magnitude(&self, other: &Self) -> Ordering {
        let digits = |d: &Self| d.whole.len();
        digits(self)
            .cmp(&digits(other))
            .then_with(|| self.whole.cmp(&other.whole))
            .then_with(|| self.fraction.cmp(&other.fraction))
    }

    fn digits(&self) -> &str {
        if self.whole.is_empty() {
            "0"
        } else {
            &self.whole
        }
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.negative { "-" } else { "" };
        let point = if self.fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{}{point}{}", self.digits(), self.fraction)
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.cmp_magnitude(other),
            (true, true) => other.cmp_magnitude(self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

/// A bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    pub value: Decimal,
    pub exclusive: bool,
}

/// Numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NumberForm {
    pub integer: bool,
    pub min: Option<Bound>,
    pub max: Option<Bound>,
    pub multiples: Vec<Number>,
}

impl NumberForm {
    /// What both allow.
    pub fn and(mut self, other: Self) -> Self {
        self.integer |= other.integer;
        self.min = tighter(self.min, other.min, Ordering::Less);
        self.max = tighter(self.max, other.max, Ordering::Greater);
        for multiple in other.multiples {
            if !self.multiples.contains(&multiple) {
                self.multiples.push(multiple);
            }
        }
        self
    }

    /// Whether this one value is among them; what it must be a multiple of is not looked at.
    pub fn holds(&self, number: &Number) -> bool {
        let value = Decimal::of(number);
        let above = self
            .min
            .as_ref()
            .is_none_or(|bound| value > bound.value || (!bound.exclusive && value == bound.value));
        let below = self
            .max
            .as_ref()
            .is_none_or(|bound| value < bound.value || (!bound.exclusive && value == bound.value));
        above && below && (!self.integer || value.is_whole())
    }

    /// A terminal of numbers within the bounds; nothing where there are none.
    pub fn terminal(&self) -> Option<String> {
        let (min, max) = (&self.min, &self.max);
        let beyond = |digits: usize| {
            let far = |bound: &Bound| bound.value.whole.len() > digits;
            let low = min
                .as_ref()
                .is_none_or(|bound| far(bound) && bound.value.negative);
            let high = max
                .as_ref()
                .is_none_or(|bound| far(bound) && !bound.value.negative);
            low && high
        };
        // What is written without a bound stays below these.
        if let Some(exponent) = [(MAX_WHOLE + 99, 2), (MAX_WHOLE + 9, 1)]
            .iter()
            .find_map(|&(digits, exponent)| beyond(digits).then_some(exponent))
        {
            let whole = format!("[1-9][0-9]{{0,{}}}", MAX_WHOLE - 1);
            let fraction = format!("\\.[0-9]{{1,{MAX_FRACTION}}}");
            return Some(if self.integer {
                format!("/0|-?{whole}/")
            } else {
                format!(
                    "/(?:0|-?{whole}(?:{fraction})?|-?0{fraction})(?:[eE][+-]?[0-9]{{1,{exponent}}})?/"
                )
            });
        }
        let mut parts = Vec::new();
        let zero = |exclusive| Bound {
            value: Decimal::ZERO,
            exclusive,
        };
        let magnitude = |bound: &Bound| Bound {
            value: bound.value.magnitude(),
            exclusive: bound.exclusive,
        };
        let negative = |bound: &Bound| bound.value.negative;
        if self.min.as_ref().is_none_or(negative) {
            let low = self.max.as_ref().filter(|bound| negative(bound));
            let low = low.map_or_else(|| zero(true), magnitude);
            let high = self.min.as_ref().map(magnitude);
            parts.extend(
                self.magnitudes(&low, high.as_ref())
                    .into_iter()
                    .map(|part| format!("\"-\" {part}")),
            );
        }
        if self.max.as_ref().is_none_or(|bound| !negative(bound)) {
            let low = self.min.clone().filter(|bound| !negative(bound));
            let low = low.unwrap_or_else(|| zero(false));
            parts.extend(self.magnitudes(&low, self.max.as_ref()));
        }
        (!parts.is_empty()).then(|| format!("({})", parts.join(" | ")))
    }

    /// Alternatives for numbers from 0 on.
    fn magnitudes(&self, low: &Bound, high: Option<&Bound>) -> Vec<String> {
        let first = low.value.digits();
        let open = "9".repeat(MAX_WHOLE.max(first.len() + 2));
        let last = high.map_or(open.as_str(), |bound| bound.value.digits());
        if self.integer {
            let lower = if !low.value.is_whole() || low.exclusive {
                next(first)
            } else {
                first.to_owned()
            };
            let ends = high.is_some_and(|bound| bound.exclusive && bound.value.is_whole());
            let upper = if ends {
                previous(last)
            } else {
                Some(last.to_owned())
            };
            let range = upper.and_then(|upper| whole_range(&lower, &upper));
            return range
                .map(|range| format!("/{range}/"))
                .into_iter()
                .collect();
        }
        let any = format!("(?:\\.[0-9]{{1,{MAX_FRACTION}}})?");
        let at_least = fraction_from(&low.value.fraction, low.exclusive);
        let at_most = match high {
            Some(high) => fraction_to(&high.value.fraction, high.exclusive),
            None => Some(any.clone()),
        };
        let mut parts = Vec::new();
        if first == last && high.is_some() {
            if let Some(at_most) = at_most {
                parts.push(format!("(/{first}{at_least}/ & /{first}{at_most}/)"));
            }
            let high = high.map(|bound| &bound.value);
            // Bounds the wrong way round leave nothing.
            return if high.is_some_and(|high| *high < low.value) {
                Vec::new()
            } else {
                parts
            };
        }
        if longer_or_greater(first, last) {
            return parts;
        }
        parts.push(format!("/{first}{at_least}/"));
        let between = previous(last).and_then(|upper| whole_range(&next(first), &upper));
        parts.extend(between.map(|range| format!("/{range}{any}/")));
        parts.extend(at_most.map(|at_most| format!("/{last}{at_most}/")));
        parts
    }
}

fn tighter(a: Option<Bound>, b: Option<Bound>, loose: Ordering) -> Option<Bound> {
    match (a, b) {
        (Some(a), Some(b)) => Some(match a.value.cmp(&b.value) {
            Ordering::Equal if a.exclusive => a,
            Ordering::Equal => b,
            order if order == loose => b,
            _ => a,
        }),
        (a, b) => a.or(b),
    }
}

/// The states of an automaton of a number's multiples, if they are not too many.
pub fn automaton(divisor: &Number) -> Option<u64> {
    let divisor = Decimal::of(divisor);
    let digits = format!("{}{}", divisor.whole, divisor.fraction);
    digits
        .parse()
        .ok()
        .filter(|&states| states <= MAX_DIVISOR && divisor.fraction.len() <= 9)
}

/// A terminal of the multiples of a number as it is written without exponent, or nothing where that takes an automaton.
pub fn multiples(divisor: &Number) -> Option<String> {
    let divisor = Decimal::of(divisor).magnitude();
    let scale = divisor.fraction.len();
    let coefficient: u64 = format!("{}{}", divisor.whole, divisor.fraction)
        .parse()
        .ok()?;
    if coefficient == 0 {
        return None;
    }
    // The multiples of a divisor of 10^n are those with certain last n digits.
    let mut ten = 1u64;
    let mut digits = 0;
    while !ten.is_multiple_of(coefficient) {
        ten = ten.checked_mul(10)?;
        digits += 1;
        if digits > 18 {
            return None;
        }
    }
    if digits > scale {
        // The last digits reach over the point.
        if scale > 0 || ten / coefficient > MAX_ENDINGS {
            return None;
        }
        let ends: Vec<_> = (0..ten / coefficient)
            .map(|n| format!("{:0digits$}", n * coefficient))
            .collect();
        let short: Vec<_> = (0..ten / coefficient)
            .map(|n| (n * coefficient).to_string())
            .filter(|text| text.len() < digits)
            .collect();
        let (ends, short) = (ends.join("|"), short.join("|"));
        return Some(format!("/-?(?:[0-9]*(?:{ends})|{short})(?:\\.0)?/"));
    }
    if coefficient == 1 {
        return Some(match scale {
            0 => "/-?[0-9]+(?:\\.0)?/".to_owned(),
            scale => format!("/-?[0-9]+(?:\\.[0-9]{{1,{scale}}})?/"),
        });
    }
    let unit = 10u64.checked_pow(u32::try_from(scale).ok()?)?;
    if !unit.is_multiple_of(coefficient) || unit / coefficient > MAX_ENDINGS {
        return None;
    }
    let ends: Vec<_> = (0..unit / coefficient)
        .map(|n| format!("{:0scale$}", n * coefficient))
        .map(|text| match text.trim_end_matches('0') {
            "" => "0".to_owned(),
            text => text.to_owned(),
        })
        .collect();
    Some(format!("/-?[0-9]+(?:\\.(?:{}))?/", ends.join("|")))
}

fn longer_or_greater(a: &str, b: &str) -> bool {
    (a.len(), a) > (b.len(), b)
}

fn next(digits: &str) -> String {
    let kept = digits.trim_end_matches('9');
    let zeros = "0".repeat(digits.len() - kept.len());
    match kept.as_bytes().last() {
        Some(last) => format!("{}{}{zeros}", &kept[..kept.len() - 1], char::from(last + 1)),
        None => format!("1{zeros}"),
    }
}

fn previous(digits: &str) -> Option<String> {
    let kept = digits.trim_end_matches('0');
    let nines = "9".repeat(digits.len() - kept.len());
    let last = *kept.as_bytes().last()?;
    let text = format!("{}{}{nines}", &kept[..kept.len() - 1], char::from(last - 1));
    let trimmed = text.trim_start_matches('0');
    Some(if trimmed.is_empty() { "0" } else { trimmed }.to_owned())
}

/// A pattern of the whole numbers from `low` to `high`, both without leading zeros.
fn whole_range(low: &str, high: &str) -> Option<String> {
    if longer_or_greater(low, high) {
        return None;
    }
    if low.len() == high.len() {
        return Some(same_length(low, high));
    }
    let nines = "9".repeat(low.len());
    let ten = format!("1{}", "0".repeat(high.len() - 1));
    let mut parts = vec![same_length(low, &nines)];
    if high.len() - low.len() > 1 {
        // All numbers of the lengths between.
        parts.push(format!("[1-9][0-9]{{{},{}}}", low.len(), high.len() - 2));
    }
    parts.push(same_length(&ten, high));
    Some(either(&parts))
}

fn either(parts: &[String]) -> String {
    match parts {
        [one] => one.clone(),
        parts => format!("(?:{})", parts.join("|")),
    }
}

fn some_digits(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!("[0-9]{{{count}}}"),
    }
}

/// Digits as many as both have, from `low` to `high`.
fn same_length(low: &str, high: &str) -> String {
    let same = low.bytes().zip(high.bytes()).take_while(|(a, b)| a == b);
    let same = same.count();
    if same == low.len() {
        return low.to_owned();
    }
    let (head, low, high) = (&low[..same], &low[same..], &high[same..]);
    let rest = low.len() - 1;
    let (a, b) = (low.as_bytes()[0], high.as_bytes()[0]);
    if low[1..].bytes().all(|digit| digit == b'0') && high[1..].bytes().all(|digit| digit == b'9') {
        return format!("{head}{}{}", digit_class(a, b), some_digits(rest));
    }
    let mut parts = vec![low.to_owned()];
    for (at, digit) in low.bytes().enumerate().skip(1) {
        if digit < b'9' {
            let class = digit_class(digit + 1, b'9');
            parts.push(format!("{}{class}{}", &low[..at], some_digits(rest - at)));
        }
    }
    if a + 1 < b {
        parts.push(format!(
            "{}{}",
            digit_class(a + 1, b - 1),
            some_digits(rest)
        ));
    }
    for (at, digit) in high.bytes().enumerate().skip(1) {
        if digit > b'0' {
            let class = digit_class(b'0', digit - 1);
            parts.push(format!("{}{class}{}", &high[..at], some_digits(rest - at)));
        }
    }
    parts.push(high.to_owned());
    format!("{head}{}", either(&parts))
}

fn digit_class(low: u8, high: u8) -> String {
    let (low, high) = (char::from(low), char::from(high));
    if low == high {
        low.to_string()
    } else {
        format!("[{low}-{high}]")
    }
}

/// A pattern of the fractions from `.digits` on, the point with them.
fn fraction_from(digits: &str, exclusive: bool) -> String {
    let more = format!("[0-9]{{0,{MAX_FRACTION}}}");
    let above = format!("0{{0,{MAX_FRACTION}}}[1-9]{more}");
    if digits.is_empty() {
        return if exclusive {
            format!("\\.{above}")
        } else {
            format!("(?:\\.[0-9]{{1,{MAX_FRACTION}}})?")
        };
    }
    let mut parts = vec![format!(
        "{digits}{}",
        if exclusive { above } else { more.clone() }
    )];
    for (at, digit) in digits.bytes().enumerate() {
        if digit < b'9' {
            let class = digit_class(digit + 1, b'9');
            parts.push(format!("{}{class}{more}", &digits[..at]));
        }
    }
    format!("\\.{}", either(&parts))
}

/// A pattern of the fractions up to `.digits`; nothing where there is none.
fn fraction_to(digits: &str, exclusive: bool) -> Option<String> {
    if digits.is_empty() {
        return (!exclusive).then(|| "(?:\\.0)?".to_owned());
    }
    let mut parts = Vec::new();
    for (at, digit) in digits.bytes().enumerate() {
        if at > 0 {
            parts.push(digits[..at].to_owned());
        }
        if digit > b'0' {
            let class = digit_class(b'0', digit - 1);
            parts.push(format!("{}{class}[0-9]{{0,{MAX_FRACTION}}}", &digits[..at]));
        }
    }
    if !exclusive {
        parts.push(format!("{digits}0{{0,2}}"));
    }
    (!parts.is_empty()).then(|| format!("(?:\\.{})?", either(&parts)))
}
