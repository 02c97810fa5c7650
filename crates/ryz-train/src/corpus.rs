//! Texts as token streams, and the deterministic order of their training windows.

use crate::checkpoint::read_whole;
use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::rng::SplitMix64;
use crate::tokenizer::TextTokenizer;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Reads a text file. Rejects pipes and devices, which may have no end.
pub fn read_text(path: &Path) -> Result<String, TrainError> {
    let bytes = read_whole(path)?;
    String::from_utf8(bytes).map_err(|e| TrainError::NotText {
        path: path.to_owned(),
        source: e.utf8_error(),
    })
}

/// Splits a text into documents: at empty lines and, with `headings`, before chapter headings and
/// story openings.
pub fn documents(text: &str, headings: bool) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut at, mut after_heading) = (0, 0, false);
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        let heading = headings && is_heading(content);
        let opening = headings && content.starts_with("Once upon a time") && !after_heading;
        if (content.is_empty() || heading && !after_heading || opening) && start < at {
            documents.push(&text[start..at]);
            start = at;
        }
        at += line.len();
        if content.is_empty() {
            start = at;
        }
        after_heading = heading;
    }
    if start < at {
        documents.push(&text[start..at]);
    }
    documents
}

/// "CHAPTER IV - …", "XII - …", "THE STRAW, THE COAL, AND THE BEAN", "Title: …".
fn is_heading(line: &str) -> bool {
    if line.len() > 90 || line.starts_with(['"', '\'']) {
        return false;
    }
    let first = line.split([' ', '.', '-', ':']).next().unwrap_or_default();
    let numbered = !first.is_empty()
        && first.chars().all(|c| "IVXLC".contains(c))
        && line.contains(['-', '.']);
    let capitals = line.chars().filter(|c| c.is_uppercase()).count() >= 8
        && !line.chars().any(char::is_lowercase);
    matches!(first, "CHAPTER" | "Chapter" | "Title")
        || (numbered && first != "I")
        || (capitals && !line.ends_with(['!', '?', '"', ',']))
}

/// Splits off the last `ratio` of a text for validation, at the end of a line.
pub fn hold_out(text: &str, ratio: f64) -> (&str, &str) {
    let wanted = (text.len() as f64 * (1.0 - ratio)) as usize;
    let cut = text.as_bytes()[..wanted.min(text.len())]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(text.len(), |line| line + 1);
    text.split_at(cut)
}

/// Training and validation streams.
#[derive(Debug, Clone)]
pub struct Corpus {
    train: Vec<u32>,
    valid: Vec<u32>,
    valid_bytes: usize,
}

impl Corpus {
    /// Encodes both texts. Each training document is enclosed by the tokens that begin and end a
    /// text. The validation text is encoded as a whole after one beginning token, as the engine
    /// scores a file.
    ///
    /// # Errors
    /// Texts that are too short or that the tokenizer cannot encode, and [`TrainError::Aborted`]
    /// soon after `cancel` is set.
    pub fn new(
        config: &TrainConfig,
        tokenizer: &TextTokenizer,
        train: &str,
        valid: &str,
        cancel: &AtomicBool,
    ) -> Result<Self, TrainError> {
        let mut stream = Vec::with_capacity(train.len() / 3);
        for document in documents(train, config.split_headings) {
            if cancel.load(Ordering::Relaxed) {
                return Err(TrainError::Aborted);
            }
            stream.extend(tokenizer.begin());
            stream.extend(tokenizer.encode(document)?);
            stream.extend(tokenizer.end());
        }
        stream.extend(tokenizer.begin());
        let mut valid_stream: Vec<u32> = tokenizer.begin().into_iter().collect();
        valid_stream.extend(tokenizer.encode(valid)?);
        let window = config.window();
        let needed = |what, expected, got| TrainError::CorpusTooSmall {
            what,
            expected,
            got,
        };
        if stream.len() < 3 * window {
            return Err(needed("training", 3 * window, stream.len()));
        }
        if valid_stream.len() < 2 {
            return Err(needed("validation", 2, valid_stream.len()));
        }
        Ok(Self {
            train: stream,
            valid: valid_stream,
            valid_bytes: valid.len(),
        })
    }

    /// Tokens of the training stream.
    pub fn train_tokens(&self) -> usize {
        self.train.len()
    }

    /// Tokens of the validation stream.
    pub fn valid(&self) -> &[u32] {
        &self.valid
    }

    /// Bytes of the validation text.
    pub fn valid_bytes(&self) -> usize {
        self.valid_bytes
    }
}

/// Returns the windows of a step: every epoch reads each window once, in a new order and from a new
/// offset.
///
/// The position in the corpus follows from the number of sequences seen, so a resumed run continues
/// exactly.
#[derive(Debug)]
pub(crate) struct Windows {
    seed: u64,
    window: usize,
    epoch: Option<u64>,
    offset: usize,
    order: Vec<u32>,
}

impl Windows {
    pub fn new(seed: u64, window: usize) -> Self {
        Self {
            seed,
            window,
            epoch: None,
            offset: 0,
            order: Vec::new(),
        }
    }

    /// Windows per epoch.
    pub fn per_epoch(&self, corpus: &Corpus) -> u64 {
        ((corpus.train.len() - 1) / self.window - 1) as u64
    }

    /// The `window + 1` tokens of the sequence with this index.
    pub fn get<'a>(&mut self, corpus: &'a Corpus, sequence: u64) -> &'a [u32] {
        let count = self.per_epoch(corpus);
        let epoch = sequence / count;
        if self.epoch != Some(epoch) {
            let mut rng = SplitMix64::stream(self.seed, 1, epoch);
            self.offset = rng.below(self.window);
            self.order = (0..count as u32).collect();
            for i in (1..self.order.len()).rev() {
                self.order.swap(i, rng.below(i + 1));
            }
            self.epoch = Some(epoch);
        }
        let start = self.offset + self.order[(sequence % count) as usize] as usize * self.window;
        &corpus.train[start..=start + self.window]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_start_at_empty_lines_headings_and_openings() {
        let text = "First book.\nMore.\nCHAPTER II - THE END\nText\n\nSecond book.\nOnce upon a time there was\nx\nXII - HOME\nOnce upon a time\n\"NEVER EVER AGAIN\"\n";
        assert_eq!(
            documents(text, true),
            [
                "First book.\nMore.\n",
                "CHAPTER II - THE END\nText\n",
                "Second book.\n",
                "Once upon a time there was\nx\n",
                "XII - HOME\nOnce upon a time\n\"NEVER EVER AGAIN\"\n"
            ]
        );
        assert_eq!(documents(text, false).len(), 2);
        assert!(documents("\n\n", true).is_empty());
    }

    #[test]
    fn the_end_is_held_out_at_a_line() {
        assert_eq!(
            hold_out("one\ntwo\nthree\n", 0.4),
            ("one\ntwo\n", "three\n")
        );
        assert_eq!(hold_out("one line", 0.4), ("one line", ""));
        assert_eq!(hold_out("", 0.4), ("", ""));
    }

    #[test]
    fn an_epoch_reads_every_window_once_and_any_place_can_be_asked_for() {
        let corpus = Corpus {
            train: (0..100).collect(),
            valid: vec![0, 1],
            valid_bytes: 1,
        };
        let mut windows = Windows::new(7, 8);
        let count = windows.per_epoch(&corpus);
        let mut starts: Vec<u32> = (0..count).map(|i| windows.get(&corpus, i)[0]).collect();
        let direct = Windows::new(7, 8).get(&corpus, 5)[0];
        assert_eq!(direct, starts[5]);
        starts.sort_unstable();
        assert!(starts.windows(2).all(|w| w[1] - w[0] == 8));
        let next: Vec<u32> = (count..2 * count)
            .map(|i| windows.get(&corpus, i)[0])
            .collect();
        assert_ne!(next, starts);
    }
}
