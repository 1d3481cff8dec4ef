//! A corpus whose split is known: read once, to be tokenized.

use std::path::Path;

use crate::census::Census;
use crate::config::DataConfig;
use crate::corpus::{Block, Corpus, train_units};
use crate::error::DataError;
use crate::format::Format;
use crate::manifest::GeneratedManifest;
use crate::passage::Passage;
use crate::progress::{Progress, Stage, in_bytes};
use crate::split::Split;
use crate::steps::Steps;
use crate::tales;

/// Name of the embedded corpus's text in its dataset folder.
pub(crate) const CORPUS_FILE_NAME: &str = "corpus.txt";

/// A corpus whose split is known.
pub(crate) struct Source {
    pub corpus: Corpus,
    pub census: Census,
    /// Of each file, up to which unit of the corpus it is learnt from; the rest is validation.
    train_ends: Vec<u64>,
    /// How many files, the last, are validation as a whole.
    pub val_files: usize,
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
        let train_ends = vec![written.train_chars];
        let generated = GeneratedManifest {
            grammar_sha256: tales::grammar_sha256(),
            seed: data.embedded_seed,
            tales: written.tales,
            floor_bits: written.val_bits,
        };
        Ok(Self { corpus, census, train_ends, val_files: 0, generated: Some(generated) })
    }

    /// Reads the files of `data.input` once.
    pub(crate) fn inputs(data: &DataConfig, progress: &mut dyn FnMut(Progress)) -> Result<Self, DataError> {
        let inputs = data.inputs()?;
        let files = inputs.all();
        let formats = data.formats_of(&files)?;
        let corpus = Corpus::of_formats(files, formats.clone())
            .with_records(&data.text_field, data.bad_records)
            .with_steps(steps(data, &formats)?);
        let census = count(&corpus, progress)?;
        let train_ends = match inputs.val.len() {
            0 => vec![train_units(census.units(), data.val_fraction); inputs.train.len()],
            val_files => [vec![u64::MAX; inputs.train.len()], vec![0; val_files]].concat(),
        };
        Ok(Self { corpus, census, train_ends, val_files: inputs.val.len(), generated: None })
    }

    /// Calls `on_text` with the texts of a block, by split.
    pub(crate) fn for_each_text(
        &self,
        block: &Block,
        on_text: &mut dyn FnMut(Split, Passage<'_>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let first_unit = self.first_unit(block)?;
        let (train_end, kept) = (self.train_ends[block.file_idx], self.census.kept_of(block.index));
        self.corpus.for_each_text(block, first_unit, train_end, kept, on_text)
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
        let (train_ends, generated) = (self.train_ends.clone(), self.generated.clone());
        Ok(Self { corpus, census, train_ends, val_files: self.val_files, generated })
    }
}

/// The steps of a configuration; there are none of a text.
fn steps(data: &DataConfig, formats: &[Format]) -> Result<Steps, DataError> {
    let steps = Steps::of(data);
    match steps.counts().first() {
        Some(first) if !formats.iter().all(Format::is_documents) => {
            Err(DataError::StepOnText { step: first.name.clone() })
        }
        _ => Ok(steps),
    }
}

/// Reads `corpus` once.
pub(crate) fn count(corpus: &Corpus, progress: &mut dyn FnMut(Progress)) -> Result<Census, DataError> {
    corpus.census(&mut in_bytes(Stage::Counting, corpus.len_bytes()?, progress))
}
