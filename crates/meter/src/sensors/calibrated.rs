//! A sensor whose readings are corrected by a calibration.
//!
//! Everything that it says is multiplied by the gain before anything else sees it: windows, records, live figures and
//! `power.trace` agree. The trace's header names the gain, so what the sensor said itself can be computed again.

use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::{Seconds, Watts};

use crate::sensors::sensor::{
    Channels, Clocks, CounterReading, CounterSpec, CounterValue, PowerSample, Quantity, Reading, Sensor,
    Survey,
};

/// A sensor and its gain.
pub(crate) struct Calibrated {
    sensor: Box<dyn Sensor>,
    info: SensorInfo,
    gain: f64,
}

impl Calibrated {
    /// `sensor` with its readings multiplied by `gain`; `info` names the calibration.
    pub(crate) fn new(sensor: Box<dyn Sensor>, info: SensorInfo, gain: f64) -> Self {
        Self { sensor, info, gain }
    }

    fn power(&self, power: Quantity<Watts>) -> Quantity<Watts> {
        power.map(|watts| watts * self.gain)
    }

    fn counter(&self, counter: Quantity<CounterValue>) -> Quantity<CounterValue> {
        counter.map(|value| CounterValue(self.units(value.0)))
    }

    fn spec(&self, spec: CounterSpec) -> CounterSpec {
        CounterSpec { range: spec.range.map(|range| self.units(range)), ..spec }
    }

    fn units(&self, units: u64) -> u64 {
        (units as f64 * self.gain).round() as u64
    }
}

impl Sensor for Calibrated {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn channels(&self) -> Channels {
        let channels = self.sensor.channels();
        Channels {
            counter: channels.counter.map(|spec| self.spec(spec)),
            slow_counter: channels.slow_counter.map(|spec| self.spec(spec)),
            ..channels
        }
    }

    fn read(&mut self) -> Reading {
        let Reading { t, power, average, counter } = self.sensor.read();
        Reading { t, power: self.power(power), average: self.power(average), counter: self.counter(counter) }
    }

    fn read_counter(&mut self) -> CounterReading {
        let CounterReading { before, after, value } = self.sensor.read_counter();
        CounterReading { before, after, value: self.counter(value) }
    }

    fn read_samples(&mut self) -> Vec<PowerSample> {
        let samples = self.sensor.read_samples();
        samples.into_iter().map(|sample| PowerSample { power: sample.power * self.gain, ..sample }).collect()
    }

    fn read_clocks(&mut self) -> Option<Clocks> {
        self.sensor.read_clocks()
    }

    fn cpu_time(&self) -> Seconds {
        self.sensor.cpu_time()
    }

    fn survey(&mut self) -> Survey {
        self.sensor.survey()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::sensor::Advance;
    use crate::sensors::sensor::tests::{BOARD, board_info, reading};
    use wattle_runlog::{Joules, MonotonicNs};

    struct Steps {
        info: SensorInfo,
        n: u64,
    }

    const RANGE: u64 = 10_000;

    impl Sensor for Steps {
        fn info(&self) -> &SensorInfo {
            &self.info
        }
        fn channels(&self) -> Channels {
            let counter = BOARD.counter.map(|spec| CounterSpec { range: Some(RANGE), ..spec });
            Channels { counter, ..BOARD }
        }
        fn read(&mut self) -> Reading {
            self.n += 1;
            reading(MonotonicNs(self.n), Some(Watts(300.0)), Some(self.n * 6_000 % (RANGE + 1)))
        }
        fn read_samples(&mut self) -> Vec<PowerSample> {
            vec![PowerSample { t: MonotonicNs(self.n), power: Watts(310.0) }]
        }
    }

    #[test]
    fn power_samples_and_counter_are_multiplied_also_where_the_counter_wraps() {
        let mut sensor = Calibrated::new(Box::new(Steps { info: board_info(), n: 0 }), board_info(), 1.1);
        let spec = sensor.channels().counter.unwrap();
        let [first, second] = [sensor.read(), sensor.read()];
        let watts = first.power.measured().unwrap().get();
        assert!((watts - 330.0).abs() < 1e-9, "{watts}");
        let counters = [first, second].map(|reading| *reading.counter.measured().unwrap());
        // 6,000 mJ on, through the end of a range of 10,000.
        let Advance::By(Joules(energy)) = spec.advance(counters[0], counters[1]) else { panic!() };
        assert!((energy - 1.1 * 5.999).abs() < 2e-3, "{energy}");
        assert!((sensor.read_samples()[0].power.get() - 341.0).abs() < 1e-9);
        assert_eq!(sensor.read().average, Quantity::Unsupported);
    }
}
