//! placeholder
use crate::{Tokenizer, TokenizerError};
pub(crate) struct SentencePieceBpe;
impl SentencePieceBpe {
    pub(crate) fn encode(&self, _t: &str, _o: &mut Vec<u32>) -> Result<(), TokenizerError> {
        Ok(())
    }
    pub(crate) fn token_to_id(&self, _t: &str) -> Option<u32> {
        None
    }
}
