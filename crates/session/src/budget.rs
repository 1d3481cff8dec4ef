//! Whether a run is over its budget, and whether it will be.

use wattle_meter::Used;
use wattle_meter::books::projection::{Fit, Projection, Projector};
use wattle_report::words::quantity::{count, joules};
use wattle_runlog::Joules;
use wattle_runlog::beside::{Fits, Projected};

use crate::config::BudgetConfig;

/// Chunks of steps in an epoch whose energy is noted, so that the first epoch's end can tell.
const CHUNKS_AN_EPOCH: u64 = 8;

/// The `budget` section beside a run.
pub struct Budget {
    limits: BudgetConfig,
    projector: Projector,
    total_steps: u64,
    chunk_steps: u64,
    /// The step from which on energy is noted next.
    next_note: u64,
    is_told: bool,
    /// What pauses used: no step's energy.
    paused: Joules,
}

impl Budget {
    /// The budget of a run of `total_steps` steps, `steps_per_epoch` in an epoch.
    pub fn new(limits: BudgetConfig, total_steps: u64, steps_per_epoch: u64) -> Self {
        let chunk_steps = (steps_per_epoch.min(total_steps) / CHUNKS_AN_EPOCH).max(1);
        let projector = Projector::new(total_steps);
        Self {
            limits,
            projector,
            total_steps,
            chunk_steps,
            next_note: 0,
            is_told: false,
            paused: Joules::ZERO,
        }
    }

    /// Whether there is any limit.
    pub fn is_set(&self) -> bool {
        let BudgetConfig { max_energy_kwh, max_emissions_g, max_cost } = self.limits;
        max_energy_kwh.is_some() || max_emissions_g.is_some() || max_cost.is_some()
    }

    /// What there is to say if the run has to end now: a limit has been reached, or would be passed if the run used as
    /// much as `ahead` beyond `used`.
    pub fn end(&self, used: &Used, ahead: Joules) -> Option<String> {
        let limit = self
            .shares(used)
            .into_iter()
            .find(|limit| limit.used >= limit.allowed || used.energy + ahead > limit.in_joules(used))?;
        Some(format!(
            "budget.{} = {}: {} of {} are used, and another step with the last checkpoint takes about {}; \
             leaving a checkpoint",
            limit.key,
            limit.allowed,
            joules(used.energy),
            joules(limit.in_joules(used)),
            joules(ahead)
        ))
    }

    /// After `step` steps the run has used `used`.
    pub fn note(&mut self, step: u64, used: &Used) {
        if step >= self.next_note {
            self.projector.note(step, used.energy - self.paused);
            self.next_note = (step / self.chunk_steps + 1) * self.chunk_steps;
        }
    }

    /// A pause used `energy`.
    pub fn pause(&mut self, energy: Joules) {
        self.paused += energy;
    }

    /// What the run will come to after `step` steps, with what comes after its last step; `None` until its steps tell.
    fn project(&self, step: u64, ending: Joules) -> Option<Projection> {
        let projection = self.projector.project().filter(|_| step < self.total_steps)?;
        Some(Projection { energy: projection.energy + ending + self.paused, ..projection })
    }

    /// The same for a record, held against the tightest limit.
    pub fn projected(&self, step: u64, used: &Used, ending: Joules) -> Option<Projected> {
        let projection = self.project(step, ending)?;
        let limits = self.shares(used).into_iter().map(|limit| limit.in_joules(used));
        let budget =
            limits.filter(|joules| joules.get().is_finite()).reduce(|a, b| if b < a { b } else { a });
        let fits = |limit| match projection.against(limit) {
            Fit::Fits => Fits::Yes,
            Fit::Unsure => Fits::Unsure,
            Fit::DoesNot => Fits::No,
        };
        Some(Projected {
            step,
            total_steps: self.total_steps,
            energy_j: projection.energy,
            uncertainty_j: projection.half_width,
            budget_j: budget,
            fits: budget.map(fits),
        })
    }

    /// What there is to say, once, if the run will not fit. From the first epoch's end on. `ending` is what comes after
    /// the last step.
    pub fn warning(&mut self, step: u64, used: &Used, ending: Joules) -> Option<String> {
        let projection = self.project(step, ending).filter(|_| !self.is_told)?;
        let shares = self.shares(used);
        let limit = shares.iter().find(|limit| projection.against(limit.in_joules(used)) == Fit::DoesNot)?;
        self.is_told = true;
        let (allowed, energy) = (limit.in_joules(used), projection.energy);
        let last_step = step as f64
            + (self.total_steps - step) as f64 * ((allowed - used.energy) / (energy - used.energy)).max(0.0);
        Some(format!(
            "the run will not fit into budget.{} = {}: its steps and its end come to {} ± {}, {} are allowed; \
             it will end with a checkpoint near step {} of {}",
            limit.key,
            limit.allowed,
            joules(energy),
            joules(projection.half_width),
            joules(allowed),
            count(last_step as u64),
            count(self.total_steps)
        ))
    }

    fn shares(&self, used: &Used) -> Vec<Share> {
        let BudgetConfig { max_energy_kwh, max_emissions_g, max_cost } = self.limits;
        [
            ("max_energy_kwh", max_energy_kwh, used.facility_kwh, used.energy),
            ("max_emissions_g", max_emissions_g, used.emissions.get(), used.energy),
            ("max_cost", max_cost, used.cost.unwrap_or(0.0), used.priced),
        ]
        .into_iter()
        .filter_map(|(key, allowed, used, by)| Some(Share { key, allowed: allowed?, used, by }))
        .collect()
    }
}

/// One limit, and how much of it is used, in its own unit.
struct Share {
    key: &'static str,
    allowed: f64,
    used: f64,
    /// The energy that used it.
    by: Joules,
}

impl Share {
    /// The energy that would use it up at the rate so far.
    fn in_joules(&self, used: &Used) -> Joules {
        if self.used > 0.0 {
            used.energy - self.by + self.by * (self.allowed / self.used)
        } else {
            Joules(f64::INFINITY)
        }
    }
}

#[cfg(test)]
mod tests {
    use wattle_runlog::GramsCo2e;

    use super::*;

    fn used(joules: f64) -> Used {
        let kwh = joules / 3.6e6;
        Used {
            energy: Joules(joules),
            facility_kwh: kwh,
            emissions: GramsCo2e(kwh * 100.0),
            cost: Some(kwh * 0.5),
            priced: Joules(joules),
        }
    }

    /// A run of 100 steps at a kilojoule each, with its first epoch of 40 steps made.
    fn after_an_epoch(limits: BudgetConfig) -> Budget {
        let mut budget = Budget::new(limits, 100, 40);
        (1..=40u32).for_each(|step| budget.note(u64::from(step), &used(f64::from(step) * 1000.0)));
        budget
    }

    #[test]
    fn a_run_that_will_not_fit_is_told_once_with_the_limit_and_the_step() {
        let limits = BudgetConfig { max_emissions_g: Some(2.0), ..BudgetConfig::default() };
        let mut budget = after_an_epoch(limits);
        assert_eq!(budget.end(&used(40_000.0), Joules(1000.0)), None);
        // 2 g at 100 g/kWh are 72 kJ: step 72.
        let told = budget.warning(40, &used(40_000.0), Joules::ZERO).unwrap();
        assert!(
            told.contains("budget.max_emissions_g = 2") && told.contains("near step 72 of 100"),
            "{told}"
        );
        assert_eq!(budget.warning(40, &used(40_000.0), Joules::ZERO), None);
        assert!(budget.end(&used(72_000.1), Joules::ZERO).is_some());
    }

    #[test]
    fn a_record_keeps_what_the_run_will_come_to_with_its_end_and_the_tightest_limit() {
        let limits =
            BudgetConfig { max_emissions_g: Some(2.8), max_cost: Some(1.0), ..BudgetConfig::default() };
        let budget = after_an_epoch(limits);
        let (used, ending) = (used(40_000.0), Joules(900.0));
        let projected = budget.projected(40, &used, ending).unwrap();
        assert_eq!((projected.step, projected.total_steps), (40, 100));
        assert!((projected.energy_j.get() - 100_900.0).abs() < 1e-3, "{projected:?}");
        // 2.8 g at 100 g/kWh are 100.8 kJ: without its end the run would fit.
        assert!((projected.budget_j.unwrap().get() - 100_800.0).abs() < 1e-3, "{projected:?}");
        assert_eq!(projected.fits, Some(Fits::No));
        assert_eq!(budget.projected(40, &used, Joules::ZERO).unwrap().fits, Some(Fits::Yes));
        assert_eq!(budget.projected(100, &used, ending), None, "it is over");
        let without = after_an_epoch(BudgetConfig::default()).projected(40, &used, ending).unwrap();
        assert_eq!((without.budget_j, without.fits), (None, None));
    }

    #[test]
    fn a_run_ends_while_its_last_checkpoint_still_fits() {
        let limits = BudgetConfig { max_energy_kwh: Some(1e-3), ..BudgetConfig::default() };
        let budget = Budget::new(limits, 100, 40);
        // 3.6 kJ allowed; a step of 45 J and a checkpoint of 250 J are ahead.
        let ahead = Joules(295.0);
        assert_eq!(budget.end(&used(3300.0), ahead), None);
        let told = budget.end(&used(3310.0), ahead).unwrap();
        assert!(told.contains("budget.max_energy_kwh = 0.001") && told.contains("295 J"), "{told}");
        assert_eq!(Budget::new(BudgetConfig::default(), 10, 5).end(&used(1e9), ahead), None);
    }

    #[test]
    fn energy_is_noted_also_where_steps_are_told_many_at_a_time() {
        let limits = BudgetConfig { max_emissions_g: Some(2.0), ..BudgetConfig::default() };
        let mut budget = Budget::new(limits, 100, 40);
        [1, 7, 13, 19, 25, 31, 37, 40].into_iter().for_each(|step| {
            budget.note(step, &used(step as f64 * 1000.0));
        });
        assert!(budget.warning(40, &used(40_000.0), Joules::ZERO).is_some());
    }

    #[test]
    fn a_run_that_fits_is_left_in_peace() {
        let limits =
            BudgetConfig { max_energy_kwh: Some(1.0), max_cost: Some(1.0), ..BudgetConfig::default() };
        assert_eq!(after_an_epoch(limits).warning(40, &used(40_000.0), Joules::ZERO), None);
        assert!(!Budget::new(BudgetConfig::default(), 10, 5).is_set());
    }
}
