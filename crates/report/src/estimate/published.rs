//! Runs whose energy was published, to hold the estimate against.

use wattle_runlog::GramsPerKwh;
use wattle_runlog::record::Carbon;

use crate::estimate::{Plan, gpu};

/// A run that somebody measured, or reckoned from what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The model.
    pub name: &'static str,
    /// Parameters.
    pub params: f64,
    /// Training tokens.
    pub tokens: f64,
    /// The boards.
    pub gpu: &'static str,
    /// Power usage effectiveness that its energy contains.
    pub pue: f64,
    /// Energy in megawatt-hours.
    pub energy_mwh: f64,
    /// Where that was published.
    pub source: &'static str,
}

/// Every run that the estimate is held against.
pub static PUBLISHED: [Published; 3] = [
    Published {
        name: "GPT-3",
        params: 175e9,
        tokens: 300e9,
        gpu: "V100",
        pue: 1.10,
        energy_mwh: 1_287.0,
        source: "Patterson et al. 2021, arXiv 2104.10350, table 4",
    },
    Published {
        name: "BLOOM",
        params: 176e9,
        tokens: 366e9,
        gpu: "A100",
        pue: 1.0,
        energy_mwh: 433.0,
        source: "Luccioni et al. 2022, arXiv 2211.02001",
    },
    Published {
        name: "Llama 2 70B",
        params: 70e9,
        tokens: 2e12,
        gpu: "A100",
        pue: 1.0,
        // 1,720,320 GPU-hours at 400 W.
        energy_mwh: 1_720_320.0 * 400.0 / 1e6,
        source: "Touvron et al. 2023, arXiv 2307.09288, table 2",
    },
];

impl Published {
    /// The share by which the estimate says more than was published; below zero, less.
    pub fn miss(&self) -> f64 {
        self.plan().energy_mwh().middle / self.energy_mwh - 1.0
    }

    /// The same run as a plan, of which nothing more is known.
    fn plan(&self) -> Plan {
        // Its emissions are not asked for.
        let carbon = Carbon {
            intensity_g_per_kwh: GramsPerKwh::ZERO,
            region: String::new(),
            source: String::new(),
            year: None,
            basis: String::new(),
            table_fraction: None,
            grid: None,
        };
        Plan {
            params: self.params,
            tokens: self.tokens,
            gpu: gpu::find(self.gpu).expect("its board is in the table"),
            gpus: 1,
            mfu: None,
            pue: self.pue,
            carbon,
            tariff: None,
        }
    }
}

/// `GPT-3 −49 %, BLOOM −5 %`
pub(crate) fn misses() -> String {
    let miss = |run: &Published| {
        let percent = run.miss() * 100.0;
        format!("{} {}{:.0} %", run.name, if percent < 0.0 { '−' } else { '+' }, percent.abs())
    };
    PUBLISHED.iter().map(miss).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_energy_lies_within_the_interval_and_the_middle_within_a_factor_of_two() {
        for run in &PUBLISHED {
            let energy = run.plan().energy_mwh();
            println!("{}: {:.0} MWh against {} ({})", run.name, energy.middle, run.energy_mwh, run.source);
            assert!((energy.low..=energy.high).contains(&run.energy_mwh), "{run:?}: {energy:?}");
            assert!((-0.5..=1.0).contains(&run.miss()), "{run:?}: {}", run.miss());
        }
    }
}
