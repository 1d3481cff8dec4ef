//! A corpus whose split is known: read once, to be tokenized.

use std::path::Path;

use crate::census::Census;
use crate::config::DataConfig;
use crate::conversation::Conversations;
use crate::corpus::{Block, Corpus, train_units};
use crate::error::DataError;
use crate::manifest::GeneratedManifest;
use crate::progress::{Progress, Stage, in_bytes};
use crate::tales;

/// Name of the embedded corpus's text in its dataset folder.
pub(crate) const CORPUS_FILE_NAME: &str = "corpus.txt";

/// A corpus whose split is known.
pub(crate) struct Source {
    pub corpus: Corpus,
    pub census: Census,
    /// Units to learn from; the rest is validation.
    pub train_units: u64,
    pub generated: Option<GeneratedManifest>,
}

impl Source {
    /// Writes the embedded corpus into `dir`, and reads it once.
    pub(crate) fn embedded(
        dir: &Path,
        data: &DataConfig,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, DataError> {
        let path = dir.join(CORPUS_FILE_NAME);
        let total = data.embedded_chars;
        let mut on_chars = |chars: u64| {
            progress(Progress { stage: Stage::Generating, done: chars.min(total), total, unit: "chars" });
        };
        let written =
            tales::write_corpus(&path, total, data.val_fraction, data.embedded_seed, &mut on_chars)?;
        let corpus = Corpus::new(vec![path]);
        let census = count(&corpus, progress)?;
        let generated = GeneratedManifest {
            grammar_sha256: tales::grammar_sha256(),
            seed: data.embedded_seed,
            tales: written.tales,
            floor_bits: written.val_bits,
        };
        Ok(Self { corpus, census, train_units: written.train_chars, generated: Some(generated) })
    }

    /// Reads the files of `data.input` once.
    pub(crate) fn inputs(
        data: &DataConfig,
        conversations: Option<Conversations>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, DataError> {
        let corpus = Corpus::of_formats(data.input.clone(), data.input_formats()?)
            .with_records(&data.text_field, data.bad_records)
            .with_conversations(conversations);
        let census = count(&corpus, progress)?;
        let train_units = train_units(census.units(), data.val_fraction);
        Ok(Self { corpus, census, train_units, generated: None })
    }

    /// The number of the first unit of a block, if there was such a block at the first reading.
    pub(crate) fn first_unit(&self, block: &Block) -> Result<u64, DataError> {
        let units = self.census.units();
        self.census.first_unit(block.index).ok_or(DataError::Changed { expected: units, got: units + 1 })
    }

    /// Bytes of the largest text.
    pub(crate) fn largest_file(&self) -> u64 {
        self.census.files.iter().map(|file| file.bytes).max().unwrap_or(0)
    }

    /// The same, with each file one block.
    pub(crate) fn in_whole_files(&self, progress: &mut dyn FnMut(Progress)) -> Result<Self, DataError> {
        let block_bytes = self.largest_file() as usize;
        let corpus = self.corpus.clone().with_block_bytes(block_bytes.max(self.corpus.block_bytes()));
        let census = count(&corpus, progress)?;
        Ok(Self { corpus, census, train_units: self.train_units, generated: self.generated.clone() })
    }
}

/// Reads `corpus` once.
pub(crate) fn count(corpus: &Corpus, progress: &mut dyn FnMut(Progress)) -> Result<Census, DataError> {
    corpus.census(&mut in_bytes(Stage::Counting, corpus.len_bytes()?, progress))
}
