//! Watts to joules to grams: what a run draws, measured beside it.
//!
//! A thread of its own reads the sensors some twenty times a second and writes what they say to `power.trace`.
//! Energy between two moments is a difference on that trace; a ledger adds the differences up, prices them in
//! grams and in money, and writes records. A figure that was not measured is called estimated, a reading that
//! is missing is never zero, and a sensor that fails never fails the run that it watches.
//!
//! Modules in the order in which a joule passes them:
//!
//! - [`config`]: the sections `energy`, `carbon` and `cost` of a configuration
//! - [`sensor`]: what a sensor is, and the three states of a quantity
//! - [`nvml`], [`rapl`]: sensors that measure
//! - [`workload`], [`share`], [`estimate`]: what the process uses of the machine, and sensors that model it
//! - [`visible`]: which boards CUDA shows a program
//! - [`mod@discover`]: the sensors of this machine, and what would mend those that cannot be read
//! - [`trained_on`]: which sensor measures each device that is computed on, and which devices none measures
//! - [`trace`], [`trace_reader`]: `power.trace`
//! - [`history`]: readings as running sums
//! - [`sampler`]: the thread
//! - [`stretch`], [`figure`]: what they say of the time between two moments, and how far that may be off
//! - [`window`]: the energy between two moments, with its uncertainty
//! - [`profile`]: how it came together
//! - [`phases`]: that energy by what the run was doing
//! - [`region`], [`carbon`], [`intensity_table`]: countries; carbon intensity of electricity by country and by hour
//! - [`ledger`], [`interrupted`]: records and running totals, also of segments that were killed
//! - [`projection`]: what a run that has begun will come to
//! - [`mod@reprice`]: a finished run at other intensities
//! - [`continuity`]: where segments do not follow on each other
//! - [`codecarbon`], [`model_card`]: the same figures as other tools read them
//!
//! ```
//! use wattle_meter::sampler::EDGE_TIMEOUT;
//! use wattle_meter::{EnergyConfig, Sampler, SamplerOptions, discover};
//!
//! let found = discover(&EnergyConfig::default(), &[]);
//! let sampler = Sampler::start(found.sensors, SamplerOptions::default())?;
//! let start = sampler.edge(EDGE_TIMEOUT);
//! // what is metered happens here
//! let end = sampler.edge(EDGE_TIMEOUT);
//! let window = sampler.window(&start, &end)?;
//! println!("{:.1} J, {:.0} % measured", window.energy.get(), 100.0 * window.measured_fraction);
//! # Ok::<(), wattle_meter::MeterError>(())
//! ```

pub mod carbon;
pub mod codecarbon;
pub mod config;
pub mod continuity;
pub mod discover;
pub mod error;
pub mod estimate;
pub mod figure;
pub mod history;
pub mod intensity_table;
pub mod interrupted;
pub mod ledger;
pub mod live;
pub mod model_card;
pub mod nvml;
pub mod own_thread;
pub mod phases;
pub mod profile;
pub mod projection;
pub mod rapl;
pub mod region;
pub mod reprice;
pub mod sampler;
pub mod sampler_options;
pub mod sensor;
pub mod share;
pub mod stretch;
pub mod trace;
pub mod trace_reader;
pub mod trained_on;
pub mod visible;
pub mod window;
pub mod workload;

mod activity;
mod latency;
mod pricing;
mod regression;
mod totals;
mod worker;

pub use config::{CarbonConfig, CostConfig, EnergyConfig, GpuSelection};
pub use discover::{Discovery, Finding, FindingState, discover};
pub use error::MeterError;
pub use intensity_table::IntensityTable;
pub use interrupted::ResumePoint;
pub use ledger::{Entry, Ledger, LedgerOptions};
pub use live::{Live, LiveSensor};
pub use reprice::reprice;
pub use sampler::{Sampler, Watch};
pub use sampler_options::{SamplerOptions, TraceTarget};
pub use sensor::{Quantity, Reading, Sensor};
pub use trace::TraceWriter;
pub use trained_on::TrainedOn;
pub use window::{Edge, WindowEnergy};
pub use workload::Workload;
