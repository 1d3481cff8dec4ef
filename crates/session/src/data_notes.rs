//! What is said of data that are not to the letter what was given: records left out, text that was lost, settings of
//! a tokenizer that are not obeyed.

use std::sync::Once;

use wattle_data::manifest::SourceManifest;
use wattle_data::{BadRecordsManifest, Dataset, SplitManifest};
use wattle_report::words::quantity::count;

/// Warns of all that a person should know of `dataset` before trusting a figure.
pub fn say(dataset: &Dataset) {
    let manifest = &dataset.manifest;
    say_switched_off(&manifest.tokenizer.switched_off);
    if !dataset.tokenizer.switched_off().is_empty() {
        tracing::warn!(
            "{}: an earlier version prepared this and obeyed {}, so text may be missing; prepare it again",
            dataset.dir.display(),
            dataset.tokenizer.switched_off().join(" and ")
        );
    }
    if let Some(documents) = &manifest.documents
        && let Some(bad) = &documents.bad
    {
        tracing::warn!("{}", describe_bad(bad, documents.train + documents.val + documents.empty));
    }
    manifest.sources.iter().filter_map(describe_unpacked).for_each(|sentence| tracing::warn!("{sentence}"));
    let splits = [Some(&manifest.split.train), manifest.split.val.as_ref()];
    match loss_of(splits.into_iter().flatten()) {
        Some(loss) => loss.describe().iter().for_each(|sentence| tracing::warn!("{sentence}")),
        None if dataset.tokenizer.is_exact() => {}
        None => tracing::warn!(
            "{}: an earlier version prepared this without looking at whether the tokenizer loses text; prepare it \
             again to know",
            dataset.dir.display()
        ),
    }
}

/// From so many times its size on disk on, a packed text is warned of: several times what text packs to.
const REMARKABLE_RATIO: u64 = 40;

/// A text of at most so many bytes is never warned of.
const UNREMARKABLE_BYTES: u64 = 16 << 20;

/// What to say of a source that is far larger unpacked than packed.
fn describe_unpacked(source: &SourceManifest) -> Option<String> {
    let packed = source.packed_bytes?;
    let ratio = source.bytes / packed.max(1);
    (source.bytes > UNREMARKABLE_BYTES && ratio >= REMARKABLE_RATIO).then(|| {
        format!(
            "{}: its {} bytes hold {} bytes of text, {ratio} times as many: the text repeats itself almost everywhere",
            source.path,
            count(packed),
            count(source.bytes)
        )
    })
}

/// Says once what a tokenizer's file asks for that belongs to a call.
pub fn say_switched_off(switched_off: &[String]) {
    static SAID: Once = Once::new();
    if !switched_off.is_empty() {
        SAID.call_once(|| {
            tracing::warn!(
                "the tokenizer's file asks for {}: switched off, because it applies to a single call and not to a corpus",
                switched_off.join(" and ")
            );
        });
    }
}

fn describe_bad(bad: &BadRecordsManifest, good: u64) -> String {
    let kinds: Vec<String> = bad.skipped.iter().map(|(kind, n)| format!("{} {kind}", count(*n))).collect();
    format!(
        "{} of {} records have no text that can be read and were left out ({}); the first: {}; \
         data.bad_records = \"refuse\" (--bad-records refuse) makes that an error",
        count(bad.total()),
        count(bad.total() + good),
        kinds.join(", "),
        bad.first
    )
}

/// How much of a text its tokens do not stand for.
#[derive(Clone, Copy, Debug)]
pub struct TextLoss {
    chars: u64,
    lost_chars: u64,
    tokens: u64,
    unknown_tokens: u64,
    /// Whether bits a byte are withheld for it.
    is_material: bool,
}

/// The loss of several splits together; `None` if one of them is not known.
pub fn loss_of<'a>(mut splits: impl Iterator<Item = &'a SplitManifest>) -> Option<TextLoss> {
    let nothing = TextLoss { chars: 0, lost_chars: 0, tokens: 0, unknown_tokens: 0, is_material: false };
    splits.try_fold(nothing, |sum, split| {
        Some(TextLoss {
            chars: sum.chars + split.chars,
            lost_chars: sum.lost_chars + split.lost_chars?,
            tokens: sum.tokens + split.tokens,
            unknown_tokens: sum.unknown_tokens + split.unknown_tokens?,
            is_material: sum.is_material || split.bits_per_byte(1.0).is_none(),
        })
    })
}

impl TextLoss {
    /// What to say of it, if it is not nothing.
    fn describe(&self) -> Option<String> {
        let shares = self.shares()?;
        let withheld = if self.is_material { "; bits a byte are not stated for such a text" } else { "" };
        Some(format!("the tokenizer loses text: {shares}{withheld}"))
    }

    /// Its shares, if it is not nothing.
    pub fn shares(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.lost_chars > 0 {
            parts.push(format!(
                "{} of the characters ({}) do not come back from the tokens",
                share(self.lost_chars, self.chars),
                count(self.lost_chars)
            ));
        }
        if self.unknown_tokens > 0 {
            parts.push(format!(
                "{} of the tokens ({}) stand for text that the vocabulary lacks",
                share(self.unknown_tokens, self.tokens),
                count(self.unknown_tokens)
            ));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// A share in per cent, with about two significant digits.
fn share(part: u64, whole: u64) -> String {
    let percent = 100.0 * part as f64 / (whole as f64).max(1.0);
    match percent {
        p if p >= 10.0 => format!("{p:.0} %"),
        p if p >= 1.0 => format!("{p:.1} %"),
        p if p >= 0.01 => format!("{p:.2} %"),
        _ => "less than 0.01 %".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_hardly_says_anything_is_announced() {
        let said = |bytes: u64, packed_bytes: Option<u64>| {
            let (path, sha256) = ("a.txt.gz".to_owned(), String::new());
            describe_unpacked(&SourceManifest { path, bytes, chars: bytes, sha256, packed_bytes })
        };
        let bomb = said(1 << 30, Some(1 << 20)).unwrap();
        assert!(bomb.starts_with("a.txt.gz") && bomb.contains("1024 times"), "{bomb}");
        for fine in [said(1 << 30, None), said(1 << 30, Some(100 << 20)), said(1 << 20, Some(1 << 10))] {
            assert_eq!(fine, None);
        }
    }
}
