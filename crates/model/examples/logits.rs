//! Writes the logits of a Hugging Face directory for given tokens, for comparisons with other programs.
//!
//! ```text
//! cargo run --release -p wattle-model --example logits -- DIRECTORY TOKENS OUT
//! ```
//! TOKENS is a text file: a sequence a line, token numbers with spaces between them, all of one length. OUT becomes
//! a safetensors file with `logits` (b, t, v), computed as in training and evaluation, and `decoded` (b, t, v),
//! computed token by token with a cache, as in generation.

use std::error::Error;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use wattle_model::hugging_face::{Directory, write_safetensors};
use wattle_model::{KvCache, LanguageModel, Pass};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, tokens, out] = args.as_slice() else {
        return Err("expected three arguments: DIRECTORY TOKENS OUT".into());
    };
    let model = Directory::open(Path::new(dir))?.load(&Device::Cpu)?;
    let sequences = read_tokens(Path::new(tokens))?;
    let logits = model.logits(&Tensor::new(sequences.clone(), &Device::Cpu)?, &mut pass())?;
    let decoded = sequences.iter().map(|sequence| decode(model.as_ref(), sequence));
    let decoded = Tensor::stack(&decoded.collect::<Result<Vec<_>, _>>()?, 0)?;
    write_safetensors(Path::new(out), &[("logits".to_owned(), logits), ("decoded".to_owned(), decoded)])?;
    Ok(())
}

/// Logits (t, v) of a sequence, a token at a time.
fn decode(model: &dyn LanguageModel, sequence: &[u32]) -> candle_core::Result<Tensor> {
    let mut cache = KvCache::new();
    let rows = sequence.iter().map(|token| model.decode(&[*token], &mut cache, &mut pass()));
    Tensor::stack(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

fn pass() -> Pass<'static> {
    Pass::evaluation(DType::F32)
}

fn read_tokens(path: &Path) -> Result<Vec<Vec<u32>>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let sequence = |line: &str| line.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>();
    let sequences = text.lines().map(sequence).collect::<Result<Vec<_>, _>>();
    Ok(sequences.map_err(|e| format!("{}: not token numbers ({e})", path.display()))?)
}
