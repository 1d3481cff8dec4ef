//! Reads `power.trace`: segments and samples in order, whatever happened to the file.
//!
//! Damage costs the records that it hit: records are found by their place, and each checks itself. Damage to a
//! segment's header costs the samples up to the next header, for nothing says what they mean.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::MeterError;
use crate::readings::trace::{
    MAGIC, RECORD_BYTES, SEGMENT_TAG, Sample, SegmentHeader, TRACE_SCHEMA, VERSION, is_valid,
};

/// No header is longer: it describes at most 255 channels.
const MAX_HEADER_BYTES: u32 = 1 << 20;

/// A trace, read from its beginning.
#[derive(Debug)]
pub struct TraceReader {
    file: BufReader<File>,
    path: PathBuf,
    offset: u64,
    /// Channels of the present segment; `None` where its header is damaged.
    channels: Option<usize>,
    whole_bytes: u64,
    damaged_bytes: u64,
}

/// The next thing in a trace.
#[derive(Clone, Debug, PartialEq)]
pub enum TraceItem {
    /// A segment begins.
    Segment(Box<SegmentHeader>),
    /// A reading of the present segment.
    Sample(Sample),
}

impl TraceReader {
    /// Opens the trace at `path`.
    ///
    /// # Errors
    /// If it cannot be opened, or does not begin as a trace does. An empty file is an empty trace.
    pub fn open(path: &Path) -> Result<Self, MeterError> {
        let file = wattle_files::open(path).map_err(MeterError::trace("open", path))?;
        let mut reader = Self {
            file: BufReader::new(file),
            path: path.to_owned(),
            offset: 0,
            channels: None,
            whole_bytes: 0,
            damaged_bytes: 0,
        };
        reader.check_beginning()?;
        Ok(reader)
    }

    /// Bytes before the last whole record that could not be understood, so far.
    pub fn damaged_bytes(&self) -> u64 {
        self.damaged_bytes
    }

    fn check_beginning(&mut self) -> Result<(), MeterError> {
        let mut beginning = [0; 6];
        let mut file = wattle_files::open(&self.path).map_err(MeterError::trace("open", &self.path))?;
        let len = read_up_to(&mut file, &mut beginning).map_err(MeterError::trace("read", &self.path))?;
        let expected = [SEGMENT_TAG, MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3]];
        let common = len.min(expected.len());
        if beginning[..common] != expected[..common] {
            return Err(self.not_a_trace("it does not begin as a power trace does; move it away".to_owned()));
        }
        if len == beginning.len() && beginning[5] != VERSION {
            let reason = format!("expected version {VERSION} of the trace format, got {}", beginning[5]);
            return Err(self.not_a_trace(reason));
        }
        Ok(())
    }

    fn next_record(&mut self) -> Result<Option<[u8; RECORD_BYTES]>, MeterError> {
        let mut record = [0; RECORD_BYTES];
        let len = self.read(&mut record)?;
        Ok((len == RECORD_BYTES).then_some(record))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, MeterError> {
        let len = read_up_to(&mut self.file, bytes).map_err(MeterError::trace("read", &self.path))?;
        self.offset += len as u64;
        Ok(len)
    }

    /// Reads on to the next thing that is whole.
    fn next_item(&mut self) -> Result<Option<TraceItem>, MeterError> {
        while let Some(record) = self.next_record()? {
            let item = if !is_valid(&record) {
                // What was a header takes the meaning of the samples after it along.
                if record[0] == SEGMENT_TAG || record[1..5] == MAGIC {
                    self.channels = None;
                }
                None
            } else if record[0] == SEGMENT_TAG {
                self.channels = None;
                self.header(&record)?
            } else {
                let known = self.channels.is_some_and(|channels| usize::from(record[0]) < channels);
                known.then(|| TraceItem::Sample(Sample::from_bytes(&record)))
            };
            if let Some(item) = item {
                let len = match &item {
                    TraceItem::Sample(_) => RECORD_BYTES as u64,
                    TraceItem::Segment(_) => RECORD_BYTES as u64 + padded(json_len(&record)),
                };
                self.damaged_bytes += self.offset - len - self.whole_bytes;
                self.whole_bytes = self.offset;
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// The header that `record` announces; `None` if it is torn or damaged.
    fn header(&mut self, record: &[u8; RECORD_BYTES]) -> Result<Option<TraceItem>, MeterError> {
        let len = json_len(record);
        if record[1..5] != MAGIC || record[5] != VERSION || len > MAX_HEADER_BYTES {
            return Ok(None);
        }
        let mut json = vec![0; padded(len) as usize];
        if self.read(&mut json)? < json.len() {
            return Ok(None);
        }
        let (json, padding) = json.split_at(len as usize);
        if crc32c::crc32c(json).to_le_bytes() != record[10..14] || padding.iter().any(|byte| *byte != b'\n') {
            return Ok(None);
        }
        let header: SegmentHeader = serde_json::from_slice(json)
            .map_err(|error| self.not_a_trace(format!("a segment's header is not understood: {error}")))?;
        if header.schema != TRACE_SCHEMA {
            let reason = format!("expected schema {TRACE_SCHEMA:?}, got {:?}", header.schema);
            return Err(self.not_a_trace(reason));
        }
        self.channels = Some(header.channels.len());
        Ok(Some(TraceItem::Segment(Box::new(header))))
    }

    fn not_a_trace(&self, reason: String) -> MeterError {
        MeterError::NotATrace { path: self.path.clone(), reason }
    }
}

impl Iterator for TraceReader {
    type Item = Result<TraceItem, MeterError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_item().transpose()
    }
}

/// Where the last whole record of the trace at `path` ends, and where the file does.
pub(crate) fn whole_bytes(path: &Path) -> Result<(u64, u64), MeterError> {
    let mut reader = TraceReader::open(path)?;
    while reader.next_item()?.is_some() {}
    Ok((reader.whole_bytes, reader.offset))
}

fn json_len(record: &[u8; RECORD_BYTES]) -> u32 {
    u32::from_le_bytes([record[6], record[7], record[8], record[9]])
}

fn padded(len: u32) -> u64 {
    u64::from(len).next_multiple_of(RECORD_BYTES as u64)
}

/// Fills `bytes` as far as the file goes.
fn read_up_to(file: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match file.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readings::trace::SampleValue;
    use crate::readings::trace_writer::TraceWriter;
    use crate::sensors::sensor::tests::{BOARD, board_info};
    use std::fs;
    use wattle_runlog::MonotonicNs;
    use wattle_runlog::manifest::Segment;

    fn header(id: u32) -> SegmentHeader {
        SegmentHeader::new("run-1", Segment::now(id, 0), 50.0, [(&board_info(), BOARD)])
    }

    fn sample(i: u64) -> Sample {
        let value = if i == 3 { SampleValue::Missing } else { SampleValue::Measured(300_000 + i) };
        Sample { channel: (i % 2) as u8, t: MonotonicNs(1_000_000 * i), value }
    }

    /// Two segments of four samples.
    fn write(path: &Path) -> Vec<TraceItem> {
        let mut items = Vec::new();
        for id in 0..2 {
            let mut writer = TraceWriter::open(path).unwrap();
            let header = header(id);
            writer.begin_segment(&header).unwrap();
            items.push(TraceItem::Segment(Box::new(header)));
            for i in 0..4 {
                writer.append(sample(i)).unwrap();
                items.push(TraceItem::Sample(sample(i)));
            }
            writer.sync().unwrap();
        }
        items
    }

    fn read(path: &Path) -> (Vec<TraceItem>, u64) {
        let mut reader = TraceReader::open(path).unwrap();
        let items = reader.by_ref().collect::<Result<_, _>>().unwrap();
        (items, reader.damaged_bytes())
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        let items = write(&path);
        assert_eq!(read(&path), (items, 0));
    }

    #[test]
    fn wherever_the_file_was_torn_every_whole_record_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("whole");
        let items = write(&whole);
        let bytes = fs::read(&whole).unwrap();
        let mut ends = vec![];
        for (i, item) in items.iter().enumerate() {
            let start = ends.last().copied().unwrap_or(0);
            ends.push(match item {
                TraceItem::Sample(_) => start + RECORD_BYTES,
                TraceItem::Segment(_) => {
                    let samples_after = items.len() - i - 1;
                    let headers_after = items[i + 1..].iter().filter(|i| matches!(i, TraceItem::Segment(_)));
                    if headers_after.count() == 0 {
                        bytes.len() - samples_after * RECORD_BYTES
                    } else {
                        RECORD_BYTES
                            + padded(json_len(bytes[start..start + RECORD_BYTES].try_into().unwrap()))
                                as usize
                    }
                }
            });
        }
        assert_eq!(ends.last(), Some(&bytes.len()));
        let path = dir.path().join("power.trace");
        for len in 0..=bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            let kept = ends.iter().filter(|end| **end <= len).count();
            assert_eq!(read(&path).0, items[..kept], "{len} bytes");
            let mut writer = TraceWriter::open(&path).unwrap();
            let end = if kept == 0 { 0 } else { ends[kept - 1] };
            assert_eq!(writer.cut_bytes(), (len - end) as u64, "{len} bytes");
            if kept > 0 {
                writer.append(sample(7)).unwrap();
                writer.sync().unwrap();
                let appended = [&items[..kept], &[TraceItem::Sample(sample(7))]].concat();
                assert_eq!(read(&path), (appended, 0), "{len} bytes");
            }
        }
    }

    #[test]
    fn a_flipped_bit_costs_no_more_than_what_it_hit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        let items = write(&path);
        let bytes = fs::read(&path).unwrap();
        let first_header =
            RECORD_BYTES + padded(json_len(bytes[..RECORD_BYTES].try_into().unwrap())) as usize;
        for (i, _) in bytes.iter().enumerate().skip(6) {
            let mut damaged = bytes.clone();
            damaged[i] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let (left, damaged_bytes) = read(&path);
            let lost = items.len() - left.len();
            assert!(lost >= 1, "byte {i} changed unseen");
            assert!(left.iter().all(|item| items.contains(item)), "byte {i} changed what is read");
            if i >= first_header {
                assert!(lost <= 5, "byte {i} cost {lost} items");
            }
            let at_the_end = i >= bytes.len() - RECORD_BYTES || lost == 5 && i >= first_header;
            assert!(damaged_bytes > 0 || at_the_end, "byte {i} is not reported");
        }
    }

    #[test]
    fn zeros_that_a_crash_left_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        let items = write(&path);
        let mut bytes = fs::read(&path).unwrap();
        bytes.resize(bytes.len() + 100, 0);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(TraceWriter::open(&path).unwrap().cut_bytes(), 100);
        assert_eq!(read(&path), (items, 0));
    }

    #[test]
    fn another_file_is_refused_and_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        for content in ["t", "time,power\n0,300\n"] {
            fs::write(&path, content).unwrap();
            let error = TraceWriter::open(&path).unwrap_err().to_string();
            assert!(error.contains("does not begin as a power trace"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        fs::write(&path, b"\xffWTRC\x09aaaaaaaaaa").unwrap();
        assert!(TraceReader::open(&path).unwrap_err().to_string().contains("version 1"));
    }
}
