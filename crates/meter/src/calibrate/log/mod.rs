//! A wall meter's log: CSV, or what a Shelly, a Tasmota plug or Prometheus says as JSON, told apart by content.

mod csv;
mod json;
mod prometheus;
mod time;

use std::path::Path;

use wattle_runlog::{MonotonicNs, WallAnchor};

use crate::error::MeterError;

pub use time::utc_offset;

/// A log is at most this long.
const MAX_BYTES: u64 = 256 << 20;

/// What of a log is to be read, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LogOptions {
    /// The column, the JSON key or the series that holds power, where there are several.
    pub column: Option<String>,
    /// What a value is multiplied by to be watts; `None`: as its name says, else 1.
    pub watts_per_unit: Option<f64>,
    /// By so much times without a zone are ahead of UTC; `None`: not at all, which is then said.
    pub utc_offset_s: Option<i32>,
    /// By so much the log's clock is ahead of the run's.
    pub clock_ahead_s: f64,
}

/// What wrote a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Columns.
    Csv,
    /// A Shelly's status or notifications.
    Shelly,
    /// A Tasmota plug's telemetry.
    Tasmota,
    /// Prometheus's answer to a query over a range, such as of an SNMP exporter.
    Prometheus,
}

/// A wall meter's readings.
#[derive(Clone, Debug, PartialEq)]
pub struct WallLog {
    /// What wrote it.
    pub format: LogFormat,
    /// Wall clock in nanoseconds since 1970 UTC, and watts, in order of time.
    pub readings: Vec<(i64, f64)>,
    /// Lines or values without a number, which were left out.
    pub left_out: usize,
    /// Whether times without a zone were taken for UTC.
    pub assumes_utc: bool,
}

impl LogFormat {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "CSV",
            Self::Shelly => "Shelly",
            Self::Tasmota => "Tasmota",
            Self::Prometheus => "Prometheus",
        }
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { column: None, watts_per_unit: None, utc_offset_s: None, clock_ahead_s: 0.0 }
    }
}

impl WallLog {
    /// Reads the log at `path`.
    ///
    /// # Errors
    /// If it cannot be read or understood, or its time goes back; the message names the line.
    pub fn open(path: &Path, options: &LogOptions) -> Result<Self, MeterError> {
        let fault = |(line, reason): Fault| MeterError::WallLog { path: path.to_owned(), line, reason };
        let text = wattle_files::read_text(path, MAX_BYTES).map_err(|e| fault((None, e.to_string())))?;
        let raw = Raw::parse(&text, options).map_err(fault)?;
        raw.in_order(options).map_err(fault)
    }
}

/// The line, and what is wrong there.
type Fault = (Option<usize>, String);

/// Readings as they stand in a log.
#[derive(Debug)]
struct Raw {
    format: LogFormat,
    readings: Vec<RawReading>,
    left_out: usize,
}

#[derive(Clone, Copy, Debug)]
struct RawReading {
    line: usize,
    wall_ns: i64,
    /// Whether its text named a zone.
    zoned: bool,
    watts: f64,
}

impl Raw {
    fn parse(text: &str, options: &LogOptions) -> Result<Self, Fault> {
        let text = text.trim_start_matches('\u{feff}');
        if text.trim().is_empty() {
            return Err((None, "it is empty".to_owned()));
        }
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        // A line of JSON may have a time before it.
        if text.trim_start().starts_with('{') && text.contains("\"resultType\"") {
            prometheus::parse(text, options)
        } else if first.contains('{') {
            json::parse(text, options)
        } else {
            csv::parse(text, options)
        }
    }

    fn in_order(self, options: &LogOptions) -> Result<WallLog, Fault> {
        let mut readings: Vec<(i64, f64)> = Vec::with_capacity(self.readings.len());
        let ahead_ns = (options.clock_ahead_s * 1e9) as i64;
        let mut last: Option<RawReading> = None;
        for reading in &self.readings {
            if let Some(last) = last.filter(|last| reading.wall_ns < last.wall_ns) {
                let time =
                    |wall_ns| WallAnchor { wall_ns, monotonic: MonotonicNs(0) }.rfc3339_at(MonotonicNs(0));
                let back = last.wall_ns.saturating_sub(reading.wall_ns) as f64 / 1e9;
                return Err((
                    Some(reading.line),
                    format!(
                        "time goes back by {back} s, from {} to {}: the clock was set, or summer time ended; give the \
                         part of the log before or after it",
                        time(last.wall_ns),
                        time(reading.wall_ns)
                    ),
                ));
            }
            let (wall_ns, watts) = (reading.wall_ns.saturating_sub(ahead_ns), reading.watts);
            match readings.last_mut() {
                // Polled more often than the meter makes readings.
                Some(same) if same.0 == wall_ns => same.1 = watts,
                _ => readings.push((wall_ns, watts)),
            }
            last = Some(*reading);
        }
        if readings.is_empty() {
            return Err((None, format!("none of its {} lines holds a reading", self.left_out)));
        }
        let assumes_utc = options.utc_offset_s.is_none() && self.readings.iter().any(|r| !r.zoned);
        Ok(WallLog { format: self.format, readings, left_out: self.left_out, assumes_utc })
    }
}

/// Watts of a value whose name may tell its unit.
fn watts(value: f64, name: &str, options: &LogOptions) -> f64 {
    let lower = name.to_ascii_lowercase();
    let ends = |unit: &str| lower.ends_with(unit);
    let by_name = if ends("_kw") || ends("(kw)") || ends("[kw]") || ends(" kw") || lower == "kw" {
        1e3
    } else if ends("_mw") || ends("(mw)") || ends("[mw]") || ends("milliwatts") {
        1e-3
    } else {
        1.0
    };
    value * options.watts_per_unit.unwrap_or(by_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: i64 = 1_790_000_000_000_000_000;
    const S: i64 = 1_000_000_000;

    fn read(text: &str, options: &LogOptions) -> Result<WallLog, String> {
        let file = tempfile::Builder::new().prefix("wall-").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        WallLog::open(file.path(), options).map_err(|error| {
            let name = file.path().display().to_string();
            let error = error.to_string();
            assert!(error.starts_with(&name), "{error} names no file");
            error[name.len()..].to_owned()
        })
    }

    fn two(text: &str) -> WallLog {
        two_with(text, &LogOptions::default())
    }

    fn two_with(text: &str, options: &LogOptions) -> WallLog {
        let log = read(text, options).unwrap();
        assert_eq!(log.readings, [(T0, 231.5), (T0 + S, 402.0)], "{text}");
        log
    }

    fn with(change: impl FnOnce(&mut LogOptions)) -> LogOptions {
        let mut options = LogOptions::default();
        change(&mut options);
        options
    }

    #[test]
    fn columns_are_found_by_name_whatever_the_separator_and_the_kind_of_time() {
        for text in [
            "timestamp,power_w\n2026-09-21T14:13:20Z,231.5\n2026-09-21T14:13:21Z,402\n",
            "# exported by a PDU\nTime;Voltage;Active Power (W)\n2026-09-21T16:13:20+02:00;230,1;231,5\n2026-09-21T16:13:21+02:00;229,8;402,0\n",
            "unix_s\twatts\n1790000000\t231.5\n1790000001.0\t402\n",
            "time_ms,outlet,power_kw\n1790000000000,3,0.2315\n1790000001000,3,0.402\n",
            "\u{feff}\"Date\",\"Power [W]\"\r\n\"2026-09-21T14:13:20Z\",\"231.5\"\r\n\r\n\"2026-09-21T14:13:21Z\",\"402\"\r\n",
        ] {
            let log = two(text);
            assert_eq!((log.format, log.left_out, log.assumes_utc), (LogFormat::Csv, 0, false), "{text}");
        }
        let zoneless = "time,power\n2026-09-21 16:13:20,231.5\n2026-09-21 16:13:21,402\n";
        two_with(zoneless, &with(|o| o.utc_offset_s = Some(7200)));
        let log = read(zoneless, &LogOptions::default()).unwrap();
        assert!(log.assumes_utc && log.readings[0].0 == T0 + 7200 * S);
        two_with(zoneless, &with(|o| o.clock_ahead_s = 7200.0));
        let hundredths = "time,power\n1790000000,23.15\n1790000001,40.2\n";
        two_with(hundredths, &with(|o| o.watts_per_unit = Some(10.0)));
        let outlets = "time,power_1,power_2\n1790000000,231.5,9\n1790000001,402,9\n";
        two_with(outlets, &with(|o| o.column = Some("power_1".to_owned())));
        let error = read(outlets, &LogOptions::default()).unwrap_err();
        assert!(error.contains("power_1, power_2") && error.contains("--column"), "{error}");
    }

    #[test]
    fn a_damaged_csv_is_refused_by_its_line() {
        let damaged = |rows: &str| read(&format!("time,power\n1790000000,5\n{rows}"), &LogOptions::default());
        for (rows, line, word) in [
            ("1790000001,five", ", line 3", "\"five\""),
            ("noon,5", ", line 3", "\"noon\""),
            ("17,5", ", line 3", "\"17\""),
            ("1790000001", ", line 3", "2 fields"),
            ("1790000001,-3", ", line 3", "-3"),
            ("1789999000,5", ", line 3", "goes back by 1000 s"),
        ] {
            let error = damaged(rows).unwrap_err();
            assert!(error.starts_with(line) && error.contains(word), "{rows}: {error}");
        }
        let gaps = damaged("1790000001,\n1790000002,NaN\n1790000003,unavailable\n1790000004,6\n").unwrap();
        assert_eq!((gaps.readings.len(), gaps.left_out), (2, 3), "missing is not zero");
        for (text, word) in [
            ("", "empty"),
            ("1790000000,5\n1790000001,6\n", "a heading"),
            ("when,what\n1,2\n", "a column of times"),
            ("time,voltage\n1790000000,230\n", "a column of power"),
            ("time,power\n", "none of its"),
        ] {
            let error = read(text, &LogOptions::default()).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        let typo = with(|o| o.column = Some("powr".to_owned()));
        let error = read("time,power\n1790000000,5\n", &typo).unwrap_err();
        assert!(error.contains("\"powr\"") && error.contains("time, power"), "{error}");
    }

    #[test]
    fn a_shelly_is_read_by_its_notifications_its_status_and_with_a_time_before_each_line() {
        let second_generation = concat!(
            r#"{"src":"shellyplusplugs-80646fe1","dst":"log/events","method":"NotifyStatus","params":{"ts":1790000000.00,"switch:0":{"id":0,"apower":231.5}}}"#,
            "\n",
            r#"{"src":"shellyplusplugs-80646fe1","dst":"log/events","method":"NotifyStatus","params":{"ts":1790000000.50,"wifi":{"rssi":-61}}}"#,
            "\n",
            r#"{"src":"shellyplusplugs-80646fe1","dst":"log/events","method":"NotifyStatus","params":{"ts":1790000001.00,"switch:0":{"id":0,"apower":402.0,"aenergy":{"total":11.679}}}}"#,
            "\n"
        );
        let log = two(second_generation);
        assert_eq!((log.format, log.left_out), (LogFormat::Shelly, 1));
        let status = concat!(
            r#"{"switch:0":{"id":0,"output":true,"apower":231.5,"voltage":230.1,"aenergy":{"total":1.0,"minute_ts":1790000000}},"sys":{"mac":"80646F","unixtime":1790000000}}"#,
            "\n",
            r#"{"switch:0":{"id":0,"output":true,"apower":402.0,"voltage":230.1,"aenergy":{"total":1.0,"minute_ts":1790000000}},"sys":{"mac":"80646F","unixtime":1790000001}}"#
        );
        assert_eq!(two(status).format, LogFormat::Shelly);
        let first_generation = concat!(
            r#"{"wifi_sta":{"connected":true},"unixtime":1790000000,"relays":[{"ison":true}],"meters":[{"power":231.50,"overpower":0.00,"is_valid":true,"timestamp":1790007200,"total":6}]}"#,
            "\n",
            r#"{"wifi_sta":{"connected":true},"unixtime":1790000001,"relays":[{"ison":true}],"meters":[{"power":402.00,"overpower":0.00,"is_valid":true,"timestamp":1790007201,"total":6}]}"#
        );
        two(first_generation);
        let three_phases = concat!(
            r#"{"src":"shellypro3em-1","method":"NotifyStatus","params":{"ts":1790000000,"em:0":{"id":0,"a_act_power":231.5,"b_act_power":0.0,"c_act_power":9.0,"total_act_power":240.5}}}"#,
            "\n",
            r#"{"src":"shellypro3em-1","method":"NotifyStatus","params":{"ts":1790000001,"em:0":{"id":0,"a_act_power":402.0,"b_act_power":0.0,"c_act_power":9.0,"total_act_power":411.0}}}"#
        );
        two_with(three_phases, &with(|o| o.column = Some("a_act_power".to_owned())));
        assert_eq!(read(three_phases, &LogOptions::default()).unwrap().readings[0].1, 240.5);
        let polled = "1790000000 {\"id\":0,\"source\":\"init\",\"output\":true,\"apower\":231.5}\n2026-09-21T14:13:21Z shelly/status/switch:0 {\"id\":0,\"source\":\"init\",\"output\":true,\"apower\":402.0}\n";
        two(polled);
        let timeless = read("{\"id\":0,\"apower\":231.5}\n", &LogOptions::default()).unwrap_err();
        assert!(timeless.starts_with(", line 1") && timeless.contains("before each line"), "{timeless}");
        let two_plugs = concat!(
            r#"{"params":{"ts":1790000000,"switch:0":{"apower":231.5},"switch:1":{"apower":4.0}}}"#,
            "\n",
            r#"{"params":{"ts":1790000001,"switch:0":{"apower":402.0},"switch:1":{"apower":4.0}}}"#
        );
        let error = read(two_plugs, &LogOptions::default()).unwrap_err();
        assert!(error.contains("switch:0.apower, ") && error.contains("--column"), "{error}");
        two_with(two_plugs, &with(|o| o.column = Some("switch:0.apower".to_owned())));
    }

    #[test]
    fn a_tasmota_plug_is_read_by_its_telemetry() {
        let telemetry = concat!(
            r#"tele/plug/SENSOR {"Time":"2026-09-21T14:13:20","ENERGY":{"TotalStartTime":"2026-01-01T00:00:00","Total":12.3,"Today":0.4,"Period":1,"Power":231.5,"ApparentPower":240,"ReactivePower":63,"Factor":0.97,"Voltage":230,"Current":1.04}}"#,
            "\n",
            r#"tele/plug/STATE {"Time":"2026-09-21T14:13:20","Uptime":"0T01:00:00","POWER":"ON"}"#,
            "\n",
            r#"{"StatusSNS":{"Time":"2026-09-21T14:13:21","ENERGY":{"Total":12.3,"Power":402,"ApparentPower":410}}}"#,
            "\n"
        );
        let log = two(telemetry);
        assert_eq!((log.format, log.left_out, log.assumes_utc), (LogFormat::Tasmota, 1, true));
        let channels = r#"{"Time":"2026-09-21T14:13:20Z","ENERGY":{"Power":[231,9]}}"#;
        let error = read(channels, &LogOptions::default()).unwrap_err();
        assert!(error.starts_with(", line 1") && error.contains("ENERGY.Power.0"), "{error}");
        let one = with(|o| o.column = Some("ENERGY.Power.0".to_owned()));
        assert_eq!(read(channels, &one).unwrap().readings, [(T0, 231.0)]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_stands_in_a_log_it_is_read_or_refused(
            which in 0usize..4,
            at in 0usize..200,
            put in "[-0-9eE.,:;{}\\[\\]\"TZ+ \n\u{0}\u{fffd}]{0,12}",
            cut in 0usize..8,
        ) {
            let samples = [
                "time,power\n2026-09-21T14:13:20Z,231.5\n1790000001,402\n1790000002000,5\n",
                "{\"params\":{\"ts\":1790000000.5,\"switch:0\":{\"apower\":231.5}}}\n{\"apower\":4,\"unixtime\":1790000001}\n",
                "tele/plug/SENSOR {\"Time\":\"2026-09-21T14:13:20\",\"ENERGY\":{\"Power\":231.5}}\n",
                "{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[{\"metric\":{\"outlet\":\"3\"},\"values\":[[1790000000,\"231.5\"]]}]}}",
            ];
            let sample = samples[which];
            let at = at.min(sample.len());
            let text = format!("{}{put}{}", &sample[..at], &sample[(at + cut).min(sample.len())..]);
            if let Ok(raw) = Raw::parse(&text, &LogOptions::default()) {
                let _ = raw.in_order(&with(|o| o.clock_ahead_s = 1e300));
            }
        }
    }

    #[test]
    fn damaged_json_is_refused_by_its_line() {
        let good = r#"{"Time":"2026-09-21T14:13:20Z","ENERGY":{"Power":5}}"#;
        for (bad, word) in [
            (r#"{"Time":"2026-09-21T14:13:21Z","ENERGY":{"Pow"#, "JSON"),
            (r#"{"Time":"noon","ENERGY":{"Power":5}}"#, "\"noon\""),
            (r#"{"Time":"2026-09-21T14:13:21Z","ENERGY":{"Power":"much"}}"#, "much"),
            (r#"{"Time":"2026-09-21T14:13:21Z","ENERGY":{"Power":-5}}"#, "-5"),
            (r#"{"Time":"2026-09-21T13:13:21Z","ENERGY":{"Power":5}}"#, "goes back by 3599 s"),
        ] {
            let error = read(&format!("{good}\n{bad}\n"), &LogOptions::default()).unwrap_err();
            assert!(error.starts_with(", line 2") && error.contains(word), "{bad}: {error}");
        }
        let error = read("{\"a\":1}\n{\"b\":2}\n", &LogOptions::default()).unwrap_err();
        assert!(error.contains("Shelly") && error.contains("Tasmota"), "{error}");
    }

    #[test]
    fn prometheus_answers_a_range_of_one_series() {
        let series = |outlet: &str, values: &str| {
            format!(
                r#"{{"metric":{{"__name__":"rPDU2OutletMeteredStatusPower","instance":"pdu1","outlet":"{outlet}"}},"values":[{values}]}}"#
            )
        };
        let answer = |all: &str| {
            format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{all}]}}}}"#)
        };
        let values = r#"[1790000000,"231.5"],[1790000001.000,"402"]"#;
        let log = two(&answer(&series("3", values)));
        assert_eq!((log.format, log.assumes_utc), (LogFormat::Prometheus, false));
        let both = answer(&format!("{},{}", series("3", values), series("4", r#"[1790000000,"1"]"#)));
        let error = read(&both, &LogOptions::default()).unwrap_err();
        assert!(error.contains("outlet=\"4\"") && error.contains("--column"), "{error}");
        two_with(&both, &with(|o| o.column = Some("outlet=\"3\"".to_owned())));
        let gap = answer(&series("3", r#"[1790000000,"231.5"],[1790000000.5,"NaN"],[1790000001,"402"]"#));
        assert_eq!(two(&gap).left_out, 1);
        for (text, word) in [
            (
                r#"{"status":"error","errorType":"bad_data","error":"parse error","data":{"resultType":""}}"#
                    .to_owned(),
                "parse error",
            ),
            (answer(""), "no series"),
            (answer(&series("3", r#"[1790000000,"lots"]"#)), "lots"),
            (answer(&series("3", "[1790000000]")), "value 1"),
            (r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#.to_owned(), "query_range"),
            (answer(&series("3", values))[..90].to_owned(), "JSON"),
        ] {
            let error = read(&text, &LogOptions::default()).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
