//! What a run would cost that no machine here can do.
//!
//! FLOPs → GPU-hours → watts → megawatt-hours → tonnes. Each step rests on an assumption that is stated with its
//! source; where it is a range, so is the result. The ends of the result take every assumption at its better and
//! at its worse end: an interval of what is plausible, not of what is likely.

pub mod amount;
pub mod gpu;
pub mod published;

mod text;

use serde::Serialize;
use wattle_meter::Tariff;
use wattle_runlog::record::Carbon;
use wattle_runlog::{GramsCo2e, Joules, Seconds, Watts};

pub use amount::amount;
pub use gpu::Gpu;
pub use text::text;

/// Name and version of the format of an estimate.
pub const ESTIMATE_SCHEMA: &str = "wattle.estimate/1";

/// Floating-point operations for each parameter and token: two forward and four backward.
///
/// # References
/// Kaplan et al. 2020, Scaling Laws for Neural Language Models (arXiv 2001.08361), section 2.1. It leaves out
/// attention over the context and the recomputation of activations.
pub const FLOPS_PER_PARAMETER_AND_TOKEN: f64 = 6.0;

/// Model FLOPs utilization where none is given.
///
/// # References
/// Chowdhery et al. 2022, PaLM (arXiv 2204.02311), table 3: GPT-3 21.3 %, Gopher 32.5 %, Megatron-Turing NLG
/// 30.2 %, PaLM 46.2 %. The middle is near the mean of the last three, the low end what GPT-3 reached by Patterson
/// et al. 2021 (24.6 of 125 TFLOP/s), the high end ours.
pub const MFU: Interval = Interval { low: 0.19, middle: 0.35, high: 0.5 };

/// Mean power of an accelerator in training with its share of the host, over the board's thermal design power.
///
/// # References
/// Patterson et al. 2021 (arXiv 2104.10350), table 4: GPT-3 on V100 330 W measured a GPU for the whole system, 1.1
/// of 300 W. Luccioni et al. 2022 (arXiv 2211.02001) reckon with 1.0 for BLOOM's boards alone. The range around
/// them is ours.
pub const POWER_SHARE: Interval = Interval { low: 0.8, middle: 1.0, high: 1.3 };

/// A figure that is known as a range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Its lowest plausible value.
    pub low: f64,
    /// The value that is reckoned with.
    pub middle: f64,
    /// Its highest plausible value.
    pub high: f64,
}

/// What is to be estimated.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Parameters.
    pub params: f64,
    /// Training tokens.
    pub tokens: f64,
    /// The board.
    pub gpu: &'static Gpu,
    /// How many of them.
    pub gpus: u64,
    /// Model FLOPs utilization; `None` for [`MFU`].
    pub mfu: Option<f64>,
    /// Power usage effectiveness of the building.
    pub pue: f64,
    /// Carbon intensity of its electricity.
    pub carbon: Carbon,
    /// The price of it, if there is one.
    pub tariff: Option<Tariff>,
}

/// What a run would cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// [`ESTIMATE_SCHEMA`].
    pub schema: &'static str,
    /// Floating-point operations of the model.
    pub flops: f64,
    /// Hours times boards.
    pub gpu_hours: Interval,
    /// Time from start to end, in seconds.
    pub duration_s: Interval,
    /// Energy of the building, in megawatt-hours.
    pub energy_mwh: Interval,
    /// Emissions, in tonnes of CO₂-equivalent.
    pub emissions_t: Interval,
    /// Cost of the electricity; null without a price.
    pub cost: Option<Interval>,
    /// The currency of `cost`.
    pub currency: Option<String>,
    /// What all this rests on.
    pub assumptions: Vec<Assumption>,
}

/// Something that an estimate rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assumption {
    /// What is assumed.
    pub what: String,
    /// How much.
    pub value: String,
    /// Where that comes from.
    pub source: String,
}

impl Interval {
    /// A figure that was given.
    pub fn exactly(value: f64) -> Self {
        Self { low: value, middle: value, high: value }
    }

    fn times(self, factor: f64) -> Self {
        self.map(|value| value * factor)
    }

    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { low: f(self.low), middle: f(self.middle), high: f(self.high) }
    }
}

impl Estimate {
    /// The estimate as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("an estimate is plain data")
    }
}

impl Plan {
    /// Every fault of the plan, each a sentence that begins with its flag.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.gpus == 0 {
            faults.push("--gpus 0: expected at least 1".to_owned());
        }
        if let Some(mfu) = self.mfu.filter(|mfu| !(*mfu > 0.0 && *mfu <= 1.0)) {
            faults.push(format!("--mfu {mfu}: expected a share above 0 and at most 1, such as 0.4"));
        }
        if let Some(tariff) = self.tariff.as_ref().filter(|t| !(t.per_kwh >= 0.0 && t.per_kwh.is_finite())) {
            faults.push(format!("--price-per-kwh {}: expected a number of at least 0", tariff.per_kwh));
        }
        if !(self.pue >= 1.0 && self.pue.is_finite()) {
            faults.push(format!("--pue {}: expected a number of at least 1", self.pue));
        }
        faults
    }

    /// What the run would cost.
    pub fn estimate(&self) -> Estimate {
        let (gpu_hours, energy_mwh) = (self.gpu_hours(), self.energy_mwh());
        let tonnes = |mwh: f64| {
            let GramsCo2e(grams) = self.carbon.intensity_g_per_kwh * Joules::from_kwh(mwh * 1e3);
            grams / 1e6
        };
        Estimate {
            schema: ESTIMATE_SCHEMA,
            flops: self.flops(),
            gpu_hours,
            duration_s: gpu_hours.times(3600.0 / self.gpus as f64),
            energy_mwh,
            emissions_t: energy_mwh.map(tonnes),
            cost: self.tariff.as_ref().map(|tariff| energy_mwh.times(1e3 * tariff.per_kwh)),
            currency: self.tariff.as_ref().map(|tariff| tariff.currency.clone()),
            assumptions: self.assumptions(),
        }
    }

    fn flops(&self) -> f64 {
        FLOPS_PER_PARAMETER_AND_TOKEN * self.params * self.tokens
    }

    /// The better the utilization, the fewer the hours.
    fn gpu_hours(&self) -> Interval {
        let mfu = self.mfu.map_or(MFU, Interval::exactly);
        let at = |mfu: f64| self.flops() / (self.gpu.peak_tflops * 1e12 * mfu) / 3600.0;
        Interval { low: at(mfu.high), middle: at(mfu.middle), high: at(mfu.low) }
    }

    fn power_w(&self) -> Interval {
        POWER_SHARE.times(self.gpu.tdp_w)
    }

    fn energy_mwh(&self) -> Interval {
        let (hours, power) = (self.gpu_hours(), self.power_w());
        let energy = |hours: f64, watts: f64| (Watts(watts * self.pue) * Seconds(hours * 3600.0)).kwh() / 1e3;
        Interval {
            low: energy(hours.low, power.low),
            middle: energy(hours.middle, power.middle),
            high: energy(hours.high, power.high),
        }
    }

    fn assumptions(&self) -> Vec<Assumption> {
        let power = self.power_w();
        let assume = |what: &str, value: String, source: &str| Assumption {
            what: what.to_owned(),
            value,
            source: source.to_owned(),
        };
        let carbon = &self.carbon;
        let year = carbon.year.map_or(String::new(), |year| format!(" {year}"));
        let mut assumptions = vec![
            assume(
                "FLOPs",
                "6 for each parameter and token".to_owned(),
                "Kaplan et al. 2020, arXiv 2001.08361, section 2.1; without attention over the context and \
                 without recomputation",
            ),
            assume(
                "peak",
                format!("{} TFLOP/s a board, dense, 16 bit", self.gpu.peak_tflops),
                self.gpu.source,
            ),
            match self.mfu {
                Some(mfu) => assume("utilization", format!("{} %", percent(mfu)), "as given, --mfu"),
                None => assume(
                    "utilization",
                    format!("{} % ({}–{} %)", percent(MFU.middle), percent(MFU.low), percent(MFU.high)),
                    "published runs, PaLM (arXiv 2204.02311) table 3; --mfu for your own",
                ),
            },
            assume(
                "power",
                format!(
                    "{:.0} W a board with its share of the host ({:.0}–{:.0} W)",
                    power.middle, power.low, power.high
                ),
                "0.8 to 1.3 of the board's design power, around 1.1 (arXiv 2104.10350) and 1.0 (arXiv 2211.02001)",
            ),
            assume(
                "building",
                format!("{} times the machines' energy", self.pue),
                "--pue; 1 is the machines alone",
            ),
            assume(
                "electricity",
                format!("{} g/kWh ({}{year})", carbon.intensity_g_per_kwh.get(), carbon.region),
                &format!("{}, {}; --region for another", carbon.source, carbon.basis),
            ),
            assume(
                "left out",
                "restarts, failed runs, idle boards, manufacture".to_owned(),
                "add them yourself",
            ),
            assume(
                "missed by",
                format!("{} of the energy that was published", published::misses()),
                "arXiv 2104.10350, 2211.02001 and 2307.09288, each from parameters, tokens and boards alone",
            ),
        ];
        if let Some(tariff) = &self.tariff {
            let price = format!("{} {} a kWh", tariff.per_kwh, tariff.currency);
            assumptions.insert(6, assume("price", price, "as given, --price-per-kwh; electricity alone"));
        }
        assumptions
    }
}

fn percent(share: f64) -> String {
    format!("{}", (share * 1000.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wattle_runlog::GramsPerKwh;

    fn plan(params: f64, tokens: f64, gpu: &str, pue: f64, g_per_kwh: f64) -> Plan {
        let carbon = Carbon {
            intensity_g_per_kwh: GramsPerKwh(g_per_kwh),
            region: "custom".to_owned(),
            source: "the paper".to_owned(),
            year: None,
            basis: "as given".to_owned(),
            table_fraction: None,
            grid: None,
        };
        Plan {
            params,
            tokens,
            gpu: gpu::find(gpu).unwrap(),
            gpus: 1000,
            mfu: None,
            pue,
            carbon,
            tariff: None,
        }
    }

    /// Asserts that an estimate lies within a factor of what was published, and inside its own interval.
    fn holds(what: &str, estimate: Interval, published: f64, factor: f64) {
        let miss = estimate.middle / published;
        println!("{what}: {:.4} against {published}, {:+.0} %", estimate.middle, (miss - 1.0) * 100.0);
        assert!((1.0 / factor..=factor).contains(&miss), "{what} is off by a factor of {miss:.2}");
        assert!(
            (estimate.low..=estimate.high).contains(&published),
            "{what}: {published} outside {estimate:?}"
        );
    }

    /// Patterson et al. 2021, arXiv 2104.10350, table 4: 3.14e23 FLOPs, 1,287 MWh, 552 t at 429 g/kWh, PUE 1.10,
    /// 10,000 V100 for 14.8 days.
    #[test]
    fn gpt_3() {
        let plan = Plan { gpus: 10_000, ..plan(175e9, 300e9, "V100", 1.10, 429.0) };
        let estimate = plan.estimate();
        assert!((estimate.flops / 3.14e23 - 1.0).abs() < 0.01);
        holds("GPT-3, MWh", estimate.energy_mwh, 1287.0, 2.0);
        holds("GPT-3, t", estimate.emissions_t, 552.0, 2.0);
        holds("GPT-3, days", estimate.duration_s.times(1.0 / 86_400.0), 14.8, 2.0);
        // With the utilization that the paper's 24.6 TFLOP/s a board come to, what is left is power alone.
        let known = Plan { mfu: Some(24.6 / 125.0), ..plan }.estimate();
        holds("GPT-3 at its utilization, MWh", known.energy_mwh, 1287.0, 1.15);
    }

    /// Luccioni et al. 2022, arXiv 2211.02001: 1,082,990 GPU-hours on A100 80 GB, 433 MWh, 24.7 t at 57 g/kWh.
    /// Le Scao et al. 2022, arXiv 2211.05100: 176B parameters, 366B tokens.
    #[test]
    fn bloom() {
        let estimate = plan(176e9, 366e9, "A100", 1.0, 57.0).estimate();
        holds("BLOOM, GPU-hours", estimate.gpu_hours, 1_082_990.0, 1.5);
        holds("BLOOM, MWh", estimate.energy_mwh, 433.0, 1.5);
        holds("BLOOM, t", estimate.emissions_t, 24.7, 1.5);
    }

    /// Touvron et al. 2023, Llama 2, arXiv 2307.09288, table 2: 70B took 1,720,320 GPU-hours of A100 80 GB at
    /// 400 W and 291.42 t; 2T tokens. The grams a kilowatt-hour are those that its tonnes come to.
    #[test]
    fn llama_2_70b() {
        let mwh = 1_720_320.0 * 400.0 / 1e6;
        let estimate = plan(70e9, 2e12, "A100", 1.0, 291.42e6 / (mwh * 1e3)).estimate();
        holds("Llama 2 70B, GPU-hours", estimate.gpu_hours, 1_720_320.0, 1.5);
        holds("Llama 2 70B, MWh", estimate.energy_mwh, mwh, 1.5);
        holds("Llama 2 70B, t", estimate.emissions_t, 291.42, 1.5);
    }

    #[test]
    fn faults_name_their_flags() {
        let plan = Plan { gpus: 0, mfu: Some(1.5), pue: 0.9, ..plan(1e9, 1e9, "H100", 1.0, 100.0) };
        let faults = plan.faults();
        for (fault, flag) in faults.iter().zip(["--gpus", "--mfu", "--pue"]) {
            assert!(fault.starts_with(flag), "{faults:?}");
        }
        assert_eq!(faults.len(), 3);
    }

    #[test]
    fn an_estimate_in_words() {
        let tariff = Some(Tariff { per_kwh: 0.1, currency: "USD".to_owned() });
        let estimate = Plan { gpus: 10_000, tariff, ..plan(175e9, 300e9, "V100", 1.10, 429.0) }.estimate();
        insta::assert_snapshot!(text(&estimate));
    }

    #[test]
    fn no_line_is_wider_than_eighty_columns() {
        let tariff = Some(Tariff { per_kwh: 1e9, currency: "A-CURRENCY-NOBODY-HAS".to_owned() });
        let estimate = Plan { gpus: 1, tariff, ..plan(1e15, 1e15, "V100", 3.0, 1e4) }.estimate();
        for line in text(&estimate).lines() {
            assert!(line.chars().count() <= crate::words::table::WIDTH, "{line}");
        }
    }
}
