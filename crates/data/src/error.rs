//! What can go wrong between a text and a batch.

use std::io;
use std::path::{Path, PathBuf};

use crate::split::Split;

/// A fault of the data, with what was expected, what came, where, and how to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder could not be read.
    #[error("cannot read {path:?}: {source}; check data.input, data.dir or tokenizer.file", path = .path)]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {path:?}: {source}; {}", write_remedy(.source))]
    Write {
        /// What was written.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of items could not be read.
    #[error("cannot read {path:?}: {source}; check evaluate.tasks or --tasks")]
    ReadTask {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Two files of items have the same name.
    #[error("{first:?} and {second:?} are both the task {name:?}; rename one of them")]
    SameTask {
        /// The name.
        name: String,
        /// The first of them.
        first: PathBuf,
        /// The second.
        second: PathBuf,
    },
    /// An item of a task that cannot be made tokens of.
    #[error("{path:?}, item {number}: {fault}")]
    Item {
        /// The file.
        path: PathBuf,
        /// Which item, counted from 1.
        number: usize,
        /// What is wrong.
        fault: Box<DataError>,
    },
    /// A continuation that its context's last token swallows.
    #[error("{continuation:?} has no token of its own after its prompt; make it longer")]
    NoContinuation {
        /// The continuation.
        continuation: String,
    },
    /// A text that does not fit into a model's context.
    #[error("{what} has {got} tokens, and the model's context is {context}; shorten it")]
    ContinuationTooLong {
        /// What is too long.
        what: String,
        /// Its tokens.
        got: usize,
        /// The model's context.
        context: usize,
    },
    /// A text that begins from nothing, without a token to begin from.
    #[error("the prompt is empty and the tokenizer has no end of text to begin from; write a prompt")]
    NoStartOfText,
    /// An input without a character.
    #[error("{path:?} is empty: expected text; remove it from data.input")]
    Empty {
        /// The input.
        path: PathBuf,
    },
    /// An input that is not UTF-8.
    #[error("{path:?} is not UTF-8: invalid byte at offset {offset}; {remedy}")]
    NotUtf8 {
        /// The input.
        path: PathBuf,
        /// Offset of the first invalid byte in the file.
        offset: u64,
        /// How to fix it, by what stands around that byte.
        remedy: String,
    },
    /// An input in another encoding of Unicode.
    #[error(
        "{path:?} is {encoding}, and UTF-8 is expected; convert it with `iconv -f {encoding} -t UTF-8 {} > \
         FILE` and name FILE",
        path.display()
    )]
    Encoding {
        /// The input.
        path: PathBuf,
        /// Its encoding, as iconv calls it.
        encoding: &'static str,
    },
    /// An input that is neither text nor JSON.
    #[error("{path:?} is {what}; {remedy}")]
    Foreign {
        /// The input.
        path: PathBuf,
        /// What it is.
        what: String,
        /// How to make a text of it.
        remedy: String,
    },
    /// An input that should be packed.
    #[error(
        "{path:?} is not {packer}, or not all of it: {source}; fetch or pack it again, or unpack it and name that"
    )]
    Packed {
        /// The input.
        path: PathBuf,
        /// By what.
        packer: &'static str,
        /// What the decoder says.
        source: io::Error,
    },
    /// An input that is far larger unpacked than packed.
    #[error(
        "{path:?} unpacks to more than {most} times its {packed} bytes, as no text does; look at what is in it \
         ({packer} -dc {} | head -c 1000), and if that is meant, unpack it and name the unpacked file",
        path.display()
    )]
    Unpacked {
        /// The input.
        path: PathBuf,
        /// By what it is packed.
        packer: &'static str,
        /// Its bytes on disk.
        packed: u64,
        /// How many times that it may unpack to.
        most: u64,
    },
    /// A pattern that stands for no file.
    #[error("data.input = {path:?} {reason}; correct the pattern, or name a file or a folder")]
    Pattern {
        /// The pattern.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder that cannot be read as a dataset.
    #[error("folder {path:?} {reason}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it, and how to fix it.
        reason: String,
    },
    /// A Parquet file that is damaged.
    #[error("{path:?} is not Parquet, or not all of it: {reason}; fetch or write it again")]
    Parquet {
        /// The input.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// A Parquet file without the column that should hold its texts.
    #[error("{path:?}: {what}; name the column with the text in data.text_field, here one of: {known}")]
    Column {
        /// The input.
        path: PathBuf,
        /// What is wrong with the column that was asked for.
        what: String,
        /// The columns that hold a text for each row.
        known: String,
    },
    /// A document that cannot be read.
    #[error("{path:?}, {unit} {place} {reason}")]
    Document {
        /// The input.
        path: PathBuf,
        /// What its place is counted in: "line", "record" or "row".
        unit: &'static str,
        /// Its place, from 1.
        place: u64,
        /// What is wrong, and how to fix it.
        reason: String,
    },
    /// An input none of whose records has a text that can be read.
    #[error("none of {count} records can be read; the first: {first}")]
    NoRecords {
        /// How many there are.
        count: u64,
        /// What is wrong with the first.
        first: Box<DataError>,
    },
    /// A step that is for documents, on a text.
    #[error(
        "the step {step} is for documents, and data.input is a text: give it as JSON lines or Parquet, or leave out \
         the key of the step"
    )]
    StepOnText {
        /// Its name.
        step: String,
    },
    /// Documents none of which passes the steps.
    #[error(
        "no document is left: the step {step} ({rule}) let none of {documents} pass; change its key, or give other \
         documents"
    )]
    NothingLeft {
        /// The step that let no document pass.
        step: String,
        /// What it lets pass.
        rule: String,
        /// Documents that came to it.
        documents: u64,
    },
    /// An input of documents that has none.
    #[error("{path:?} has no document with text: expected at least one; remove it from data.input")]
    NoDocuments {
        /// The input.
        path: PathBuf,
    },
    /// A document that cannot be turned into tokens.
    #[error("{path:?}, {unit} {place}: {source}")]
    InDocument {
        /// The input.
        path: PathBuf,
        /// What its place is counted in: "line" or "record".
        unit: &'static str,
        /// The document's place, from 1.
        place: u64,
        /// What is wrong.
        source: Box<DataError>,
    },
    /// Text that the tokenizer fails on.
    #[error("{path:?}: {source}")]
    InText {
        /// The input.
        path: PathBuf,
        /// What is wrong.
        source: Box<DataError>,
    },
    /// A chat template that is not there, does not parse, or refuses a conversation.
    #[error("chat template {name}: {reason}")]
    ChatTemplate {
        /// Its file or name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A conversation of which nothing can be learnt; a file's are told with their place.
    #[error("the conversation {reason}")]
    Conversation {
        /// Why.
        reason: String,
    },
    /// Conversations for which no template is known.
    #[error(
        "{path:?} has conversations, and the tokenizer has no chat template; set data.chat_template to chatml, plain, a \
         Jinja template or a folder with one, or name the field with the text in data.text_field"
    )]
    NoChatTemplate {
        /// The input.
        path: PathBuf,
    },
    /// A text whose tokens depend on text farther away than is looked at.
    #[error(
        "{path:?}: with this tokenizer, tokens depend on text that is more than {context} bytes away; give the text as \
         documents (JSON lines), or use another tokenizer"
    )]
    FarContext {
        /// The input, or the first of several.
        path: PathBuf,
        /// Bytes that are looked at.
        context: usize,
    },
    /// Inputs that cannot be read as one corpus.
    #[error("{}", mixed(.first, .second))]
    Mixed {
        /// An input.
        first: PathBuf,
        /// One of another format.
        second: PathBuf,
    },
    /// An input that changed while it was being prepared.
    #[error(
        "the input changed while it was read: {expected} characters or documents at first, {got} later; \
         start again"
    )]
    Changed {
        /// Characters of a text, or documents, of the first reading.
        expected: u64,
        /// Those of a later one, as far as it came.
        got: u64,
    },
    /// No place for the cache.
    #[error("no cache folder: neither XDG_CACHE_HOME nor HOME is set; set data.cache_dir")]
    NoCacheDir,

    /// A tokenizer that cannot be opened or used.
    #[error(
        "tokenizer {path:?}: {reason}; expected a tokenizer.json as Hugging Face `tokenizers` saves it: fetch or save \
         it again, or use another"
    )]
    Tokenizer {
        /// The file, or `tokenizer.json` for one made here.
        path: PathBuf,
        /// What the `tokenizers` library says.
        reason: String,
    },
    /// A Hugging Face directory without a tokenizer that can be opened.
    #[error(
        "{dir:?} has no tokenizer: looked for tokenizer.json, and for vocab.json with merges.txt; save one there, \
         in Python with `AutoTokenizer.from_pretrained(…).save_pretrained(DIR)`"
    )]
    NoTokenizer {
        /// The directory.
        dir: PathBuf,
    },
    /// A character for which the vocabulary has no entry.
    #[error(
        "{}character {character:?} at character {position} is not in the vocabulary; \
         leave it out, or use a tokenizer that encodes any text: one with all 256 bytes, with byte \
         fallback or with an unknown token, such as tokenizer.kind = \"bpe\" or \"bytes\"",
        path.as_ref().map_or(String::new(), |path| format!("{}: ", path.display()))
    )]
    UnknownCharacter {
        /// The file, if the text is one's.
        path: Option<PathBuf>,
        /// The character.
        character: char,
        /// Its place in the text, in characters from 0.
        position: u64,
    },
    /// A token id that the vocabulary does not have.
    #[error(
        "token {token} at position {position} is beyond the vocabulary of {vocab_size}: \
         the shards and the tokenizer do not belong together; prepare the data again"
    )]
    TokenBeyondVocabulary {
        /// The id.
        token: u32,
        /// Its place in the split or sequence.
        position: u64,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },

    /// A file that is no token shard.
    #[error("{path:?} is not a token shard: expected it to begin with {expected:?}, got {got:?}")]
    ShardMagic {
        /// The file.
        path: PathBuf,
        /// The first bytes of every shard.
        expected: String,
        /// The first bytes of this file.
        got: String,
    },
    /// A shard of a version or layout that this program does not read.
    #[error("shard {path:?}: {field} is {got}, expected {expected}; prepare the data again")]
    ShardField {
        /// The file.
        path: PathBuf,
        /// The header's field.
        field: &'static str,
        /// What this program or the manifest expects.
        expected: String,
        /// What the header says.
        got: String,
    },
    /// A shard that is shorter or longer than its header says.
    #[error("shard {path:?} has {got} bytes, expected {expected}: it is damaged; prepare the data again")]
    ShardLength {
        /// The file.
        path: PathBuf,
        /// Bytes by the header.
        expected: u64,
        /// Bytes of the file.
        got: u64,
    },
    /// A shard whose content is not what was written.
    #[error("shard {path:?} has hash {got}, expected {expected}: it is damaged; prepare the data again")]
    ShardHash {
        /// The file.
        path: PathBuf,
        /// Hash by the header or manifest.
        expected: String,
        /// Hash of the payload.
        got: String,
    },
    /// A dataset folder whose parts do not fit together.
    #[error("dataset {path:?}: {reason}; prepare the data again")]
    Manifest {
        /// The folder or its manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An output folder that is in use.
    #[error("{path:?} exists already: name another folder with --out, or remove it")]
    Exists {
        /// The folder.
        path: PathBuf,
    },

    /// A corpus that is not known by this name.
    #[error("no dataset is called {name:?}: expected one of {known}")]
    UnknownDataset {
        /// What was asked for.
        name: String,
        /// What there is, the nearest first.
        known: String,
    },
    /// A description of corpora, or the notes of what was downloaded, that cannot be used.
    #[error("{path:?}: {reason}")]
    DatasetManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong, and how to fix it.
        reason: String,
    },
    /// A download that does not come through.
    #[error(
        "cannot fetch {url}: {reason} (attempts without progress: {attempts}); check the network, and http_proxy \
         and https_proxy if there is a proxy, and run the same again: it goes on where it stopped"
    )]
    Fetch {
        /// What was to be fetched.
        url: String,
        /// What went wrong last.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A download that the server refuses.
    #[error("cannot fetch {url}: the server answered {status}; {}", status_remedy(.status, .homepage))]
    FetchStatus {
        /// What was to be fetched.
        url: String,
        /// The answer.
        status: String,
        /// Where the corpus is described.
        homepage: String,
    },
    /// A download that is sent elsewhere.
    #[error(
        "{url} is redirected to {scheme}://{host}, where its manifest does not let it go; if the corpus has moved \
         there, name the host in redirect_hosts of the manifest in datasets/"
    )]
    FetchRedirect {
        /// What was to be fetched.
        url: String,
        /// By what protocol.
        scheme: String,
        /// To what host.
        host: String,
    },
    /// A file of another size than it should have.
    #[error(
        "{url} has {got} bytes, expected {expected}: it is damaged or has changed; fetch it again, and if it \
         stays so, the manifest in datasets/ or the entry in datasets.lock.toml is no longer right"
    )]
    FetchLength {
        /// What was fetched.
        url: String,
        /// Bytes by the manifest or the first download.
        expected: u64,
        /// Bytes that came or were announced.
        got: u64,
    },
    /// A file that is another than it should be.
    #[error(
        "{url} has SHA-256 {got}, expected {expected}; the file was removed; fetch it again, or, {remedy}"
    )]
    FetchHash {
        /// What was fetched.
        url: String,
        /// Hash by the manifest or the first download.
        expected: String,
        /// Hash of what came.
        got: String,
        /// How to accept it.
        remedy: String,
    },

    /// A split without one whole window.
    #[error(
        "{source_name}: the {split} split has {tokens} tokens, expected at least {needed}, one window of \
         model.context + 1; lower model.context, give more text, or change data.val_fraction"
    )]
    TooShort {
        /// What the split is of.
        source_name: String,
        /// The split.
        split: Split,
        /// Tokens that there are.
        tokens: u64,
        /// Tokens of one window.
        needed: u64,
    },
    /// A split of conversations without a window in which something is learnt.
    #[error(
        "{source_name}: no window of the {split} split has a token that is learnt; raise model.context, give more \
         conversations, or change data.val_fraction"
    )]
    NothingLearnt {
        /// What the split is of.
        source_name: String,
        /// The split.
        split: Split,
    },
    /// A split whose documents' bounds its tokens do not tell.
    #[error(
        "{source_name}: the {split} split has {expected} documents, but {got} of the tokens that end one: they stand within \
         conversations too, so data.packing cannot tell where one ends; use another data.chat_template, or \
         data.packing = \"none\""
    )]
    DocumentBounds {
        /// What the split is of.
        source_name: String,
        /// The split.
        split: Split,
        /// Documents by the dataset's manifest.
        expected: u64,
        /// Documents by the tokens that end them.
        got: u64,
    },
    /// Packing was asked for, but the data have no documents, or nothing marks where they end.
    #[error("data.packing = {packing:?}, but {source_name} {reason}")]
    NotPackable {
        /// The value of the key.
        packing: &'static str,
        /// What the data are of.
        source_name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A text of which nothing can be predicted.
    #[error(
        "{source_name}: expected at least 2 tokens, one to predict the other from, got {tokens}; give more text"
    )]
    NothingToPredict {
        /// What the tokens are of.
        source_name: String,
        /// Tokens that there are.
        tokens: u64,
    },
    /// An epoch without one whole batch.
    #[error(
        "{source_name}: the training split has {windows} windows, expected at least train.batch_size = \
         {batch_size}; lower train.batch_size or model.context, or give more text"
    )]
    NoSteps {
        /// What the split is of.
        source_name: String,
        /// Windows that there are.
        windows: u64,
        /// Sequences a step.
        batch_size: usize,
    },
    /// A source of a mixture that a run would pass through more often than it may.
    #[error(
        "data.mixture: {name} would be passed through {passes:.2} times, and its epochs allow {most}: lower its weight \
         or train.max_steps, raise its epochs, or give it more text"
    )]
    TooManyPasses {
        /// Its name.
        name: String,
        /// How often.
        passes: f64,
        /// How often it may be.
        most: f64,
    },
    /// A request that no dataset can answer.
    #[error("{name} = {got}: expected {expected}")]
    Argument {
        /// The argument, by its key where it has one.
        name: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        got: String,
    },
}

impl DataError {
    /// An error in the text of a document, told with the document's place.
    pub(crate) fn in_document(self, path: &Path, unit: &'static str, place: u64) -> Self {
        match self {
            Self::UnknownCharacter { .. } | Self::Tokenizer { .. } => {
                Self::InDocument { path: path.to_owned(), unit, place, source: Box::new(self) }
            }
            Self::Conversation { reason } => Self::Document { path: path.to_owned(), unit, place, reason },
            other => other,
        }
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }
}

/// What is said of inputs of two formats.
fn mixed(first: &Path, second: &Path) -> String {
    format!(
        "data.input has both text and documents in JSON, {first:?} and {second:?}: expected one of them; \
         data.format = \"text\" reads all as text"
    )
}

/// How to get what a server refuses.
fn status_remedy(status: &str, homepage: &str) -> String {
    match status.starts_with("401") || status.starts_with("403") {
        true => format!(
            "accept its terms at {homepage} if it has some, and set HF_TOKEN to a token of Hugging Face that may read it"
        ),
        false => format!("look at {homepage} whether it has moved"),
    }
}

fn write_remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: free space or set data.cache_dir to another disk"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "the folder is not writable: set data.cache_dir or --out to one that is"
        }
        _ => "check data.cache_dir or --out",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_with_its_remedy() {
        let error = DataError::write(Path::new("/cache/x"))(io::Error::from(io::ErrorKind::StorageFull));
        let message = error.to_string();
        assert!(message.contains("/cache/x") && message.contains("data.cache_dir"), "{message}");
    }
}
