//! How a model answers: the form that its template writes, and the special tokens in it.

use ryz_tokenizer::{self as text, CallBody, CallForm, Marks, Tokenizer};

/// How a model writes thoughts, text and calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerForm {
    /// The marks around a thought.
    pub reasoning: Option<Marks>,
    /// The marks around text.
    pub text: Option<Marks>,
    /// How calls are written; none where the template takes no tools.
    pub calls: Option<CallForm>,
    /// Other marks that may stand before the first call.
    pub leads: Vec<String>,
    /// Special tokens that are part of the form: to be shown, or nothing of it is ever seen.
    pub tokens: Vec<u32>,
}

impl AnswerForm {
    pub(crate) fn new(learnt: text::AnswerForm, tokenizer: &Tokenizer) -> Self {
        let mut form = Self {
            reasoning: learnt.reasoning,
            text: learnt.text,
            calls: learnt.calls,
            ..Self::default()
        };
        // A token that ends the answer is never delivered.
        let ends = tokenizer.end_of_generation().iter();
        let ends: Vec<String> = ends
            .map(|&id| tokenizer.piece(id))
            .filter(|piece| !piece.is_empty())
            .collect();
        if let Some(calls) = &mut form.calls {
            cut(&mut calls.end, &ends);
            if calls.end.is_empty() {
                cut(&mut calls.close, &ends);
            }
            form.leads = leads(calls);
        }
        if let Some(text) = &mut form.text {
            cut(&mut text.close, &ends);
        }
        let marks = form.marks();
        let tokens = (0..tokenizer.vocab_size())
            .filter(|&id| tokenizer.is_special(id))
            .filter(|&id| {
                let piece = tokenizer.piece(id);
                !piece.is_empty() && marks.iter().any(|mark| mark.contains(piece.as_str()))
            });
        form.tokens = tokens.collect();
        form
    }

    fn marks(&self) -> Vec<String> {
        let pairs = [&self.reasoning, &self.text];
        let pairs = pairs.into_iter().flatten();
        let mut marks: Vec<String> = pairs
            .flat_map(|marks| [marks.open.clone(), marks.close.clone()])
            .collect();
        let calls = self.calls.iter().flat_map(CallForm::marks);
        marks.extend(calls.map(str::to_owned));
        marks.extend(self.leads.iter().cloned());
        marks
    }
}

/// Cuts tokens that end an answer off the end of a text.
fn cut(text: &mut String, ends: &[String]) {
    while let Some(rest) = ends.iter().find_map(|end| text.strip_suffix(end.as_str())) {
        let length = rest.trim_end().len();
        text.truncate(length);
    }
}

/// The mark that models of Llama's family may put before calls that are JSON alone.
fn leads(calls: &CallForm) -> Vec<String> {
    let bare = calls.first_mark().is_empty() && matches!(calls.body, CallBody::Json { .. });
    if bare {
        vec!["<|python_tag|>".to_owned()]
    } else {
        Vec::new()
    }
}
