//! Which tokens of a text a part of it is.

use tokenizers::{PostProcessorWrapper, Tokenizer as Library};

use super::learnt::Learnt;
use crate::encode_error::EncodeError;
use crate::encoder::Specials;
use crate::passage::{Encoded, Passage};
use crate::tokenizer::Tokenizer;
use crate::word_cache::WordCache;

/// Encodes texts and tells which of their tokens are learnt.
#[derive(Clone, Debug)]
pub(crate) struct Aligner {
    /// The tokenizer's library without its post-processor, which would move the places of tokens.
    library: Library,
}

impl Aligner {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let mut library = tokenizer.library().clone();
        library.with_post_processor(None::<PostProcessorWrapper>);
        Self { library }
    }

    /// Appends the tokens of `text` to `out`, special tokens found where the text spells them, and to `mask` whether
    /// each is learnt. Returns how many are.
    pub(crate) fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        learnt: &[Learnt],
        cache: &mut WordCache,
        out: &mut Encoded,
        mask: &mut Vec<bool>,
    ) -> Result<u64, EncodeError> {
        let first = out.ids.len();
        tokenizer.encode_passage(Passage::whole(text), Specials::Tokens, cache, out)?;
        let encoding = self.library.encode(text, false)?;
        if encoding.get_ids() != &out.ids[first..] {
            return Err(EncodeError::Library("gives other tokens with their places than without".into()));
        }
        let before = mask.len();
        mask.extend(
            encoding
                .get_offsets()
                .iter()
                .map(|&(start, end)| learnt.iter().any(|part| is_part(start, end, part))),
        );
        Ok(mask[before..].iter().filter(|&&is_learnt| is_learnt).count() as u64)
    }
}

/// Whether the token of bytes `start..end` is of a learnt part: they overlap. One of no bytes is of the part that it
/// stands in.
fn is_part(start: usize, end: usize, Learnt { range, is_loose }: &Learnt) -> bool {
    start < range.end && end.max(start + 1) > range.start && (!is_loose || end <= range.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe::WordCounts;

    fn masked(tokenizer: &Tokenizer, text: &str, learnt: &[Learnt]) -> Vec<(String, bool)> {
        let (mut out, mut mask) = (Encoded::default(), Vec::new());
        let aligner = Aligner::new(tokenizer);
        let n =
            aligner.encode(tokenizer, text, learnt, &mut WordCache::default(), &mut out, &mut mask).unwrap();
        assert_eq!(n, mask.iter().filter(|&&is_learnt| is_learnt).count() as u64);
        assert_eq!(out.ids, tokenizer.encode(text).unwrap());
        out.ids.iter().map(|&id| tokenizer.decode(&[id]).unwrap()).zip(mask).collect()
    }

    fn part(range: std::ops::Range<usize>, is_loose: bool) -> Learnt {
        Learnt { range, is_loose }
    }

    #[test]
    fn tokens_that_overlap_are_learnt_with_the_space_before_a_word() {
        let mut words = WordCounts::new();
        (0..20).for_each(|_| words.add("say hello hello hello you\n"));
        let tokenizer = Tokenizer::bpe(&words, 300).with_end_of_text();
        let text = "say: hello<|endoftext|>\n";
        let got = masked(&tokenizer, text, &[part(4..text.len() - 1, false)]);
        let said: String =
            got.iter().filter(|(_, is_learnt)| *is_learnt).map(|(text, _)| text.as_str()).collect();
        assert_eq!(said, " hello<|endoftext|>");
        assert_eq!(got.last().unwrap(), &("\n".to_owned(), false));
    }

    #[test]
    fn a_loose_end_leaves_out_the_token_that_it_cuts() {
        let tokenizer = Tokenizer::bytes().with_end_of_text();
        let text = "ab<|endoftext|>";
        let of = |part| masked(&tokenizer, text, &[part]).into_iter().map(|(_, is)| is).collect::<Vec<_>>();
        assert_eq!(of(part(1..4, true)), [false, true, false]);
        assert_eq!(of(part(1..4, false)), [false, true, true]);
        // All bytes of a character are learnt with it.
        let euro = masked(&tokenizer, "x€", &[part(1..4, false)]);
        assert_eq!(euro.iter().map(|(_, is)| *is).collect::<Vec<_>>(), [false, true, true, true]);
    }
}
