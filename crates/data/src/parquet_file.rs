//! Parquet files: the texts of one column, in batches of rows.
//!
//! A file is read by row groups, and of a row group one column alone, page by page: memory holds the pages of a batch
//! of rows, whatever the size of the file or of a row group. What packs pages is told by the file (Snappy, zstd, gzip,
//! LZ4). A column within others is named by its path with dots, as `meta.text`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use parquet::basic::Type as PhysicalType;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;
use sha2::{Digest, Sha256};
use wattle_guard::guard;

use crate::digest::to_hex;
use crate::error::DataError;

/// The first and last bytes of every file.
pub(crate) const MAGIC: &[u8] = b"PAR1";

/// Most rows that are decoded at a time.
const MAX_BATCH_ROWS: usize = 1024;

/// Batches of a block, where all texts are of the mean length.
const BATCHES_PER_BLOCK: usize = 4;

/// Bytes that are hashed at a time.
const HASHED_AT_ONCE: usize = 1 << 20;

/// Rows of a file, one after another.
#[derive(Debug)]
pub(crate) struct RowBlock {
    /// The texts as they lie in the file; `None` for a null.
    pub texts: Vec<Option<ByteArray>>,
    /// Its first row in the file, from 1.
    pub first: u64,
}

impl RowBlock {
    /// Bytes of its texts.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.texts.iter().flatten().map(|text| text.len() as u64).sum()
    }
}

/// The blocks of one file.
pub(crate) struct Rows {
    path: PathBuf,
    file: SerializedFileReader<File>,
    extent: Extent,
    /// The column that is read, among all that are not made of others.
    column: usize,
    /// Level of definition from which on a value is there.
    max_def_level: i16,
    block_bytes: usize,
    next_group: usize,
    open: Option<OpenGroup>,
}

/// A file, and how far it was read.
#[derive(Debug)]
pub(crate) struct Extent {
    path: PathBuf,
    len_bytes: u64,
    is_hashed: bool,
    n_rows: u64,
    /// Rows that were given out.
    pub n_done: u64,
}

/// A row group that is being read.
struct OpenGroup {
    values: ColumnReaderImpl<ByteArrayType>,
    n_left: u64,
    batch_rows: usize,
}

/// That the file at `path` is Parquet, by its beginning and by its end.
///
/// # Errors
/// If it cannot be read or is damaged.
pub(crate) fn check(path: &Path) -> Result<(), DataError> {
    open(path, false).map(drop)
}

/// Opens a file; its hash can be had afterwards if it `is_hashed`.
///
/// # Errors
/// If it cannot be read or is damaged.
pub(crate) fn open(path: &Path, is_hashed: bool) -> Result<(SerializedFileReader<File>, Extent), DataError> {
    let file = wattle_files::open(path).map_err(DataError::read(path))?;
    let len_bytes = file.metadata().map_err(DataError::read(path))?.len();
    let file = guarded(path, || SerializedFileReader::new(file))?;
    let n_rows = file.metadata().row_groups().iter().map(|group| group.num_rows().max(0) as u64).sum();
    let extent = Extent { path: path.to_owned(), len_bytes, is_hashed, n_rows, n_done: 0 };
    Ok((file, extent))
}

/// Calls the library; what it panics on is damage like any other.
pub(crate) fn guarded<T>(
    path: &Path,
    call: impl FnOnce() -> Result<T, ParquetError>,
) -> Result<T, DataError> {
    let outcome = guard(call).unwrap_or_else(|panic| Err(ParquetError::General(panic)));
    outcome.map_err(|error| DataError::Parquet { path: path.to_owned(), reason: reason_of(&error) })
}

fn reason_of(error: &ParquetError) -> String {
    match error {
        ParquetError::General(reason) | ParquetError::EOF(reason) | ParquetError::NYI(reason) => {
            reason.clone()
        }
        other => other.to_string(),
    }
}

impl Rows {
    /// The texts in the column `field` of the file at `path`, in blocks of about `block_bytes`.
    pub(crate) fn open(
        path: &Path,
        field: &str,
        block_bytes: usize,
        is_hashed: bool,
    ) -> Result<Self, DataError> {
        let (file, extent) = open(path, is_hashed)?;
        let metadata = file.metadata();
        let schema = metadata.file_metadata().schema_descr_ptr();
        let column = column_of(path, schema.columns().iter().map(AsRef::as_ref), field)?;
        let max_def_level = schema.column(column).max_def_level();
        Ok(Self {
            path: path.to_owned(),
            file,
            extent,
            column,
            max_def_level,
            block_bytes,
            next_group: 0,
            open: None,
        })
    }

    /// The next block; `None` at the end of the file.
    pub(crate) fn next_block(&mut self) -> Result<Option<RowBlock>, DataError> {
        let mut block = RowBlock { texts: Vec::new(), first: self.extent.n_done + 1 };
        let mut len_bytes = 0;
        while len_bytes < self.block_bytes {
            let Some(mut group) = self.group()? else { break };
            let from = block.texts.len();
            self.read(&mut group, &mut block.texts)?;
            len_bytes += block.texts[from..].iter().flatten().map(ByteArray::len).sum::<usize>();
            let n_read = (block.texts.len() - from) as u64;
            self.extent.n_done += n_read;
            group.n_left -= n_read;
            self.open = (group.n_left > 0).then_some(group);
        }
        Ok((!block.texts.is_empty()).then_some(block))
    }

    /// The row group that is being read, or the next that has rows.
    fn group(&mut self) -> Result<Option<OpenGroup>, DataError> {
        while self.open.is_none() && self.next_group < self.file.num_row_groups() {
            let group_idx = self.next_group;
            self.next_group += 1;
            let metadata = self.file.metadata().row_group(group_idx);
            let n_left = metadata.num_rows().max(0) as u64;
            if n_left == 0 {
                continue;
            }
            let mean_bytes = metadata.column(self.column).uncompressed_size().max(0) as u64 / n_left;
            let fitting = (self.block_bytes / BATCHES_PER_BLOCK) as u64 / mean_bytes.max(1);
            let batch_rows = fitting.clamp(1, MAX_BATCH_ROWS as u64) as usize;
            let reader =
                guarded(&self.path, || self.file.get_row_group(group_idx)?.get_column_reader(self.column))?;
            let ColumnReader::ByteArrayColumnReader(values) = reader else {
                let reason = "a row group has another type of column than the file says".to_owned();
                return Err(DataError::Parquet { path: self.path.clone(), reason });
            };
            self.open = Some(OpenGroup { values, n_left, batch_rows });
        }
        Ok(self.open.take())
    }

    /// Appends the next batch of rows to `texts`; at least one.
    fn read(&self, group: &mut OpenGroup, texts: &mut Vec<Option<ByteArray>>) -> Result<(), DataError> {
        let wanted = group.batch_rows.min(usize::try_from(group.n_left).unwrap_or(usize::MAX));
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let (got, ..) =
            guarded(&self.path, || group.values.read_records(wanted, Some(&mut levels), None, &mut values))?;
        if got == 0 {
            let reason = format!("a row group ends {} rows before it should", group.n_left);
            return Err(DataError::Parquet { path: self.path.clone(), reason });
        }
        if self.max_def_level == 0 {
            texts.extend(values.into_iter().map(Some));
            return Ok(());
        }
        let mut values = values.into_iter();
        texts.extend(
            levels.iter().map(|&level| (level == self.max_def_level).then(|| values.next()).flatten()),
        );
        Ok(())
    }

    /// What is known of the file, and how far it was read.
    pub(crate) fn extent(&self) -> &Extent {
        &self.extent
    }
}

impl Extent {
    /// Bytes of the file for the rows that were read, in proportion.
    pub(crate) fn read_bytes(&self) -> u64 {
        let share = u128::from(self.len_bytes) * u128::from(self.n_done) / u128::from(self.n_rows.max(1));
        share as u64
    }

    /// The hash of the file in hexadecimal, empty if it was not asked for, and its size, as it is always packed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn finish(&self) -> Result<(String, Option<u64>), DataError> {
        if !self.is_hashed {
            return Ok((String::new(), Some(self.len_bytes)));
        }
        let hash = || -> io::Result<String> {
            let (file, mut hasher) = (wattle_files::open(&self.path)?, Sha256::new());
            let mut buffer = vec![0; HASHED_AT_ONCE];
            loop {
                match wattle_files::read_some(&file, &mut buffer)? {
                    0 => return Ok(to_hex(&hasher.finalize())),
                    got => hasher.update(&buffer[..got]),
                }
            }
        };
        Ok((hash().map_err(DataError::read(&self.path))?, Some(self.len_bytes)))
    }
}

/// Which of `columns` is `field`, a text for each row.
fn column_of<'a>(
    path: &Path,
    columns: impl Iterator<Item = &'a ColumnDescriptor> + Clone,
    field: &str,
) -> Result<usize, DataError> {
    let is_text = |column: &ColumnDescriptor| {
        column.physical_type() == PhysicalType::BYTE_ARRAY && column.max_rep_level() == 0
    };
    let named = columns.clone().enumerate().find(|(_, column)| column.path().string() == field);
    let what = match named {
        Some((column_idx, column)) if is_text(column) => return Ok(column_idx),
        Some((_, column)) if column.max_rep_level() > 0 => format!("{field:?} is in a list"),
        Some((_, column)) => format!("{field:?} is {}", column.physical_type()),
        None => format!("there is no column {field:?}"),
    };
    let texts: Vec<String> = columns
        .filter(|column| is_text(column))
        .map(|column| format!("{:?}", column.path().string()))
        .collect();
    let known = if texts.is_empty() { "none".to_owned() } else { texts.join(", ") };
    Err(DataError::Column { path: path.to_owned(), what, known })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::Int64Type;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;
    use crate::config::{DataConfig, TokenizerConfig};
    use crate::prepare::tests::files_of;

    const SCHEMA: &str = "message rows {
        required int64 id;
        optional binary text (UTF8);
        optional group meta { optional binary body (UTF8); }
        repeated binary tags (UTF8);
    }";

    /// Writes a file with `texts` in the columns `text` and `meta.body`, in row groups of `group_rows`.
    pub(crate) fn write(path: &Path, texts: &[Option<&[u8]>], group_rows: usize, packer: Compression) {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let properties = WriterProperties::builder().set_compression(packer).set_data_page_row_count_limit(7);
        let properties = Arc::new(properties.set_write_batch_size(7).build());
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
        for rows in texts.chunks(group_rows) {
            let mut group = writer.next_row_group().unwrap();
            let values: Vec<ByteArray> =
                rows.iter().flatten().map(|text| ByteArray::from(text.to_vec())).collect();
            let levels = |there: i16| -> Vec<i16> {
                rows.iter().map(|text| if text.is_some() { there } else { there - 1 }).collect()
            };
            let mut column = group.next_column().unwrap().unwrap();
            let ids: Vec<i64> = (0..rows.len() as i64).collect();
            column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
            column.close().unwrap();
            for there in [1, 2] {
                let mut column = group.next_column().unwrap().unwrap();
                column.typed::<ByteArrayType>().write_batch(&values, Some(&levels(there)), None).unwrap();
                column.close().unwrap();
            }
            let mut column = group.next_column().unwrap().unwrap();
            let none = vec![0; rows.len()];
            column.typed::<ByteArrayType>().write_batch(&[], Some(&none), Some(&none)).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
    }

    fn read(path: &Path, field: &str, block_bytes: usize) -> Result<Vec<Option<Vec<u8>>>, DataError> {
        let mut rows = Rows::open(path, field, block_bytes, true)?;
        let mut all = Vec::new();
        while let Some(block) = rows.next_block()? {
            assert_eq!(block.first, all.len() as u64 + 1);
            assert!(block.texts.iter().any(Option::is_some) || block_bytes > 1, "a block without a byte");
            all.extend(block.texts.into_iter().map(|text| text.map(|text| text.data().to_vec())));
            assert!(rows.extent().read_bytes() <= rows.extent().len_bytes);
        }
        let (sha256, _) = rows.extent().finish()?;
        assert_eq!(sha256, crate::digest::sha256_hex(&std::fs::read(path).unwrap()));
        Ok(all)
    }

    #[test]
    fn rows_come_in_order_from_every_packer_with_nulls_and_from_nested_columns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        let texts: Vec<String> = (0..100).map(|i| format!("row {i}: {}", "é".repeat(i % 13))).collect();
        let texts: Vec<Option<&[u8]>> =
            texts.iter().enumerate().map(|(i, text)| (i % 5 != 3).then_some(text.as_bytes())).collect();
        let expected: Vec<Option<Vec<u8>>> = texts.iter().map(|text| text.map(<[u8]>::to_vec)).collect();
        for packer in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(ZstdLevel::default()),
            Compression::GZIP(Default::default()),
            Compression::LZ4_RAW,
        ] {
            write(&path, &texts, 33, packer);
            for block_bytes in [10, 300, 1 << 20] {
                assert_eq!(read(&path, "text", block_bytes).unwrap(), expected, "{packer:?}");
                assert_eq!(read(&path, "meta.body", block_bytes).unwrap(), expected, "{packer:?}");
            }
        }
    }

    #[test]
    fn a_column_that_is_no_text_lists_those_that_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        write(&path, &[Some(b"a")], 1, Compression::SNAPPY);
        for (field, what) in
            [("body", "no column \"body\""), ("id", "\"id\" is INT64"), ("tags", "in a list")]
        {
            let said = read(&path, field, 100).unwrap_err().to_string();
            for part in [what, "rows.parquet", "data.text_field", "\"text\", \"meta.body\""] {
                assert!(said.contains(part), "{part} is not in {said}");
            }
        }
    }

    #[test]
    fn rows_become_the_tokens_of_the_same_json_lines_whatever_threads_and_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let texts: Vec<String> = (0..60).map(|i| crate::tales::tale(1, i).text).collect();
        let lines: String =
            texts.iter().map(|text| serde_json::json!({"text": text}).to_string() + "\n").collect();
        let [rows, jsonl] = ["rows.parquet", "lines.jsonl"].map(|name| dir.path().join(name));
        std::fs::write(&jsonl, lines + "{\"text\": null}\n").unwrap();
        let texts: Vec<Option<&[u8]>> =
            texts.iter().map(|text| Some(text.as_bytes())).chain([None]).collect();
        write(&rows, &texts, 25, Compression::ZSTD(ZstdLevel::default()));
        let files = |input: &Path, n_threads, block_bytes| {
            let data = DataConfig { input: vec![input.to_owned()], ..DataConfig::default() };
            let bpe = TokenizerConfig { vocab_size: 300, ..TokenizerConfig::default() };
            let mut files = files_of(&data, &bpe, n_threads, block_bytes);
            // What was counted names the first bad record with its file and place.
            files.remove(0);
            files
        };
        let expected = files(&jsonl, 1, 1 << 20);
        for (n_threads, block_bytes) in [(1, 1 << 20), (1, 100), (3, 5000)] {
            assert!(files(&rows, n_threads, block_bytes) == expected, "{n_threads} {block_bytes}");
        }
    }

    #[test]
    fn a_folders_validation_rows_are_the_validation_split() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        std::fs::create_dir(&data_dir).unwrap();
        for (name, texts) in [
            ("train-00000-of-00002", [Some(&b"one"[..]), None]),
            ("train-00001-of-00002", [Some(b"two"), Some(b"three")]),
            ("validation-00000-of-00001", [Some(b"four"), Some(b"")]),
        ] {
            write(&data_dir.join(name).with_extension("parquet"), &texts, 1, Compression::SNAPPY);
        }
        let text_of = |store: &crate::TokenStore, dataset: &crate::Dataset| {
            let mut ids = vec![0; store.len() as usize];
            store.read(0, &mut ids).unwrap();
            dataset.tokenizer.decode(&ids).unwrap()
        };
        let data = DataConfig { input: vec![dir.path().to_owned()], ..DataConfig::default() };
        let bytes = TokenizerConfig { kind: crate::TokenizerKind::Bytes, ..TokenizerConfig::default() };
        let made = crate::prepare_into(&dir.path().join("made"), &data, &bytes, &mut |_| {}).unwrap();
        let end = crate::tokenizer::END_OF_TEXT;
        assert_eq!(text_of(&made.train, &made), format!("one{end}two{end}three{end}"));
        assert_eq!(text_of(made.val.as_ref().unwrap(), &made), format!("four{end}"));
        let documents = made.manifest.documents.as_ref().unwrap();
        assert_eq!(
            (documents.train, documents.val, documents.empty, made.manifest.val_files),
            (3, 1, 1, Some(1))
        );
        let bad = documents.bad.as_ref().unwrap();
        assert!(bad.total() == 1 && bad.first.contains("row 2"), "{bad:?}");
        let none = DataConfig { val_fraction: 0.0, ..data };
        let made = crate::prepare_into(&dir.path().join("none"), &none, &bytes, &mut |_| {}).unwrap();
        assert!(made.val.is_none() && made.manifest.sources.len() == 2);
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        let texts: Vec<String> = (0..50).map(|i| format!("text number {i} of some length")).collect();
        let texts: Vec<Option<&[u8]>> = texts.iter().map(|text| Some(text.as_bytes())).collect();
        write(&path, &texts, 20, Compression::SNAPPY);
        let whole = std::fs::read(&path).unwrap();
        let intact = read(&path, "text", 100).unwrap();
        for cut in [0, 3, 8, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let said = check(&path).unwrap_err().to_string();
            assert!(said.contains("rows.parquet"), "{said}");
        }
        let mut n_errors = 0;
        for at in (4..whole.len()).step_by(11) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            std::fs::write(&path, &bytes).unwrap();
            match read(&path, "text", 100) {
                Ok(rows) => assert!(rows.len() <= intact.len() + 1),
                Err(error) => {
                    assert!(error.to_string().contains("rows.parquet"), "{error}");
                    n_errors += 1;
                }
            }
        }
        assert!(n_errors > 10, "{n_errors}");
    }
}
