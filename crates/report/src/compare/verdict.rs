//! Which way of training reached the target with the least energy, or why none is named.
//!
//! Two energies differ if they are further apart than their random errors together (in quadrature), and than the
//! systematic errors that they do not share. A sensor's gain that both share moves both alike and cancels; where
//! one of several shared sensors saw the difference the other way round, it counts against the rest.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::conditions::Condition;
use crate::compare::contender::Contender;
use crate::compare::group::Group;
use crate::quantity::{percent, si};
use crate::report::Report;

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The group that reached the target with the least energy, by its place in `groups`; null if none is named.
    pub winner: Option<usize>,
    /// The verdict as sentences: by how much, or why not.
    pub reasons: Vec<String>,
}

impl Verdict {
    pub(crate) fn of(
        groups: &[Group],
        contenders: &[Contender],
        reports: &[Report],
        conditions: &[Condition],
    ) -> Self {
        let blocking: Vec<_> = conditions.iter().filter(|c| c.is_blocking).map(|c| c.what.clone()).collect();
        if !blocking.is_empty() {
            return Self { winner: None, reasons: blocking };
        }
        let mut reached: Vec<(usize, f64)> = groups
            .iter()
            .enumerate()
            .filter_map(|(i, group)| Some((i, group.energy_to_target_j?.mean)))
            .collect();
        reached.sort_by(|a, b| a.1.total_cmp(&b.1));
        let Some((first, _)) = reached.first().copied() else {
            return Self { winner: None, reasons: vec!["none of them reached the target".to_owned()] };
        };
        if groups.len() == 1 {
            let reason = "they differ in nothing but their seeds and names".to_owned();
            return Self { winner: None, reasons: vec![reason] };
        }
        let parties = Parties { groups, contenders, reports };
        let others: Vec<_> = reached[1..].iter().map(|(other, _)| parties.compare(first, *other)).collect();
        let doubts: Vec<_> =
            others.iter().filter_map(|outcome| Some(outcome.as_ref().err()?.sentence.clone())).collect();
        let is_clear = doubts.is_empty();
        let mut reasons = if is_clear { others.into_iter().filter_map(Result::ok).collect() } else { doubts };
        if is_clear {
            reasons.extend(parties.missing());
            reasons.extend(parties.one_seed());
        }
        Self { winner: is_clear.then_some(first), reasons }
    }
}

/// Why it cannot be said that one group needs less energy than another.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    /// In a few words, for a table.
    pub(super) short: &'static str,
    /// As a sentence.
    sentence: String,
}

/// All that a comparison of two groups is made from.
pub(super) struct Parties<'a> {
    pub(super) groups: &'a [Group],
    pub(super) contenders: &'a [Contender],
    pub(super) reports: &'a [Report],
}

impl Parties<'_> {
    /// By how much the first needs less than the other, or why that cannot be said.
    pub(super) fn compare(&self, first: usize, other: usize) -> Result<String, Doubt> {
        let (a, b) = (&self.groups[first], &self.groups[other]);
        let doubt = |short, sentence| Err(Doubt { short, sentence });
        let (Some(energy_a), Some(energy_b)) = (a.energy_to_target_j, b.energy_to_target_j) else {
            return doubt("not reached", format!("{} did not reach the target", b.label));
        };
        for group in [a, b] {
            if self.is_bound(group) {
                let sentence = format!("{} was below the target at its first evaluation", group.label);
                return doubt("below it at the first evaluation", sentence);
            }
        }
        let apart = energy_b.mean - energy_a.mean;
        let random = self.random(a).hypot(self.random(b));
        let systematic = self.systematic(a, b);
        if apart <= random + systematic {
            let (apart, random, systematic) = (si(apart, "J"), si(random, "J"), si(systematic, "J"));
            let sentence = format!(
                "{} and {} are {apart} apart, which may be error: ± {random} random, ± {systematic} systematic and not shared",
                a.label, b.label
            );
            return doubt("may be error", sentence);
        }
        if !energy_a.is_apart(&energy_b) {
            return doubt("seeds overlap", format!("seeds of {} and {} overlap", a.label, b.label));
        }
        Ok(format!("{} less than {}", percent(apart / energy_b.mean), b.label))
    }

    fn members(&self, group: &Group) -> impl Iterator<Item = (&Contender, &Report)> {
        group.runs.clone().into_iter().map(|i| (&self.contenders[i], &self.reports[i]))
    }

    fn is_bound(&self, group: &Group) -> bool {
        self.members(group).any(|(run, _)| run.to_target.is_some_and(|reached| reached.is_upper_bound))
    }

    /// Random half-width of a group's mean: each run's own, of its whole energy, which is no less than that of the
    /// way to the target.
    fn random(&self, group: &Group) -> f64 {
        let half_widths = self.members(group).filter_map(|(run, _)| run.energy_uncertainty_j);
        let squares: f64 = half_widths.map(|half_width| half_width.get().powi(2)).sum();
        squares.sqrt() / group.runs.len() as f64
    }

    /// Systematic errors that do not cancel between two groups.
    fn systematic(&self, a: &Group, b: &Group) -> f64 {
        let (a, b) = (self.by_sensor(a), self.by_sensor(b));
        let total = |sensors: &Sensors| sensors.values().map(|(energy, _)| energy).sum::<f64>();
        let sign = (total(&b) - total(&a)).signum();
        let ids: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
        let error = |id: &String| match (a.get(id), b.get(id)) {
            (Some((energy_a, fraction)), Some((energy_b, _))) => {
                let difference = energy_b - energy_a;
                if difference * sign < 0.0 { fraction * difference.abs() } else { 0.0 }
            }
            (Some((energy, fraction)), None) | (None, Some((energy, fraction))) => energy * fraction,
            (None, None) => 0.0,
        };
        ids.into_iter().map(error).sum()
    }

    /// Mean energy on the way to the target by source of systematic error, with its bound. Each sensor is taken
    /// to have the same share of it as of the whole run.
    fn by_sensor(&self, group: &Group) -> Sensors {
        let mut sensors = Sensors::new();
        for (run, report) in self.members(group) {
            let Some(reached) = run.to_target else { continue };
            let share = reached.at.energy_j.get() / run.energy_j.get().max(f64::MIN_POSITIVE);
            for sensor in &report.sensors {
                let entry = sensors.entry(sensor.systematic_id.clone()).or_default();
                entry.0 += sensor.energy_j.get() * share / group.runs.len() as f64;
                entry.1 = sensor.systematic_fraction.max(entry.1);
            }
        }
        sensors
    }

    /// Who did not reach the target.
    fn missing(&self) -> Option<String> {
        let missing = self.groups.iter().filter(|group| group.energy_to_target_j.is_none());
        let labels: Vec<_> = missing.map(|group| group.label.as_str()).collect();
        (!labels.is_empty()).then(|| format!("{} did not reach the target", labels.join(" and ")))
    }

    /// A caveat where chance has not been looked at.
    fn one_seed(&self) -> Option<String> {
        let is_single = self.groups.iter().all(|group| group.runs.len() == 1);
        is_single.then(|| {
            "one seed each: other seeds, by run.seed, would tell how much of it is chance".to_owned()
        })
    }
}

/// Energy and bound on its systematic error, by `systematic_id`.
type Sensors = BTreeMap<String, (f64, f64)>;

#[cfg(test)]
mod tests {
    use crate::compare::Comparison;
    use crate::report::Report;
    use crate::run::Run;
    use crate::synthetic::SyntheticRun;

    fn compare(synthetic: &[SyntheticRun]) -> Comparison {
        let dir = tempfile::tempdir().unwrap();
        let write = |(i, run): (usize, &SyntheticRun)| run.write(&dir.path().join(format!("run-{i}")));
        let runs: Vec<Run> = synthetic.iter().enumerate().map(write).collect();
        let reports: Vec<_> = runs.iter().map(|run| Report::of(run, None).unwrap()).collect();
        Comparison::of(&runs, &reports, None)
    }

    fn small() -> SyntheticRun {
        SyntheticRun::small()
    }

    fn thrifty() -> SyntheticRun {
        SyntheticRun { watts: 80.0, learning_rate: 0.001, ..small() }
    }

    #[test]
    fn a_clear_difference_has_a_winner() {
        let comparison = compare(&[small(), thrifty()]);
        assert_eq!(comparison.verdict.winner, Some(1), "{:?}", comparison.verdict);
        assert!(comparison.verdict.reasons[0].starts_with("20.0 % less than run-0"));
        assert!(comparison.verdict.reasons[1].contains("one seed each"));
        assert_eq!(comparison.differences.len(), 1);
        assert_eq!(comparison.differences[0].key, "optimizer.learning_rate");
    }

    #[test]
    fn a_gain_that_is_not_shared_counts_and_a_shared_one_cancels() {
        let other_sensor = SyntheticRun { systematic: ("rapl:package", 0.25), ..thrifty() };
        let verdict = compare(&[small(), other_sensor.clone()]).verdict;
        assert_eq!(verdict.winner, None);
        assert!(verdict.reasons[0].contains("may be error"), "{:?}", verdict.reasons);
        let same_sensor = SyntheticRun { systematic: ("rapl:package", 0.25), ..small() };
        assert_eq!(compare(&[same_sensor, other_sensor]).verdict.winner, Some(1));
    }

    #[test]
    fn what_is_within_random_error_has_no_winner() {
        let close = SyntheticRun { watts: 99.9, learning_rate: 0.001, ..small() };
        assert_eq!(compare(&[small(), close]).verdict.winner, None);
    }

    #[test]
    fn conditions_that_differ_forbid_a_verdict() {
        let cases = [
            (SyntheticRun { data_sha256: "data-2", ..thrifty() }, "different data"),
            (SyntheticRun { power_limit_w: Some(300.0), ..thrifty() }, "power limits"),
            (SyntheticRun { method: "estimated", ..thrifty() }, "mixed"),
        ];
        for (other, reason) in cases {
            let verdict = compare(&[small(), other]).verdict;
            assert_eq!(verdict.winner, None, "{reason}");
            assert!(verdict.reasons.iter().any(|r| r.contains(reason)), "{reason}: {:?}", verdict.reasons);
        }
    }

    #[test]
    fn another_board_or_a_hot_one_forbids_a_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let runs = [small().write(&dir.path().join("a")), thrifty().write(&dir.path().join("b"))];
        let reports = || [0, 1].map(|i: usize| Report::of(&runs[i], None).unwrap());
        assert_eq!(Comparison::of(&runs, &reports(), None).verdict.winner, Some(1));
        let mut hot = reports();
        hot[1].sensors[0].throttle = vec!["gpu_idle".to_owned(), "sw_thermal_slowdown".to_owned()];
        let verdict = Comparison::of(&runs, &hot, None).verdict;
        assert_eq!(verdict.reasons, ["clocks were held back in some of them: a none; b sw thermal slowdown"]);
        let mut other = reports();
        other[1].provenance.sensors[0].description = "NVIDIA A100 at 00000000:01:00.0: power".to_owned();
        let verdict = Comparison::of(&runs, &other, None).verdict;
        assert_eq!(verdict.reasons, ["they ran on different devices: a NVIDIA H200; b NVIDIA A100"]);
        assert_eq!(verdict.winner, None);
    }

    #[test]
    fn boards_that_were_not_equally_warm_forbid_a_verdict_on_short_runs() {
        let at = |degrees, run| SyntheticRun { degrees: Some(degrees), ..run };
        let verdict = compare(&[at(31.0, small()), at(58.0, thrifty())]).verdict;
        assert_eq!(verdict.winner, None);
        assert!(verdict.reasons[0].contains("run-0 31 °C; run-1 58 °C"), "{:?}", verdict.reasons);
        let comparison = compare(&[at(51.0, small()), at(58.0, thrifty())]);
        assert_eq!(comparison.verdict.winner, Some(1));
        assert_eq!(comparison.savings.len(), 1);
        assert!((comparison.savings[0].fraction - 0.2).abs() < 1e-3, "{:?}", comparison.savings);
        assert!(compare(&[at(31.0, small()), at(58.0, thrifty())]).savings.is_empty());
    }

    #[test]
    fn estimated_energies_are_said_to_be() {
        let estimated = |run: SyntheticRun| SyntheticRun { method: "estimated", ..run };
        let comparison = compare(&[estimated(small()), estimated(thrifty())]);
        let said = |c: &crate::compare::Condition| c.what.contains("no sensor measured") && !c.is_blocking;
        assert!(comparison.conditions.iter().any(said), "{:?}", comparison.conditions);
        assert!(!compare(&[small(), thrifty()]).conditions.iter().any(said));
    }

    #[test]
    fn seeds_of_one_way_are_one_group() {
        let seeds = |run: SyntheticRun| [1, 2, 3].map(|seed| SyntheticRun { seed, name: "x", ..run.clone() });
        let comparison = compare(&[seeds(small()), seeds(thrifty())].concat());
        assert_eq!(comparison.groups.iter().map(|group| group.runs.len()).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(comparison.verdict.winner, Some(1), "{:?}", comparison.verdict);
        assert_eq!(comparison.verdict.reasons.len(), 1);
        let loss = comparison.groups[0].best_loss.unwrap();
        assert!((loss.high - loss.low - 2e-3).abs() < 1e-9);
    }

    #[test]
    fn a_run_that_did_not_get_there_is_said_to() {
        let poor = SyntheticRun { floor: 3.0, learning_rate: 0.1, ..small() };
        let dir = tempfile::tempdir().unwrap();
        let runs = [small().write(&dir.path().join("a")), poor.write(&dir.path().join("b"))];
        let reports = [0, 1].map(|i: usize| Report::of(&runs[i], None).unwrap());
        let comparison = Comparison::of(&runs, &reports, Some(2.6));
        assert_eq!(comparison.verdict.winner, Some(0));
        assert!(comparison.verdict.reasons[0].contains("b did not reach"), "{:?}", comparison.verdict);
        // The default target is one that all of them reached.
        let worst = Comparison::of(&runs, &reports, None);
        assert!(worst.runs.iter().all(|run| run.to_target.is_some()));
        assert!(worst.target.unwrap().is_default);
    }
}
