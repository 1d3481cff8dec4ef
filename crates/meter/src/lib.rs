//! Watts to joules to grams: what a run draws, measured beside it.
//!
//! A thread of its own reads the sensors some twenty times a second and writes what they say to `power.trace`.
//! Energy between two moments is a difference on that trace; a ledger adds the differences up, prices them in
//! grams and in money, and writes records. A figure that was not measured is called estimated, a reading that
//! is missing is never zero, and a sensor that fails never fails the run that it watches.
//!
//! Modules in the order in which a joule passes them. Each folder leans on those above it alone:
//!
//! - [`config`]: the sections `energy`, `carbon` and `cost` of a configuration
//! - [`sensors`]: what can be asked for power or energy
//!   - [`sensor`](sensors::sensor): what a sensor is, and the three states of a quantity
//!   - [`nvml`](sensors::nvml), [`rapl`](sensors::rapl): sensors that measure
//!   - [`workload`](sensors::workload), [`share`](sensors::share), [`estimate`](sensors::estimate): what the process
//!     uses of the machine, and sensors that model it
//!   - [`calibrations`](sensors::calibrations): what a wall meter told of them, by which readings are corrected
//!   - [`own_thread`](sensors::own_thread): a thread and deadlines for a driver that may hang
//!   - [`visible`](sensors::visible): which boards CUDA shows a program
//!   - [`discover`](mod@sensors::discover): the sensors of this machine, and how to mend those that cannot be read
//!   - [`trained_on`](sensors::trained_on): which sensor measures each device that is computed on
//! - [`readings`]: what they have said
//!   - [`trace`](readings::trace), [`trace_reader`](readings::trace_reader),
//!     [`trace_writer`](readings::trace_writer): `power.trace`
//!   - [`ticks`](readings::ticks): when a counter that is expensive to read moves
//!   - [`history`](readings::history): readings as running sums, and one estimate out of all of them
//! - [`windows`]: the energy between two moments
//!   - [`stretch`](windows::stretch), [`figure`](windows::figure): what one sensor says of it, and how far that may
//!     be off
//!   - [`window`](windows::window): all sensors together, with their uncertainty
//!   - [`profile`](windows::profile): how it came together
//!   - [`phases`](windows::phases): that energy by what the run was doing
//!   - [`unmetered`](mod@windows::unmetered): devices that no sensor measured
//! - [`sampling`]: the thread that reads ([`sampler`](sampling::sampler)), when it reads what is expensive
//!   ([`counter_schedule`](sampling::counter_schedule)), and what is drawn now ([`live`](sampling::live))
//! - [`books`]: grams, money and records
//!   - [`region`](books::region), [`carbon`](books::carbon), [`intensity_table`](books::intensity_table): countries;
//!     carbon intensity of electricity by country and by hour
//!   - [`pricing`](books::pricing): the one rule for the building's energy, emissions and cost
//!   - [`ledger`](books::ledger), [`interrupted`](books::interrupted): records and running totals, also of segments
//!     that were killed
//!   - [`tally`](books::tally): what a segment has used so far, between two records
//!   - [`projection`](books::projection): what a run that has begun will come to
//!   - [`reprice`](mod@books::reprice): a finished run at other intensities
//!   - [`pauses`](books::pauses), [`waiting`](books::waiting): what pauses for cleaner electricity saved and cost
//!   - [`continuity`](books::continuity): where segments do not follow on each other
//! - [`export`]: the same figures as other tools read them ([`codecarbon`](export::codecarbon),
//!   [`model_card`](export::model_card))
//! - [`calibrate`]: sensors held against a wall meter's [`log`](calibrate::log); [`sensors::calibrations`] keeps and
//!   applies what comes of it
//!
//! ```
//! use wattle_meter::{EDGE_TIMEOUT, EnergyConfig, Sampler, SamplerOptions, discover};
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

pub mod books;
pub mod calibrate;
pub mod config;
pub mod error;
pub mod export;
pub mod readings;
pub mod sampling;
pub mod sensors;
pub mod windows;

pub use books::intensity_table::IntensityTable;
pub use books::interrupted::ResumePoint;
pub use books::ledger::{Entry, Ledger, LedgerOptions};
pub use books::pricing::{Pricing, Tariff, segment_prices};
pub use books::reprice::reprice;
pub use books::tally::{Tally, Used};
pub use books::tokens_beside::TokensBeside;
pub use config::{CarbonConfig, CostConfig, EnergyConfig, GpuSelection};
pub use error::MeterError;
pub use readings::trace_writer::TraceWriter;
pub use sampling::live::{Live, LiveSensor};
pub use sampling::sampler::{EDGE_TIMEOUT, Sampler, Watch};
pub use sampling::sampler_options::{SamplerOptions, TraceTarget};
pub use sensors::board_limits::BoardLimits;
pub use sensors::discover::{Discovery, Finding, FindingState, discover, discover_for};
pub use sensors::sensor::{Quantity, Reading, Sensor};
pub use sensors::trained_on::TrainedOn;
pub use sensors::workload::Workload;
pub use windows::unmetered::unmetered;
pub use windows::window::{Edge, WindowEnergy};
