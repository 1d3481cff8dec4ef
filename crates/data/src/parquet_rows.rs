//! Parquet files: rows as JSON, one a line, for records that are more than a text.
//!
//! Of a row the columns are read that a conversation can have. A file is read by row groups, and within one row by row:
//! memory holds the pages that the next rows lie in.

use std::path::{Path, PathBuf};

use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, List, Map, Row};
use parquet::schema::types::Type;

use crate::error::DataError;
use crate::json_scan::Scanner;
use crate::parquet_file::{self, Extent};
use crate::records::RecordBlock;

/// Columns that a conversation can have.
pub(crate) const COLUMNS: [&str; 5] = ["messages", "prompt", "completion", "tools", "chat_template_kwargs"];

/// The blocks of one file.
pub(crate) struct JsonRows {
    rows: RowIter<'static>,
    extent: Extent,
    path: PathBuf,
    block_bytes: usize,
}

impl JsonRows {
    /// The rows of the file at `path`, in blocks of about `block_bytes`.
    pub(crate) fn open(path: &Path, block_bytes: usize, is_hashed: bool) -> Result<Self, DataError> {
        let (file, extent) = parquet_file::open(path, is_hashed)?;
        let rows = parquet_file::guarded(path, || {
            let schema = file.metadata().file_metadata().schema();
            let wanted = schema.get_fields().iter().filter(|field| COLUMNS.contains(&field.name()));
            let fields = wanted.cloned().collect();
            let projection = Type::group_type_builder(schema.name()).with_fields(fields).build()?;
            RowIter::from_file_into(Box::new(file)).project(Some(projection))
        })?;
        Ok(Self { rows, extent, path: path.to_owned(), block_bytes })
    }

    /// The next block; `None` at the end of the file.
    pub(crate) fn next_block(&mut self) -> Result<Option<RecordBlock>, DataError> {
        let (first, mut bytes) = (self.extent.n_done + 1, Vec::new());
        while bytes.len() < self.block_bytes {
            let next = parquet_file::guarded(&self.path, || self.rows.next().transpose())?;
            let Some(row) = next else { break };
            let line = parquet_file::guarded(&self.path, || json_of_row(&row))?;
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
            self.extent.n_done += 1;
        }
        Ok((!bytes.is_empty()).then_some(RecordBlock { bytes, first, scanner: Scanner::default() }))
    }

    /// What is known of the file, and how far it was read.
    pub(crate) fn extent(&self) -> &Extent {
        &self.extent
    }
}

/// The names of a file's columns, those within others left out, and whether `field` is one that holds texts.
pub(crate) fn columns(path: &Path, field: &str) -> Result<(Vec<String>, bool), DataError> {
    let (file, _) = parquet_file::open(path, false)?;
    let schema = file.metadata().file_metadata().schema_descr_ptr();
    let is_text = schema.columns().iter().any(|column| {
        column.path().string() == field
            && column.physical_type() == PhysicalType::BYTE_ARRAY
            && column.max_rep_level() == 0
    });
    let names = schema.root_schema().get_fields().iter().map(|field| field.name().to_owned());
    Ok((names.collect(), is_text))
}

/// A row in the order of its columns. A column that is null is left out, as JSON lines leave it out.
fn json_of_row(row: &Row) -> Result<String, ParquetError> {
    let columns = row.get_column_iter().filter(|(_, field)| !matches!(field, Field::Null));
    let pairs = columns.map(|(name, field)| Ok(format!("{}:{}", quoted(name), json(field)?)));
    Ok(format!("{{{}}}", pairs.collect::<Result<Vec<_>, ParquetError>>()?.join(",")))
}

fn json(field: &Field) -> Result<String, ParquetError> {
    Ok(match field {
        Field::Null => "null".to_owned(),
        Field::Str(text) => quoted(text),
        Field::Group(row) => json_of_row(row)?,
        Field::ListInternal(list) => json_of_list(list)?,
        Field::MapInternal(map) => json_of_map(map)?,
        Field::Bool(_)
        | Field::Byte(_)
        | Field::Short(_)
        | Field::Int(_)
        | Field::Long(_)
        | Field::UByte(_)
        | Field::UShort(_)
        | Field::UInt(_)
        | Field::ULong(_) => field.to_string(),
        Field::Float(number) => number_of(f64::from(*number))?,
        Field::Double(number) => number_of(*number)?,
        other => return Err(ParquetError::General(format!("{other} has no counterpart in JSON"))),
    })
}

fn json_of_list(list: &List) -> Result<String, ParquetError> {
    let items: Result<Vec<_>, ParquetError> = list.elements().iter().map(json).collect();
    Ok(format!("[{}]", items?.join(",")))
}

fn json_of_map(map: &Map) -> Result<String, ParquetError> {
    let pairs = map.entries().iter().map(|(key, value)| {
        let key = match key {
            Field::Str(text) => quoted(text),
            other => quoted(&other.to_string()),
        };
        Ok(format!("{key}:{}", json(value)?))
    });
    Ok(format!("{{{}}}", pairs.collect::<Result<Vec<_>, ParquetError>>()?.join(",")))
}

fn number_of(number: f64) -> Result<String, ParquetError> {
    match serde_json::Number::from_f64(number) {
        Some(number) => Ok(number.to_string()),
        None => Err(ParquetError::General(format!("{number} has no counterpart in JSON"))),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// As Hugging Face's datasets write lists of messages.
    const SCHEMA: &str = "message schema {
        optional group messages (LIST) {
            repeated group list {
                optional group element {
                    optional binary role (UTF8);
                    optional binary content (UTF8);
                }
            }
        }
        optional binary source (UTF8);
        optional group chat_template_kwargs { optional double temperature; }
    }";

    /// Writes conversations of a user and an assistant each, as many as `rows`, and a row of nulls after each.
    pub(crate) fn write(path: &Path, rows: &[[&str; 2]]) {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let text = |text: &str| ByteArray::from(text.as_bytes().to_vec());
        let (levels, starts): (Vec<i16>, Vec<i16>) =
            rows.iter().flat_map(|_| [(4, 0), (4, 1), (0, 0)]).unzip();
        let roles = rows.iter().flat_map(|_| ["user", "assistant"]).map(text).collect::<Vec<_>>();
        let contents = rows.iter().flatten().map(|said| text(said)).collect::<Vec<_>>();
        for values in [roles, contents] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), Some(&starts)).unwrap();
            column.close().unwrap();
        }
        let present: Vec<i16> = rows.iter().flat_map(|_| [1, 0]).collect();
        let mut column = group.next_column().unwrap().unwrap();
        let sources = vec![text("a source"); rows.len()];
        column.typed::<ByteArrayType>().write_batch(&sources, Some(&present), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let twice: Vec<i16> = present.iter().map(|level| level * 2).collect();
        column.typed::<DoubleType>().write_batch(&vec![0.5; rows.len()], Some(&twice), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn rows_are_lines_of_json_in_the_order_of_their_columns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        write(&path, &[["who \"are\" you?", "é"], ["a", "b"]]);
        let mut rows = JsonRows::open(&path, 90, true).unwrap();
        let mut blocks = Vec::new();
        while let Some(block) = rows.next_block().unwrap() {
            blocks.push((block.first, String::from_utf8(block.bytes).unwrap()));
        }
        let line = |said: &str, answer: &str| {
            format!(
                "{{\"messages\":[{{\"role\":\"user\",\"content\":\"{said}\"}},{{\"role\":\"assistant\",\"content\":\
                 \"{answer}\"}}],\"chat_template_kwargs\":{{\"temperature\":0.5}}}}\n"
            )
        };
        // A block ends once it is long enough.
        let second = format!("{{}}\n{}", line("a", "b"));
        assert_eq!(blocks, [(1, line("who \\\"are\\\" you?", "é")), (2, second), (4, "{}\n".to_owned())]);
        let (sha256, bytes) = rows.extent().finish().unwrap();
        let content = std::fs::read(&path).unwrap();
        assert_eq!((sha256, bytes), (crate::digest::sha256_hex(&content), Some(content.len() as u64)));
        assert_eq!(rows.extent().read_bytes(), content.len() as u64);
        assert_eq!(
            columns(&path, "text").unwrap(),
            (["messages", "source", "chat_template_kwargs"].map(str::to_owned).to_vec(), false,)
        );
        assert!(columns(&path, "source").unwrap().1);
    }

    #[test]
    fn conversations_of_rows_are_those_of_lines() {
        use crate::config::{DataConfig, TokenizerConfig};
        use crate::tokenizer_kind::TokenizerKind;
        let dir = tempfile::tempdir().unwrap();
        let said: Vec<[String; 2]> =
            (0..40).map(|i| [format!("what is {i}?"), format!("{i} is a number.")]).collect();
        let rows: Vec<[&str; 2]> = said.iter().map(|pair| pair.each_ref().map(String::as_str)).collect();
        let (parquet, lines) = (dir.path().join("chat.parquet"), dir.path().join("chat.jsonl"));
        write(&parquet, &rows);
        let of_lines: String = rows
            .iter()
            .map(|[user, assistant]| {
                format!(
                    "{{\"messages\":[{{\"role\":\"user\",\"content\":\"{user}\"}},{{\"role\":\"assistant\",\
                     \"content\":\"{assistant}\"}}]}}\n"
                )
            })
            .collect();
        std::fs::write(&lines, of_lines).unwrap();
        let tokens = |input: &Path| {
            let data = DataConfig {
                input: vec![input.to_owned()],
                chat_template: Some("chatml".parse().unwrap()),
                cache_dir: Some(dir.path().join("cache")),
                ..DataConfig::default()
            };
            let tokenizer = TokenizerConfig { kind: TokenizerKind::Bytes, ..TokenizerConfig::default() };
            let dataset = crate::prepare(&data, &tokenizer, crate::Verify::FirstUse, &mut |_| {}).unwrap();
            let len = dataset.train.len() as usize;
            let (mut ids, mut mask) = (vec![0; len], vec![false; len]);
            dataset.train.read(0, &mut ids).unwrap();
            dataset.train.read_mask(0, &mut mask);
            let skipped =
                dataset.manifest.documents.and_then(|documents| documents.bad).map_or(0, |bad| bad.total());
            (ids, mask, skipped)
        };
        let (of_rows, of_lines) = (tokens(&parquet), tokens(&lines));
        assert_eq!((&of_rows.0, &of_rows.1), (&of_lines.0, &of_lines.1));
        assert!(of_rows.1.contains(&true));
        // The rows of nulls.
        assert_eq!((of_rows.2, of_lines.2), (40, 0));
    }
}
