//! A `tokenizer.json` in the keys that llama.cpp tokenizes by.
//!
//! Two of its tokenizers do what ours do:
//! - `gpt2`: byte-level pairs with GPT-2's pattern. Texts there always have a token that ends them, id 11 unless the
//!   file says otherwise. A model without such a token is given one that no text holds: a row beyond the
//!   vocabulary, or the byte 0xFF, which is never part of UTF-8.
//! - `rwkv`: the longest entry that matches, with no end of text unless the file names one. For entries of one byte
//!   each that is a tokenizer of bytes or of ASCII characters. (`gpt2` asks for merges, and these have none.)
//!
//! # References
//! llama.cpp, `src/llama-vocab.cpp`: `llama_vocab::impl::load`, `llm_tokenizer_rwkv`.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use serde_json::Value as Json;

/// Kinds of token, by the specification.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The byte 0xFF in the printable alphabet of byte-level vocabularies.
const BYTE_FF: &str = "ÿ";

/// Special tokens that end a text, the first that there is counts.
const ENDS_OF_TEXT: [&str; 5] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"];

/// What can be done about a tokenizer that llama.cpp does not have.
const REMEDY: &str = "llama.cpp has no tokenizer that does the same as far as wattle knows; a model trained with \
                      tokenizer.kind = \"bpe\" or \"bytes\" can be exported";

/// Which of llama.cpp's tokenizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// Byte-level pairs; the pattern's name there.
    Pairs(&'static str),
    /// Entries of a byte each, in the printable alphabet of byte-level vocabularies.
    Bytes,
    /// Entries of an ASCII character each.
    Characters,
}

/// The vocabulary by id.
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i32>,
    end_of_text: Option<u32>,
    /// The first id that is a row of the model and no token.
    first_unused: Option<u32>,
}

/// The keys for a model of `n_rows` rows.
///
/// # Errors
/// What llama.cpp cannot represent, a sentence each.
pub(super) fn keys(json: &str, n_rows: usize) -> Result<Vec<(String, Value)>, Vec<String>> {
    let one = |fault: String| vec![format!("tokenizer.json: {fault}")];
    let json: Json = serde_json::from_str(json).map_err(|error| one(format!("not JSON ({error})")))?;
    let scheme = scheme(&json).map_err(|what| one(format!("{what}: {REMEDY}")))?;
    let vocabulary = Vocabulary::read(&json, n_rows).map_err(one)?;
    let end_of_text = vocabulary.end_of_text(scheme).map_err(one)?;
    let mut keys = match scheme {
        Scheme::Pairs(pattern) => vec![
            ("model", Value::String("gpt2".to_owned())),
            ("pre", Value::String(pattern.to_owned())),
            ("merges", Value::Array(merges(&json).into_iter().map(Value::String).collect())),
        ],
        Scheme::Bytes | Scheme::Characters => vec![("model", Value::String("rwkv".to_owned()))],
    };
    keys.push(("add_bos_token", Value::Bool(false)));
    if let Some(id) = end_of_text {
        keys.extend([("bos_token_id", Value::U32(id)), ("eos_token_id", Value::U32(id))]);
    }
    let spell = |(token, &kind): (&String, &i32)| Value::String(scheme.spell(token, kind));
    let tokens = vocabulary.tokens.iter().zip(&vocabulary.kinds).map(spell).collect();
    let kinds = vocabulary.kinds.iter().copied().map(Value::I32).collect();
    keys.extend([("tokens", Value::Array(tokens)), ("token_type", Value::Array(kinds))]);
    Ok(keys.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect())
}

/// The scheme that gives the same tokens.
///
/// # Errors
/// What stands against every scheme.
fn scheme(json: &Json) -> Result<Scheme, String> {
    let model = &json["model"];
    if model["type"] != "BPE" {
        return Err(format!("a model of type {}", model["type"]));
    }
    if !json["normalizer"].is_null() {
        return Err(format!("text is normalized first ({})", json["normalizer"]["type"]));
    }
    for key in ["byte_fallback", "ignore_merges"] {
        if model[key] == true {
            return Err(format!("model.{key} = true"));
        }
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix", "dropout"] {
        if !(model[key].is_null() || model[key] == "") {
            return Err(format!("model.{key} = {}", model[key]));
        }
    }
    let has_merges = !merges(json).is_empty();
    let before = &json["pre_tokenizer"];
    match (before["type"].as_str(), has_merges) {
        (Some("ByteLevel"), _) if before["add_prefix_space"] == true => {
            Err("pre_tokenizer.add_prefix_space = true".to_owned())
        }
        (Some("ByteLevel"), false) => Ok(Scheme::Bytes),
        (Some("ByteLevel"), true) if before["use_regex"] != false => Ok(Scheme::Pairs("gpt-2")),
        (Some("ByteLevel"), true) => {
            Err("pairs that cross words (pre_tokenizer.use_regex = false)".to_owned())
        }
        (None, false) => characters(model),
        (None, true) => Err("pairs of characters, not of bytes".to_owned()),
        (Some(other), _) => Err(format!("a pre_tokenizer of type {other:?}")),
    }
}

/// Characters, if each is one byte: at a character that it does not know but whose first byte it does, llama.cpp's
/// `rwkv` never comes to an end.
fn characters(model: &Json) -> Result<Scheme, String> {
    let vocab = model["vocab"].as_object();
    match vocab.into_iter().flatten().find(|(token, _)| !token.is_ascii() || token.len() != 1) {
        None => Ok(Scheme::Characters),
        Some((token, _)) if token.chars().count() == 1 => {
            Err(format!("characters, of which {token:?} is more than a byte"))
        }
        Some((token, _)) => Err(format!("entries of several characters, such as {token:?}, but no pairs")),
    }
}

impl Scheme {
    /// An entry as it is written there.
    fn spell(self, token: &str, kind: i32) -> String {
        match (self, kind) {
            (Self::Pairs(_), _) => token.to_owned(),
            (Self::Bytes, NORMAL) => {
                escaped(&printed_byte(token).map_or(token.as_bytes().to_vec(), |b| vec![b]))
            }
            (Self::Characters, NORMAL) => escaped(token.as_bytes()),
            // Matched like any entry: what begins with a byte that no text has is never found in one.
            (Self::Bytes | Self::Characters, _) => format!("\\xff{token}"),
        }
    }
}

impl Vocabulary {
    fn read(json: &Json, n_rows: usize) -> Result<Self, String> {
        let mut by_id: HashMap<u64, (String, i32)> = HashMap::new();
        let vocab = json["model"]["vocab"].as_object();
        for (token, id) in vocab.into_iter().flatten() {
            by_id.insert(id.as_u64().unwrap_or(u64::MAX), (token.clone(), NORMAL));
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            let kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
            let content = added["content"].as_str().unwrap_or_default().to_owned();
            by_id.insert(added["id"].as_u64().unwrap_or(u64::MAX), (content, kind));
        }
        if let Some((id, (token, _))) = by_id.iter().find(|(id, _)| **id >= n_rows as u64) {
            return Err(format!("{token:?} has the id {id}, but the model predicts {n_rows} tokens"));
        }
        let control = |spelling: &str| by_id.iter().find(|(_, (t, kind))| t == spelling && *kind == CONTROL);
        let end_of_text =
            ENDS_OF_TEXT.iter().find_map(|spelling| control(spelling)).map(|(&id, _)| id as u32);
        let first_unused = (0..n_rows as u64).find(|id| !by_id.contains_key(id)).map(|id| id as u32);
        let unused = |id: u64| (format!("[unused {id}]"), UNUSED);
        let rows = (0..n_rows as u64).map(|id| by_id.get(&id).cloned().unwrap_or_else(|| unused(id)));
        let (tokens, kinds) = rows.unzip();
        Ok(Self { tokens, kinds, end_of_text, first_unused })
    }

    /// What ends a text there; `None` if nothing has to.
    fn end_of_text(&self, scheme: Scheme) -> Result<Option<u32>, String> {
        let (Scheme::Pairs(_), None) = (scheme, self.end_of_text) else { return Ok(self.end_of_text) };
        let never = || self.tokens.iter().position(|token| token == BYTE_FF).map(|id| id as u32);
        match self.first_unused.or_else(never) {
            Some(id) => Ok(Some(id)),
            None => Err(
                "there is no token that ends a text, and none that can stand for it; add a special token \
                         <|endoftext|>, or a row to the model by model.vocab_size"
                    .to_owned(),
            ),
        }
    }
}

/// Merges as `left right`; older files write them so, newer ones as pairs.
fn merges(json: &Json) -> Vec<String> {
    let merges = json["model"]["merges"].as_array().into_iter().flatten();
    let text = |merge: &Json| match merge {
        Json::Array(pair) => pair.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(" "),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    merges.map(text).collect()
}

/// The byte that a character of the printable alphabet stands for.
///
/// # References
/// `bytes_to_unicode` in the code of GPT-2: visible Latin-1 characters stand for themselves, the other bytes follow
/// from U+0100 in order.
fn printed_byte(token: &str) -> Option<u8> {
    let is_visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut characters = token.chars();
    let (code, None) = (u32::from(characters.next()?), characters.next()) else { return None };
    match u8::try_from(code) {
        Ok(byte) => is_visible(byte).then_some(byte),
        Err(_) => (0..=u8::MAX).filter(|&byte| !is_visible(byte)).nth((code - 0x100) as usize),
    }
}

/// Bytes in the escapes of `rwkv` vocabularies.
fn escaped(bytes: &[u8]) -> String {
    let one = |&byte: &u8| match byte {
        b'\\' => "\\\\".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value<'a>(keys: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
        keys.iter().find(|(key, _)| key == &format!("tokenizer.ggml.{name}")).map(|(_, value)| value)
    }

    fn texts(keys: &[(String, Value)], name: &str) -> Vec<String> {
        let values = value(keys, name).unwrap().to_vec().unwrap();
        values.iter().map(|text| text.to_string().unwrap().clone()).collect()
    }

    fn byte_level(vocab: Json, merges: Json, use_regex: bool) -> Json {
        json!({
            "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": use_regex },
            "model": { "type": "BPE", "vocab": vocab, "merges": merges },
            "added_tokens": [],
        })
    }

    #[test]
    fn pairs_of_bytes_are_gpt2_and_end_at_a_byte_that_no_text_holds() {
        let json = byte_level(json!({"a": 0, "b": 1, "ab": 2, "ÿ": 3}), json!([["a", "b"]]), true);
        let keys = keys(&json.to_string(), 4).unwrap();
        assert_eq!(value(&keys, "model").unwrap().to_string().unwrap(), "gpt2");
        assert_eq!(value(&keys, "pre").unwrap().to_string().unwrap(), "gpt-2");
        assert_eq!(texts(&keys, "merges"), ["a b"]);
        assert_eq!(texts(&keys, "tokens"), ["a", "b", "ab", "ÿ"]);
        assert_eq!(value(&keys, "eos_token_id").unwrap().to_u64().unwrap(), 3);
    }

    #[test]
    fn a_row_without_a_token_ends_texts_before_a_byte_does_and_a_token_of_the_tokenizer_before_that() {
        let mut json = byte_level(json!({"a": 0, "b": 1, "ab": 2, "ÿ": 3}), json!(["a b"]), true);
        let padded = keys(&json.to_string(), 6).unwrap();
        assert_eq!(value(&padded, "eos_token_id").unwrap().to_u64().unwrap(), 4);
        assert_eq!(texts(&padded, "tokens")[4..], ["[unused 4]", "[unused 5]"]);
        json["added_tokens"] = json!([{"id": 4, "content": "<|endoftext|>", "special": true}]);
        let ended = keys(&json.to_string(), 6).unwrap();
        assert_eq!(value(&ended, "eos_token_id").unwrap().to_u64().unwrap(), 4);
        let kinds: Vec<i32> = value(&ended, "token_type")
            .unwrap()
            .to_vec()
            .unwrap()
            .iter()
            .map(|k| k.to_i32().unwrap())
            .collect();
        assert_eq!(kinds, [1, 1, 1, 1, 3, 5]);
    }

    #[test]
    fn without_a_token_to_end_with_pairs_are_refused() {
        let json = byte_level(json!({"a": 0, "b": 1, "ab": 2}), json!([["a", "b"]]), true);
        let faults = keys(&json.to_string(), 3).unwrap_err();
        assert!(faults[0].contains("model.vocab_size"), "{faults:?}");
    }

    #[test]
    fn bytes_are_escaped_entries_without_an_end() {
        let json = byte_level(json!({"a": 0, "Ċ": 1, "\\": 2, "ÿ": 3, "Ā": 4, "Ń": 5}), json!([]), false);
        let keys = keys(&json.to_string(), 7).unwrap();
        assert_eq!(value(&keys, "model").unwrap().to_string().unwrap(), "rwkv");
        let expected = ["a", "\\x0a", "\\\\", "\\xff", "\\x00", "\\xad", "\\xff[unused 6]"];
        assert_eq!(texts(&keys, "tokens"), expected);
        assert!(value(&keys, "eos_token_id").is_none());
    }

    #[test]
    fn the_printable_alphabet_is_read_back() {
        // Of the bytes that are not visible, the last is the soft hyphen.
        assert_eq!(printed_byte("Ń"), Some(0xAD));
        assert_eq!(printed_byte("ń"), None);
        assert_eq!(printed_byte("Ġ"), Some(b' '));
        assert_eq!(printed_byte("é"), Some(0xE9));
        assert_eq!(printed_byte("ab"), None);
    }

    #[test]
    fn characters_are_entries_if_each_is_a_byte() {
        let characters = |vocab: Json| json!({ "model": { "type": "BPE", "vocab": vocab, "merges": [] } });
        let keys = keys(&characters(json!({"\n": 0, "a": 1})).to_string(), 2).unwrap();
        assert_eq!(texts(&keys, "tokens"), ["\\x0a", "a"]);
        let faults = super::keys(&characters(json!({"a": 0, "é": 1})).to_string(), 2).unwrap_err();
        assert!(faults[0].contains("\"é\"") && faults[0].contains("tokenizer.kind"), "{faults:?}");
    }

    #[test]
    fn what_llama_cpp_does_not_do_is_named() {
        let fine = byte_level(json!({"a": 0, "b": 1, "ab": 2, "ÿ": 3}), json!([["a", "b"]]), true);
        let changes = [
            ("/model/type", json!("Unigram"), "Unigram"),
            ("/normalizer", json!({"type": "NFC"}), "NFC"),
            ("/model/byte_fallback", json!(true), "byte_fallback"),
            ("/pre_tokenizer/add_prefix_space", json!(true), "add_prefix_space"),
            ("/pre_tokenizer/use_regex", json!(false), "use_regex"),
            ("/pre_tokenizer/type", json!("Metaspace"), "Metaspace"),
        ];
        for (at, to, named) in changes {
            let mut json = fine.clone();
            let (parent, key) = at.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap()[key] = to;
            let faults = keys(&json.to_string(), 4).unwrap_err();
            assert!(faults[0].contains(named), "{at}: {faults:?}");
        }
    }
}
