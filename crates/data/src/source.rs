//! A corpus whose split is known: read once, to be tokenized.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::census::Census;
use crate::config::{DataConfig, SourceInputs, TokenizerConfig};
use crate::conversation::conversations;
use crate::corpus::{Block, Corpus, train_units};
use crate::error::DataError;
use crate::format::Format;
use crate::inputs::Inputs;
use crate::manifest::GeneratedManifest;
use crate::mixture::MixtureSource;
use crate::passage::Passage;
use crate::progress::{Progress, Stage, in_bytes};
use crate::split::Split;
use crate::steps::Steps;
use crate::tales;

/// Name of the embedded corpus's text in its dataset folder.
pub(crate) const CORPUS_FILE_NAME: &str = "corpus.txt";

/// A source of a mixture, and which files are its.
#[derive(Clone)]
pub(crate) struct MixedFiles {
    pub source: MixtureSource,
    pub files: Range<usize>,
}

/// A corpus whose split is known.
pub(crate) struct Source {
    pub corpus: Corpus,
    pub census: Census,
    /// Of each file, up to which unit of the corpus it is learnt from; the rest is validation.
    train_ends: Vec<u64>,
    /// How many files, the last, are validation as a whole.
    pub val_files: usize,
    /// Of a mixture: its sources.
    pub mixture: Vec<MixedFiles>,
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
        Ok(Self { corpus, census, train_ends, val_files: 0, mixture: Vec::new(), generated: Some(generated) })
    }

    /// Reads the files of `data.input` once.
    pub(crate) fn inputs(
        data: &DataConfig,
        tokenizer: &TokenizerConfig,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, DataError> {
        let sources = data.sources()?;
        let files: Vec<PathBuf> = sources.iter().flat_map(|source| source.inputs.all()).collect();
        let formats = data.formats_of(&files)?;
        let conversations = conversations(data, tokenizer, &files, &formats)?;
        let text_field = |source: &SourceInputs| {
            let own = source.mixed.as_ref().and_then(|mixed| mixed.text_field.clone());
            own.unwrap_or_else(|| data.text_field.clone())
        };
        let text_fields =
            sources.iter().flat_map(|source| vec![text_field(source); source.inputs.len()]).collect();
        let steps = steps(data, &formats)?;
        let corpus = Corpus::of_formats(files, formats)
            .with_records(&data.text_field, data.bad_records)
            .with_text_fields(text_fields)
            .with_conversations(conversations)
            .with_steps(steps);
        let census = count(&corpus, progress)?;
        let (mut train_ends, mut mixture, mut val_files) = (Vec::new(), Vec::new(), 0);
        for SourceInputs { mixed, inputs } in sources {
            let files = train_ends.len()..train_ends.len() + inputs.len();
            train_ends.extend(train_ends_of(&inputs, &files, &census, data.val_fraction));
            match mixed {
                Some(source) => mixture.push(MixedFiles { source, files }),
                None => val_files = inputs.val.len(),
            }
        }
        Ok(Self { corpus, census, train_ends, val_files, mixture, generated: None })
    }

    /// Which source of the mixture a file is of.
    pub(crate) fn mixed_idx(&self, file_idx: usize) -> Option<usize> {
        self.mixture.iter().position(|source| source.files.contains(&file_idx))
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
        let (train_ends, mixture) = (self.train_ends.clone(), self.mixture.clone());
        let generated = self.generated.clone();
        Ok(Self { corpus, census, train_ends, val_files: self.val_files, mixture, generated })
    }
}

/// Up to which unit of the corpus each file of one source is learnt from: its validation files from none on, or else
/// all up to its share of them.
fn train_ends_of(inputs: &Inputs, files: &Range<usize>, census: &Census, val_fraction: f64) -> Vec<u64> {
    if !inputs.val.is_empty() {
        return [vec![u64::MAX; inputs.train.len()], vec![0; inputs.val.len()]].concat();
    }
    let units = |files: Range<usize>| census.files[files].iter().map(|file| file.units).sum::<u64>();
    let train_end = units(0..files.start) + train_units(units(files.clone()), val_fraction);
    vec![train_end; inputs.train.len()]
}

/// The steps of a configuration, which are for documents alone.
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
