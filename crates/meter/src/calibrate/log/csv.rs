//! Columns with a heading, separated by commas, semicolons or tabs.

use super::time::{expected, wall_ns};
use super::{Fault, LogFormat, LogOptions, Raw, RawReading, watts};

/// Words of which a heading of times begins with one.
const TIMES: [&str; 7] = ["time", "date", "unix", "epoch", "t", "ts", "utc"];

/// What loggers write where there is no reading.
const MISSING: [&str; 7] = ["", "nan", "null", "none", "unavailable", "unknown", "n/a"];

pub(super) fn parse(text: &str, options: &LogOptions) -> Result<Raw, Fault> {
    let separator = separator(text);
    let mut reader = ::csv::ReaderBuilder::new()
        .delimiter(separator)
        .comment(Some(b'#'))
        .trim(::csv::Trim::All)
        .from_reader(text.as_bytes());
    let headings: Vec<String> =
        reader.headers().map_err(|error| (Some(1), error.to_string()))?.iter().map(str::to_owned).collect();
    let (time, power) = columns(&headings, options)?;
    let mut raw = Raw { format: LogFormat::Csv, readings: Vec::new(), left_out: 0 };
    for row in reader.records() {
        let row = row.map_err(|error| fault_of(&error))?;
        let line = row.position().map_or(0, |position| position.line() as usize);
        let (at, value) = (&row[time], &row[power]);
        if MISSING.contains(&value.to_ascii_lowercase().as_str()) {
            raw.left_out += 1;
            continue;
        }
        let (wall_ns, zoned) = wall_ns(at, options.utc_offset_s).ok_or_else(|| (Some(line), expected(at)))?;
        let decimal = if separator == b',' { value.to_owned() } else { value.replace(',', ".") };
        let number = decimal.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        let number = number.ok_or_else(|| {
            (Some(line), format!("{}: expected a power of at least 0, got {value:?}", headings[power]))
        })?;
        raw.readings.push(RawReading {
            line,
            wall_ns,
            zoned,
            watts: watts(number, &headings[power], options),
        });
    }
    Ok(raw)
}

/// The separator that the heading has most of.
fn separator(text: &str) -> u8 {
    let heading = text.lines().find(|line| !line.starts_with('#') && !line.trim().is_empty());
    let count = |separator: &u8| heading.unwrap_or_default().bytes().filter(|b| b == separator).count();
    // The first of equals: a heading of one column has none of them.
    b",;\t".iter().rev().copied().max_by_key(count).unwrap_or(b',')
}

/// The columns of time and of power.
fn columns(headings: &[String], options: &LogOptions) -> Result<(usize, usize), Fault> {
    let all = || headings.join(", ");
    let fault = |reason: String| (Some(1), reason);
    if headings.iter().all(|heading| heading.parse::<f64>().is_ok()) {
        return Err(fault("expected a heading that names the columns, such as time,power_w".to_owned()));
    }
    let is_time = |heading: &&String| {
        let lower = heading.to_ascii_lowercase();
        let word = lower.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        TIMES.contains(&word) || lower.starts_with("timestamp") || lower == "datetime"
    };
    let time = headings.iter().position(|heading| is_time(&heading));
    let time =
        time.ok_or_else(|| fault(format!("expected a column of times such as time, got {}", all())))?;
    if let Some(wanted) = &options.column {
        let power = headings.iter().position(|heading| heading == wanted);
        let fault = || fault(format!("there is no column {wanted:?} (--column); its columns are {}", all()));
        return Ok((time, power.ok_or_else(fault)?));
    }
    let is_power = |heading: &str| {
        let lower = heading.to_ascii_lowercase();
        let is_other =
            ["factor", "reactive", "apparent", "energy", "max", "min"].iter().any(|w| lower.contains(w));
        !is_other
            && (lower.contains("power") || lower.contains("watt") || ["w", "kw"].contains(&lower.as_str()))
    };
    let found: Vec<usize> = (0..headings.len()).filter(|i| *i != time && is_power(&headings[*i])).collect();
    match found[..] {
        [power] => Ok((time, power)),
        [] => Err(fault(format!(
            "expected a column of power such as power_w, got {}; name it by --column",
            all()
        ))),
        _ => {
            let names: Vec<&str> = found.iter().map(|i| headings[*i].as_str()).collect();
            Err(fault(format!("several columns may be power: {}; name one by --column", names.join(", "))))
        }
    }
}

fn fault_of(error: &::csv::Error) -> Fault {
    let line = error.position().map(|position| position.line() as usize);
    match error.kind() {
        ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            (line, format!("expected {expected_len} fields as in the heading, got {len}"))
        }
        _ => (line, error.to_string()),
    }
}
