//! `tracing` to the terminal and to `train.log`.

use std::fs::File;
use std::io::{self, Write};
#[cfg(feature = "train")]
use std::path::Path;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::MultiProgress;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{self, FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

use crate::terminal::is_drawn_on;

/// Where log lines go besides the terminal: kept in memory until there is a run directory.
#[derive(Clone)]
pub struct LogFile {
    sink: Arc<Mutex<Sink>>,
    terminal: AboveBars,
}

enum Sink {
    Waiting(Vec<u8>),
    #[cfg_attr(not(feature = "train"), expect(dead_code, reason = "training alone has a log file"))]
    Open {
        file: File,
        path: PathBuf,
        /// Whether it was said that lines are missing from it.
        is_failing: bool,
    },
}

/// Sets logging up for the process. Lines on the terminal go above `bars`; where it is `silent`, only errors do. `RUST_LOG`
/// overrides the flags.
pub fn init(verbose: u8, quiet: bool, silent: bool, bars: &MultiProgress) -> LogFile {
    let level = match (quiet, verbose) {
        _ if silent => LevelFilter::ERROR,
        (true, _) => LevelFilter::WARN,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let filter = |default: LevelFilter| match std::env::var("RUST_LOG") {
        Ok(directives) => EnvFilter::builder().with_default_directive(default.into()).parse_lossy(directives),
        Err(_) => EnvFilter::default().add_directive(default.into()),
    };
    let above_bars = AboveBars(bars.clone());
    let log_file =
        LogFile { sink: Arc::new(Mutex::new(Sink::Waiting(Vec::new()))), terminal: above_bars.clone() };
    // A terminal that is gone is no reason to stop, and where to say so is gone with it.
    let terminal = fmt::layer()
        .event_format(ForPeople { is_colored: is_drawn_on() })
        .with_writer(above_bars)
        .log_internal_errors(false)
        .with_filter(filter(level));
    let file = fmt::layer()
        .with_ansi(false)
        .with_writer(log_file.clone())
        .log_internal_errors(false)
        .with_filter(filter(level.max(LevelFilter::INFO)));
    tracing_subscriber::registry().with(terminal).with(file).init();
    log_file
}

/// Lines on the terminal: what is ordinary stands for itself, what is not begins with its level, as a
/// compiler's messages do.
struct ForPeople {
    is_colored: bool,
}

impl<S, N> FormatEvent<S, N> for ForPeople
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let (label, color) = match *event.metadata().level() {
            Level::ERROR => ("error", "31"),
            Level::WARN => ("warning", "33"),
            Level::INFO => ("", ""),
            Level::DEBUG => ("debug", "2"),
            Level::TRACE => ("trace", "2"),
        };
        match (label, self.is_colored) {
            ("", _) => {}
            (label, true) => write!(writer, "\x1b[1;{color}m{label}:\x1b[0m ")?,
            (label, false) => write!(writer, "{label}: ")?,
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(feature = "train")]
impl LogFile {
    /// Writes what was logged so far to `path`, and everything from now on.
    ///
    /// # Errors
    /// If the file cannot be written; lines go on being kept in memory then.
    pub fn open(&self, path: &Path) -> io::Result<()> {
        let mut file = File::options().create(true).append(true).open(path)?;
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if let Sink::Waiting(lines) = &*sink {
            file.write_all(lines)?;
        }
        *sink = Sink::Open { file, path: path.to_owned(), is_failing: false };
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for LogFile {
    /// Never fails: that the disk takes no more lines is said once.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.sink.lock().unwrap_or_else(PoisonError::into_inner) {
            Sink::Waiting(lines) => lines.extend_from_slice(bytes),
            Sink::Open { file, path, is_failing } => {
                if let Err(error) = file.write_all(bytes)
                    && !std::mem::replace(is_failing, true)
                {
                    let path = path.display();
                    writeln!(
                        self.terminal,
                        "warning: cannot write {path}: {error}; the run goes on, and lines of its log are missing"
                    )?;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, without tearing the bars that are drawn there.
#[derive(Clone)]
struct AboveBars(MultiProgress);

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
