//! Writes `power.trace`: appends samples, and makes them durable about once a second.

#[cfg(test)]
use std::fs::File;
use std::path::Path;

use wattle_runlog::{HeldFile, MonotonicNs, Seconds, Tampered};

use crate::error::MeterError;
use crate::readings::trace::{MAGIC, RECORD_BYTES, SEGMENT_TAG, Sample, SegmentHeader, VERSION, checked};
use crate::readings::trace_reader;

/// How much of the trace a crash may cost: samples are written and made durable this often.
pub const SYNC_INTERVAL: Seconds = Seconds(1.0);

/// The trace, open for append.
#[derive(Debug)]
pub struct TraceWriter {
    file: HeldFile,
    cut_bytes: u64,
    buffer: Vec<u8>,
    oldest: Option<MonotonicNs>,
}

impl TraceWriter {
    /// Opens or creates the trace at `path` and cuts off a torn end.
    ///
    /// # Errors
    /// If it cannot be opened, or is something else than a trace; nothing is changed then.
    pub fn open(path: &Path) -> Result<Self, MeterError> {
        let mut file = HeldFile::open(path)?;
        let (whole, total) = trace_reader::whole_bytes(path)?;
        if whole < total {
            file.cut(whole)?;
        }
        Ok(Self { file, cut_bytes: total - whole, buffer: Vec::new(), oldest: None })
    }

    /// A trace on a file that is already open, whatever it is.
    #[cfg(test)]
    pub(crate) fn on(file: File, path: &Path) -> Self {
        Self { file: HeldFile::on(file, path), cut_bytes: 0, buffer: Vec::new(), oldest: None }
    }

    /// Bytes of a torn end that opening cut off.
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// Begins a segment; what follows belongs to it. Durable when it returns.
    pub fn begin_segment(&mut self, header: &SegmentHeader) -> Result<(), MeterError> {
        let mut json = serde_json::to_vec(header).expect("a header is plain data");
        let mut body = [0; 14];
        body[0] = SEGMENT_TAG;
        body[1..5].copy_from_slice(&MAGIC);
        body[5] = VERSION;
        body[6..10].copy_from_slice(&(json.len() as u32).to_le_bytes());
        body[10..14].copy_from_slice(&crc32c::crc32c(&json).to_le_bytes());
        self.buffer.extend_from_slice(&checked(body));
        json.resize(json.len().next_multiple_of(RECORD_BYTES), b'\n');
        self.buffer.append(&mut json);
        self.sync()
    }

    /// Appends a sample, and makes what has waited for [`SYNC_INTERVAL`] durable.
    ///
    /// # Errors
    /// If the disk refuses. The file then ends in whole records all the same.
    pub fn append(&mut self, sample: Sample) -> Result<(), MeterError> {
        self.buffer.extend_from_slice(&sample.to_bytes());
        let oldest = *self.oldest.get_or_insert(sample.t);
        if sample.t.since(oldest) >= SYNC_INTERVAL { self.sync() } else { Ok(()) }
    }

    /// Makes everything appended so far durable. A trace that was removed or replaced meanwhile is written again.
    ///
    /// # Errors
    /// If the disk refuses, or the trace was cut: then nothing says what its next samples mean.
    pub fn sync(&mut self) -> Result<(), MeterError> {
        self.oldest = None;
        if self.buffer.is_empty() {
            return Ok(());
        }
        match self.file.keep()? {
            None => {}
            Some(Tampered::Restored { what }) => tracing::warn!("{what}; it has been written again"),
            Some(Tampered::Cut { bytes }) => {
                let reason = format!("it was cut to {bytes} bytes by another program");
                return Err(MeterError::NotATrace { path: self.file.path().to_owned(), reason });
            }
        }
        let written = self.file.append(&self.buffer);
        self.buffer.clear();
        written?;
        Ok(self.file.sync()?)
    }
}
