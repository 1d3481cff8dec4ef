//! Lines of JSON as a Shelly or a Tasmota plug says them, each alone or after a time and a topic.
//!
//! | who | power | time |
//! |---|---|---|
//! | Shelly, second generation, `NotifyStatus` | `params.switch:0.apower`, `params.pm1:0.apower`, `params.em:0.total_act_power` | `params.ts` |
//! | the same, `Shelly.GetStatus` | `switch:0.apower` | `sys.unixtime` |
//! | the same, `Switch.GetStatus` | `apower` | before the line |
//! | Shelly, first generation, `/status` | `meters[0].power`, `emeters[0].power` | `unixtime` |
//! | Tasmota, `tele/…/SENSOR` and `Status 8` | `ENERGY.Power` | `Time`, without a zone |

use serde_json::Value;

use super::time::{expected, unix_ns, wall_ns};
use super::{Fault, LogFormat, LogOptions, Raw, RawReading, watts};

pub(super) fn parse(text: &str, options: &LogOptions) -> Result<Raw, Fault> {
    let mut raw = Raw { format: LogFormat::Shelly, readings: Vec::new(), left_out: 0 };
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
        let fault = |reason: String| (Some(number), reason);
        let Some(at) = line.find('{') else {
            return Err(fault("expected a line of JSON".to_owned()));
        };
        let (before, json) = line.split_at(at);
        let value: Value = serde_json::from_str(json).map_err(|error| {
            fault(format!("expected a line of JSON: {error}; a log that is cut may end here"))
        })?;
        let value = value.get("StatusSNS").or(value.get("params")).unwrap_or(&value);
        let is_tasmota = value.get("ENERGY").is_some();
        let Some((name, power)) = power(value, options).map_err(fault)? else {
            raw.left_out += 1;
            continue;
        };
        let watts_read = power
            .as_f64()
            .filter(|power| *power >= 0.0)
            .ok_or_else(|| fault(format!("{name}: expected a power of at least 0, got {power}")))?;
        let (wall_ns, zoned) = time(value, before, options).map_err(fault)?;
        if is_tasmota {
            raw.format = LogFormat::Tasmota;
        }
        raw.readings.push(RawReading {
            line: number,
            wall_ns,
            zoned,
            watts: watts(watts_read, &name, options),
        });
    }
    if raw.readings.is_empty() {
        let reason =
            "no line holds a power as a Shelly (apower, meters) or a Tasmota plug (ENERGY.Power) says it; \
                      name its key by --column"
                .to_owned();
        return Err((None, reason));
    }
    Ok(raw)
}

/// The power of a message, with its path; `None` if it tells none.
fn power<'a>(value: &'a Value, options: &LogOptions) -> Result<Option<(String, &'a Value)>, String> {
    let mut leaves = Vec::new();
    collect(value, "", &mut leaves);
    if let Some(wanted) = &options.column {
        let is_it = |path: &str| path == wanted || path.ends_with(&format!(".{wanted}"));
        return Ok(leaves.into_iter().find(|(path, _)| is_it(path)).filter(|(_, value)| !value.is_null()));
    }
    let is_power = |path: &str| {
        let key = path.trim_end_matches(|c: char| c == '.' || c.is_ascii_digit());
        let last = key.rsplit('.').next().unwrap_or_default();
        // The meters of the first generation are numbered: `meters.0.power`.
        let is_meter = last == "power" && (path.starts_with("meters.") || path.starts_with("emeters."));
        last == "apower" || last == "total_act_power" || key == "ENERGY.Power" || is_meter
    };
    let mut found: Vec<_> =
        leaves.into_iter().filter(|(path, value)| is_power(path) && !value.is_null()).collect();
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => {
            let names: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
            Err(format!(
                "several keys may be the machine's power: {}; name one by --column",
                names.join(", ")
            ))
        }
    }
}

/// Every value that is no object and no list, with its path: `switch:0.apower`, `meters.0.power`.
fn collect<'a>(value: &'a Value, path: &str, leaves: &mut Vec<(String, &'a Value)>) {
    let within = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| collect(value, &within(key), leaves)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| collect(value, &within(&i.to_string()), leaves));
        }
        leaf => leaves.push((path.to_owned(), leaf)),
    }
}

/// The time of a message: its own, else what stands before it.
fn time(value: &Value, before: &str, options: &LogOptions) -> Result<(i64, bool), String> {
    let own = [value.get("ts"), value.pointer("/sys/unixtime"), value.get("unixtime"), value.get("Time")];
    if let Some(own) = own.into_iter().flatten().find(|time| !time.is_null()) {
        let read = match own {
            Value::String(text) => wall_ns(text, options.utc_offset_s),
            number => number.as_f64().and_then(unix_ns).map(|ns| (ns, true)),
        };
        let shown = own.as_str().map_or_else(|| own.to_string(), str::to_owned);
        return read.ok_or_else(|| expected(&shown));
    }
    // A date and a time may be two words.
    let words: Vec<&str> = before.split_whitespace().collect();
    let both = words.get(..2).map(|two| two.join(" "));
    let read = words.first().and_then(|word| wall_ns(word, options.utc_offset_s));
    read.or_else(|| wall_ns(&both?, options.utc_offset_s)).ok_or_else(|| {
        "the message has no time of its own; log one before each line, as mosquitto_sub -F '%U %p' does"
            .to_owned()
    })
}
