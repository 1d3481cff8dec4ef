//! Calls that may hang, on threads of their own.
//!
//! A driver that hangs never returns to its caller. So NVML is never called from a thread that training, a command
//! or other sensors wait for: [`in_time`] runs a call that is made once, and an [`OwnThread`] holds a sensor for good.
//! What does not answer in time is missing; a thread that hangs is left behind.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::{MonotonicNs, Seconds};

use crate::error::MeterError;
use crate::sensors::sensor::{
    Channels, CounterReading, Missing, PowerSample, Quantity, Reading, Sensor, Survey,
};
use crate::sensors::workload::thread_cpu_time;

/// How long finding and opening boards may take. Loading NVML takes tens of milliseconds, and up to some seconds where
/// the driver first has to wake boards.
pub const DISCOVERY_TIME: Duration = Duration::from_secs(10);

/// How long a reading may take: on a real board the 99th percentile is 30 ms.
pub const READING_TIME: Duration = Duration::from_secs(1);

/// Runs `call` on a thread of its own; `None` if it does not return within `time`, or panics.
pub fn in_time<T: Send + 'static>(time: Duration, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (reply, answer) = channel();
    let started = thread::Builder::new().name("wattle-discovery".to_owned()).spawn(move || {
        // Whoever asked may have stopped waiting.
        let _ = reply.send(call());
    });
    started.ok()?;
    answer.recv_timeout(time).ok()
}

/// A sensor on a thread of its own.
pub struct OwnThread {
    info: SensorInfo,
    channels: Channels,
    time: Duration,
    asks: Sender<Ask>,
    answers: Receiver<Answer>,
    /// Whether something was asked that has not been answered yet.
    is_waiting: bool,
    /// Processor time of the thread by its last answer.
    cpu_time: Seconds,
}

#[derive(Clone, Copy)]
enum Ask {
    Reading,
    Counter,
    Samples,
    Survey,
}

struct Answer {
    kind: AnswerKind,
    cpu_time: Seconds,
}

enum AnswerKind {
    Reading(Reading),
    Counter(CounterReading),
    Samples(Vec<PowerSample>),
    Survey(Survey),
}

/// Why there is no answer.
enum Silence {
    /// Not in time.
    Late,
    /// The thread has ended: the sensor panicked.
    Ended,
}

impl OwnThread {
    /// Moves `sensor` to a thread of its own.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(sensor: impl Sensor + 'static) -> Result<Self, MeterError> {
        Self::with_time(sensor, READING_TIME)
    }

    fn with_time(mut sensor: impl Sensor + 'static, time: Duration) -> Result<Self, MeterError> {
        let (info, channels) = (sensor.info().clone(), sensor.channels());
        let (asks, asked) = channel();
        let (reply, answers) = channel();
        thread::Builder::new()
            .name("wattle-sensor".to_owned())
            .spawn(move || {
                for ask in asked {
                    let kind = match ask {
                        Ask::Reading => AnswerKind::Reading(sensor.read()),
                        Ask::Counter => AnswerKind::Counter(sensor.read_counter()),
                        Ask::Samples => AnswerKind::Samples(sensor.read_samples()),
                        Ask::Survey => AnswerKind::Survey(sensor.survey()),
                    };
                    if reply.send(Answer { kind, cpu_time: thread_cpu_time() }).is_err() {
                        return;
                    }
                }
            })
            .map_err(|source| MeterError::Thread { source })?;
        let (is_waiting, cpu_time) = (false, Seconds::ZERO);
        Ok(Self { info, channels, time, asks, answers, is_waiting, cpu_time })
    }

    /// The answer to `ask`. After one that did not come in time, nothing is waited for until it has come: a driver that
    /// hangs costs its caller one delay and not one a reading.
    fn ask(&mut self, ask: Ask) -> Result<AnswerKind, Silence> {
        if self.is_waiting {
            match self.answers.try_recv() {
                // A late answer to an earlier request, which was already reported as missing.
                Ok(late) => self.note(&late),
                Err(TryRecvError::Empty) => return Err(Silence::Late),
                Err(TryRecvError::Disconnected) => return Err(Silence::Ended),
            }
        }
        self.asks.send(ask).map_err(|_| Silence::Ended)?;
        self.is_waiting = true;
        match self.answers.recv_timeout(self.time) {
            Ok(answer) => {
                self.note(&answer);
                Ok(answer.kind)
            }
            Err(RecvTimeoutError::Disconnected) => Err(Silence::Ended),
            Err(RecvTimeoutError::Timeout) => {
                self.report();
                Err(Silence::Late)
            }
        }
    }

    fn note(&mut self, answer: &Answer) {
        (self.is_waiting, self.cpu_time) = (false, answer.cpu_time);
    }

    /// Once per silence: until the sensor answers, [`Self::ask`] does not wait again.
    fn report(&self) {
        tracing::warn!(
            "{}: no answer within {:.0} s: its driver hangs; what it draws is not measured until it answers",
            self.info.id,
            self.time.as_secs_f64()
        );
    }

    /// A reading that did not come.
    fn missing(&self, why: Missing) -> Reading {
        let Channels { power, average, counter, .. } = self.channels;
        Reading {
            t: MonotonicNs::now(),
            power: quantity(power.is_some(), &why),
            average: quantity(average, &why),
            counter: quantity(counter.is_some(), &why),
        }
    }
}

/// A quantity that was not answered for.
fn quantity<T>(is_supported: bool, why: &Missing) -> Quantity<T> {
    if is_supported { Quantity::Missing(why.clone()) } else { Quantity::Unsupported }
}

/// Why a quantity is missing after a silence.
fn reason(silence: Silence) -> Missing {
    match silence {
        Silence::Late => Missing::Refused("no answer".to_owned()),
        Silence::Ended => Missing::DeviceLost,
    }
}

const IN_ORDER: &str = "answers come in the order of what was asked";

impl Sensor for OwnThread {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn channels(&self) -> Channels {
        self.channels
    }

    fn read(&mut self) -> Reading {
        match self.ask(Ask::Reading) {
            Ok(AnswerKind::Reading(reading)) => reading,
            Ok(_) => unreachable!("{IN_ORDER}"),
            Err(silence) => self.missing(reason(silence)),
        }
    }

    fn read_counter(&mut self) -> CounterReading {
        let before = MonotonicNs::now();
        match self.ask(Ask::Counter) {
            Ok(AnswerKind::Counter(reading)) => reading,
            Ok(_) => unreachable!("{IN_ORDER}"),
            Err(silence) => {
                let value = quantity(self.channels.slow_counter.is_some(), &reason(silence));
                CounterReading { before, after: MonotonicNs::now(), value }
            }
        }
    }

    fn read_samples(&mut self) -> Vec<PowerSample> {
        match self.ask(Ask::Samples) {
            Ok(AnswerKind::Samples(samples)) => samples,
            Ok(_) => unreachable!("{IN_ORDER}"),
            Err(_) => Vec::new(),
        }
    }

    fn survey(&mut self) -> Survey {
        match self.ask(Ask::Survey) {
            Ok(AnswerKind::Survey(survey)) => survey,
            Ok(_) => unreachable!("{IN_ORDER}"),
            Err(_) => Survey::default(),
        }
    }

    fn cpu_time(&self) -> Seconds {
        self.cpu_time
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::sensors::sensor::tests::{BOARD, board_info, reading};

    const SHORT: Duration = Duration::from_millis(30);

    /// A board that does not answer while `hangs` is set.
    struct Hanging {
        info: SensorInfo,
        hangs: Arc<AtomicBool>,
    }

    impl Sensor for Hanging {
        fn info(&self) -> &SensorInfo {
            &self.info
        }

        fn channels(&self) -> Channels {
            BOARD
        }

        fn read(&mut self) -> Reading {
            while self.hangs.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            reading(MonotonicNs::now(), Some(wattle_runlog::Watts(300.0)), Some(1))
        }
    }

    #[test]
    fn a_sensor_that_hangs_costs_one_delay_and_is_read_again_once_it_answers() {
        let hangs = Arc::new(AtomicBool::new(false));
        let board = Hanging { info: board_info(), hangs: Arc::clone(&hangs) };
        let mut board = OwnThread::with_time(board, SHORT).unwrap();
        // A loaded machine may be slow to wake a thread; the first answer comes at some time.
        while board.read().power.measured().is_none() {}

        hangs.store(true, Ordering::Relaxed);
        assert!(matches!(board.read().counter, Quantity::Missing(Missing::Refused(_))));
        let asked = Instant::now();
        for _ in 0..1000 {
            assert!(board.read().power.measured().is_none());
            assert_eq!(board.survey(), Survey::default());
        }
        assert!(asked.elapsed() < SHORT * 100, "every reading waited for a driver that hangs");

        hangs.store(false, Ordering::Relaxed);
        while board.read().power.measured().is_none() {}
    }

    #[test]
    fn a_call_that_hangs_is_not_waited_for() {
        assert_eq!(in_time(Duration::from_secs(60), || 7), Some(7));
        assert_eq!(in_time(SHORT, || thread::sleep(Duration::from_secs(3600))), None);
        assert_eq!(in_time(Duration::from_secs(60), || -> u8 { panic!("a driver's bug") }), None);
    }
}
