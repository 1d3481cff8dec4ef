//! What every sensor says now.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use wattle_meter::{LiveSensor, Watch};
use wattle_runlog::record::{Method, SensorKind};
use wattle_runlog::{Celsius, Joules, Watts};

use super::gauges;

/// Reads the sensors' live figures whenever it is asked.
#[derive(Debug)]
pub struct SensorCollector {
    watch: Watch,
    /// The most that each sensor was said to have counted.
    shown: Mutex<Vec<Joules>>,
}

impl SensorCollector {
    pub fn new(watch: Watch) -> Self {
        let shown = Mutex::new(vec![Joules::ZERO; watch.sensors().count()]);
        Self { watch, shown }
    }

    fn energies(&self) -> Vec<Joules> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        raise(&mut shown, self.watch.sensors().map(|sensor| sensor.energy));
        shown.clone()
    }
}

/// Follows energies, but for a fall: a counter that falls is taken for a process that began anew.
fn raise(shown: &mut [Joules], now: impl Iterator<Item = Joules>) {
    for (shown, now) in shown.iter_mut().zip(now) {
        if now > *shown {
            *shown = now;
        }
    }
}

impl Collector for SensorCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let energies = self.energies();
        if energies.is_empty() {
            return Ok(());
        }
        let help = "Energy since this process began; method says whether it is measured or estimated";
        let mut family =
            encoder.encode_descriptor("sensor_energy", help, Some(&Unit::Joules), MetricType::Counter)?;
        for (sensor, energy) in self.watch.sensors().zip(energies) {
            let labels = labels(&sensor);
            let mut one = family.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, _, f64>(&energy.get(), None)?;
        }
        let power = ("sensor_power", "Power now", Some(Unit::Other("watts".to_owned())));
        let powers = self.watch.sensors().filter_map(|s| Some((labels(&s), s.power.map(Watts::get)?)));
        gauges(&mut encoder, power, powers)?;
        let temperature = ("sensor_temperature", "Temperature of the device", Some(Unit::Celsius));
        let temperatures =
            self.watch.sensors().filter_map(|s| Some((labels(&s), s.temperature.map(Celsius::get)?)));
        gauges(&mut encoder, temperature, temperatures)
    }
}

fn labels<'a>(sensor: &LiveSensor<'a>) -> Vec<(&'a str, &'a str)> {
    let kind = match sensor.info.kind {
        SensorKind::Gpu => "gpu",
        SensorKind::Cpu => "cpu",
        SensorKind::Dram => "dram",
        SensorKind::Platform => "platform",
    };
    let method = match sensor.info.method {
        Method::Counter => "counter",
        Method::DriverSamples => "driver_samples",
        Method::PowerIntegral => "power_integral",
        Method::Estimated => "estimated",
    };
    vec![("sensor", &sensor.info.id), ("kind", kind), ("method", method)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_energy_that_is_corrected_downwards_stands_still_until_it_is_made_up_for() {
        let mut shown = vec![Joules::ZERO; 2];
        let mut seen = Vec::new();
        for now in [[1.0, 5.0], [3.0, 4.0], [2.0, 4.5], [2.5, 6.0], [4.0, 7.0]] {
            raise(&mut shown, now.map(Joules).into_iter());
            seen.push([shown[0].get(), shown[1].get()]);
        }
        assert_eq!(seen, [[1.0, 5.0], [3.0, 5.0], [3.0, 5.0], [3.0, 6.0], [4.0, 7.0]]);
    }
}
