//! The energy of a piece of work within this process.

use wattle_meter::{
    EDGE_TIMEOUT, Edge, EnergyConfig, Sampler, SamplerOptions, TrainedOn, WindowEnergy, discover, unmetered,
};
use wattle_runlog::ComputeDevice;

use wattle_report::words::describe::unmetered_warning;

/// A meter that is running. Where it cannot, the work goes on without.
pub struct Metered {
    sampler: Option<(Sampler, Edge)>,
    trained_on: Vec<TrainedOn>,
}

impl Metered {
    /// Starts to meter what is computed on `device`.
    pub fn start(device: &ComputeDevice) -> Self {
        let config = EnergyConfig::default();
        let discovery = discover(&config, std::slice::from_ref(device));
        let unmetered = discovery.unmetered();
        if !unmetered.is_empty() {
            tracing::warn!("{}", unmetered_warning(&unmetered));
        }
        let options = SamplerOptions { interval: config.interval(), ..SamplerOptions::default() };
        let sampler = Sampler::start(discovery.sensors, options)
            .inspect_err(|error| tracing::warn!("metering cannot start: {error}"))
            .ok();
        let start = |sampler: Sampler| {
            let edge = sampler.edge(EDGE_TIMEOUT);
            (sampler, edge)
        };
        Self { sampler: sampler.map(start), trained_on: discovery.trained_on }
    }

    /// The energy since the start, if it is known.
    pub fn finish(self) -> Option<WindowEnergy> {
        let (sampler, start) = self.sampler?;
        let end = sampler.edge(EDGE_TIMEOUT);
        let window = sampler.window(&start, &end);
        let window = window.inspect_err(|error| tracing::warn!("metering: {error}")).ok()?;
        Some(WindowEnergy { unmetered_devices: unmetered(&self.trained_on, &window), ..window })
    }
}
