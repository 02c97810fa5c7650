//! What may stand before calls, or in their place: thoughts and text.

use ryz_tokenizer::Marks;

use super::super::constraint::ToolChoice;
use super::spelling::{Part, Spelling, literal};

/// Any text.
const ANY: &str = "/(.|\\n)*/";
const SOME: &str = "/(.|\\n)+/";

/// The rules before calls. A thought may come first; within it, nothing counts.
///
/// A lexer takes the longest text that it can. So thoughts that are written as text are a part of
/// the lexemes behind them, and text never begins with the mark of a thought.
pub(super) struct Before<'a> {
    pub spelling: &'a Spelling<'a>,
    pub thought: Option<&'a Marks>,
    pub text: Option<&'a Marks>,
    pub in_thought: bool,
    /// The first part of the mark that begins calls; none where that is the call itself.
    pub first: Option<&'a Part>,
}

/// A thought as lexemes have it, or as rules do.
struct Thought {
    /// The terminal of a whole thought, if it is text.
    lexeme: Option<String>,
    /// The rule of a whole thought, if its marks are special tokens.
    rule: Option<String>,
    /// One that has not ended: the lexeme or the rule.
    open: Option<String>,
    /// What text must not begin with.
    mark: Option<String>,
}

impl Before<'_> {
    /// `start`, and all that it needs but `calls` and `tail`.
    pub fn rules(&self, choice: &ToolChoice) -> String {
        let thought = self.thought();
        let must = matches!(choice, ToolChoice::Required | ToolChoice::Named(_));
        let mut rules = match (must, self.in_thought && self.thought.is_some()) {
            (true, false) => return "start: calls\n".to_owned(),
            (true, true) => match (&thought.lexeme, &thought.rule) {
                (Some(lexeme), _) => format!("start: SKIP calls\nSKIP: {lexeme} /\\s*/\n"),
                (_, rule) => format!(
                    "start: thought /\\s+/? calls\nthought: {}\n",
                    rule.as_deref().unwrap_or_default()
                ),
            },
            (false, _) => {
                let answer = if *choice == ToolChoice::None {
                    ""
                } else {
                    " | answer"
                };
                let mut start = format!("start: rest\nrest: plain{answer}\n");
                if let Some(rule) = &thought.rule {
                    let alone = if self.in_thought { "" } else { "rest | " };
                    start = format!(
                        "start: {alone}thought rest | unfinished\nrest: plain{answer}\nthought: {rule}\n"
                    );
                } else if thought.open.is_some() {
                    start = format!("start: rest | unfinished\nrest: plain{answer}\n");
                }
                if let Some(open) = &thought.open {
                    start += &format!("unfinished: {open}\n");
                }
                start
            }
        };
        if must {
            return rules + &self.terminals();
        }
        rules += &self.text(&thought, *choice != ToolChoice::None);
        rules + &self.terminals()
    }

    fn terminals(&self) -> String {
        if self.thought.is_some() {
            format!("THOUGHT: {SOME}\n")
        } else {
            String::new()
        }
    }

    fn thought(&self) -> Thought {
        let none = Thought {
            lexeme: None,
            rule: None,
            open: None,
            mark: None,
        };
        let Some(marks) = self.thought else {
            return none;
        };
        let (open, close) = (
            self.spelling.parts(&marks.open),
            self.spelling.parts(&marks.close),
        );
        if let ([Part::Text(open)], [Part::Text(close)]) = (&open[..], &close[..]) {
            let close = literal(close);
            let inside = format!("({ANY} & ~({ANY} {close} {ANY}))");
            let begin = if self.in_thought {
                String::new()
            } else {
                literal(open)
            };
            return Thought {
                lexeme: Some(format!("{begin} {inside} {close}")),
                rule: None,
                open: Some(format!(
                    "UNFINISHED?\nUNFINISHED: {begin} ({SOME} & {inside})"
                )),
                mark: Some(literal(open)),
            };
        }
        let begin = if self.in_thought {
            String::new()
        } else {
            self.spelling.spell(&open)
        };
        let close = self.spelling.spell(&close);
        Thought {
            rule: Some(format!("{begin} THOUGHT? {close}")),
            open: Some(format!("{begin} THOUGHT?")),
            ..none
        }
    }

    /// The rules of text without calls, and of an answer with calls behind text.
    fn text(&self, thought: &Thought, calls: bool) -> String {
        // Text after which a thought cannot begin, and the thought before it.
        let not_thought = |text: &str| match &thought.mark {
            Some(mark) => format!("({text} & ~(/\\s*/ {mark} {ANY}))"),
            None => text.to_owned(),
        };
        let must_think = self.in_thought && thought.lexeme.is_some();
        let optional = |inside: &str, alone: &str| match &thought.lexeme {
            Some(lexeme) if must_think => format!("{lexeme} {inside}"),
            Some(lexeme) => format!("({lexeme} {inside}) | {alone}"),
            None => alone.to_owned(),
        };
        let some = if must_think { "PLAIN" } else { "PLAIN?" };
        // Marks around text are written if they are special tokens; others are text.
        let around = |text: &str| {
            let parts = self.spelling.parts(text);
            let is_token = matches!(parts.first(), Some(Part::Token(_)));
            if is_token {
                format!("({})?", self.spelling.spell(&parts))
            } else {
                String::new()
            }
        };
        let (open, close) = self.text.map_or_else(Default::default, |marks| {
            (around(&marks.open), around(&marks.close))
        });
        match self.first {
            // A call is an answer that begins with JSON.
            None => {
                let plain = "/\\s*[^\\s{\\[](.|\\n)*/";
                let skip = thought.lexeme.as_ref().map(|lexeme| {
                    let empty = if must_think { "" } else { "?" };
                    (empty, format!("SKIP: {lexeme} /\\s*/\n"))
                });
                let (before, skip) = match &skip {
                    Some((empty, skip)) => (format!("SKIP{empty}"), skip.as_str()),
                    None => ("SPACE?".to_owned(), ""),
                };
                let plain = optional(plain, &not_thought(plain));
                let alone = if skip.is_empty() {
                    "PLAIN?"
                } else {
                    "PLAIN | "
                };
                let alone = if skip.is_empty() {
                    alone.to_owned()
                } else {
                    format!("{alone}{before}")
                };
                let answer = if calls {
                    format!("answer: {before} calls\n")
                } else {
                    String::new()
                };
                format!("plain: {alone}\nPLAIN: {plain}\n{skip}{answer}")
            }
            Some(Part::Token(_)) => {
                let plain = optional(ANY, &not_thought(SOME));
                let answer = if calls {
                    format!("answer: {open} {some} {close} calls\n")
                } else {
                    String::new()
                };
                format!("plain: {open} {some} {close}\nPLAIN: {plain}\n{answer}")
            }
            Some(Part::Text(mark)) => {
                let mark = literal(mark);
                let no_call = |text: &str| format!("({text} & ~({ANY} {mark} {ANY}))");
                let plain = optional(&no_call(ANY), &not_thought(&no_call(SOME)));
                let before = optional(ANY, &not_thought(ANY));
                let answer = if calls {
                    format!(
                        "answer: {open} before tail\nbefore[suffix={mark}]: BEFORE\nBEFORE: {before}\n"
                    )
                } else {
                    String::new()
                };
                format!("plain: {open} {some} {close}\nPLAIN: {plain}\n{answer}")
            }
        }
    }
}
