//! Which way of training reached the target with the least energy, or why none is named.
//!
//! Two energies differ if they are further apart than their random errors together (in quadrature), and than the
//! systematic errors that they do not share. A sensor's gain that both share moves both alike and cancels; where
//! one of several shared sensors saw the difference the other way round, it counts against the rest.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::conditions::{Condition, unmetered_words};
use crate::compare::contender::Contender;
use crate::compare::group::Group;
use crate::compare::measure::Measure;
use crate::compare::spread::Spread;
use crate::compare::target::Target;
use crate::compare::unmeasured::{self, Unmeasured};
use crate::join::report::Report;
use crate::words::quantity::{loss, percent, si};

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The group that reached the target with the least energy, by its place in `groups`; null if none is named.
    pub winner: Option<usize>,
    /// The verdict as sentences: by how much, or why not.
    pub reasons: Vec<String>,
}

impl Verdict {
    pub(super) fn of(parties: &Parties<'_>, conditions: &[Condition]) -> Self {
        let Parties { groups, contenders, .. } = parties;
        let none = |reasons| Self { winner: None, reasons };
        let unmetered: Vec<_> = contenders.iter().filter_map(unmetered_words).collect();
        let blocking = conditions.iter().filter(|c| c.is_blocking).map(|c| c.what.clone());
        let blocking: Vec<_> = unmetered.iter().cloned().chain(blocking).collect();
        if blocking.len() > unmetered.len() {
            return none(blocking);
        }
        let mut reached: Vec<(usize, f64)> = groups
            .iter()
            .enumerate()
            .filter_map(|(i, group)| Some((i, group.energy_to_target_j?.mean)))
            .collect();
        reached.sort_by(|a, b| a.1.total_cmp(&b.1));
        let n_metered = groups.iter().filter(|group| parties.is_metered(group)).count();
        let why_none = match reached.first() {
            None if n_metered > 0 => parties.missing(),
            None => None,
            Some(_) if groups.len() == 1 => {
                Some("they differ in nothing but their seeds and names".to_owned())
            }
            Some((first, _)) if n_metered == 1 => Some(format!(
                "{} alone was metered: there is nothing to compare it with",
                groups[*first].label
            )),
            Some((first, _)) => return parties.rank(*first, &reached[1..], unmetered),
        };
        none(unmetered.into_iter().chain(why_none).collect())
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
    pub(super) target: Option<&'a Target>,
    pub(super) measure: Measure,
}

impl Parties<'_> {
    /// Compares the first with all others that reached the target.
    fn rank(&self, first: usize, others: &[(usize, f64)], unmetered: Vec<String>) -> Verdict {
        let others: Vec<_> = others.iter().map(|(other, _)| self.compare(first, *other)).collect();
        let doubts: Vec<_> =
            others.iter().filter_map(|outcome| Some(outcome.as_ref().err()?.sentence.clone())).collect();
        let is_clear = doubts.is_empty();
        let mut reasons = unmetered;
        reasons.extend(if is_clear { others.into_iter().filter_map(Result::ok).collect() } else { doubts });
        if is_clear {
            reasons.extend(self.missing());
            reasons.extend(self.one_seed());
        }
        Verdict { winner: is_clear.then_some(first), reasons }
    }

    /// By how much the first needs less than the other, or why that cannot be said.
    pub(super) fn compare(&self, first: usize, other: usize) -> Result<String, Doubt> {
        let (a, b) = (&self.groups[first], &self.groups[other]);
        let doubt = |short, sentence| Err(Doubt { short, sentence });
        let (Some(energy_a), Some(energy_b)) = (a.energy_to_target_j, b.energy_to_target_j) else {
            return doubt("not reached", format!("{} did not reach the target", b.label));
        };
        for group in [a, b] {
            if let Some(first) = self.below_at_first(group) {
                let (label, target) = (&group.label, self.target_words());
                let sentence =
                    format!("{label} was below the target at its first evaluation: {first}{target}");
                return doubt("below it at the first evaluation", sentence);
            }
        }
        let apart = energy_b.mean - energy_a.mean;
        let open = unmeasured::between(self.weighted(a), self.weighted(b));
        if let Some(doubt) = self.unmeasured(a, b, apart, open) {
            return Err(doubt);
        }
        let random = self.random(a).zip(self.random(b)).map(|(a, b)| a.hypot(b));
        let systematic = self.systematic(a, b) + open.mixed + open.disturbed;
        if apart <= random.unwrap_or(0.0) + systematic {
            let random =
                random.map_or("random error unknown".to_owned(), |e| format!("± {} random", si(e, "J")));
            let (apart, systematic) = (si(apart, "J"), si(systematic, "J"));
            let sentence = format!(
                "{} and {} are {apart} apart, which may be error: {random}, ± {systematic} systematic and not shared",
                a.label, b.label
            );
            return doubt("may be error", sentence);
        }
        if !energy_a.is_apart(&energy_b) {
            let spread = |group: &Group, spread: Spread| format!("{} ({})", group.label, spread.words("J"));
            let sentence = format!("seeds of {} and {} overlap", spread(a, energy_a), spread(b, energy_b));
            return doubt("seeds overlap", sentence);
        }
        Ok(format!("{} less than {}", percent(apart / energy_b.mean), b.label))
    }

    /// The doubt to raise if the unmeasured part can account for the whole difference.
    fn unmeasured(&self, a: &Group, b: &Group, apart: f64, open: Unmeasured) -> Option<Doubt> {
        let shares = [a, b].map(|group| {
            let fraction = Spread::of(self.members(group).map(|(run, _)| Some(run.measured_fraction)));
            format!("{} {}", group.label, fraction.map_or("?".to_owned(), |share| percent(share.mean)))
        });
        let apart_words = si(apart, "J");
        if open.mixed >= apart {
            let (shares, open) = (shares.join(", "), si(open.mixed, "J"));
            let sentence = format!(
                "measured and estimated energies are mixed (measured: {shares}): {open} come from kinds of \
                 device that only one of them measured, while they are {apart_words} apart"
            );
            return Some(Doubt { short: "measured against estimated", sentence });
        }
        (open.disturbed >= apart).then(|| {
            let (labels, open) = (format!("{} and {}", a.label, b.label), si(open.disturbed, "J"));
            let sentence = format!(
                "other processes disturbed the estimates of {labels}: they may be off by {open}, while they \
                 are {apart_words} apart"
            );
            Doubt { short: "estimates were disturbed", sentence }
        })
    }

    fn members(&self, group: &Group) -> impl Iterator<Item = (&Contender, &Report)> {
        group.runs.clone().into_iter().map(|i| (&self.contenders[i], &self.reports[i]))
    }

    fn is_metered(&self, group: &Group) -> bool {
        self.members(group).all(|(run, _)| run.is_metered())
    }

    /// A group's runs, each with the factor that turns its total energy into its part of the group's mean energy to
    /// the target.
    fn weighted(&self, group: &Group) -> impl Iterator<Item = (f64, &Report)> {
        let n_runs = group.runs.len() as f64;
        let weight = move |run: &Contender| {
            let reached = run.to_target.map_or(0.0, |reached| reached.at.energy_j.get());
            reached / run.energy_j.get().max(f64::MIN_POSITIVE) / n_runs
        };
        self.members(group).map(move |(run, report)| (weight(run), report))
    }

    /// The first evaluation's loss of a run that was already below the target there.
    fn below_at_first(&self, group: &Group) -> Option<String> {
        let is_bound = |run: &Contender| run.to_target.is_some_and(|reached| reached.is_upper_bound);
        let (_, report) = self.members(group).find(|(run, _)| is_bound(run))?;
        let first = report.learning.evaluations.first()?;
        Some(loss(self.measure.loss(first)))
    }

    /// ` against 2.600`
    fn target_words(&self) -> String {
        self.target.map_or(String::new(), |target| format!(" against {}", loss(target.loss)))
    }

    /// Random half-width of a group's mean: each run's own, of its whole energy, which is no less than that of the
    /// way to the target. `None` where one of them is unknown.
    fn random(&self, group: &Group) -> Option<f64> {
        let half_widths: Option<Vec<f64>> =
            self.members(group).map(|(run, _)| Some(run.energy_uncertainty_j?.get())).collect();
        let squares: f64 = half_widths?.iter().map(|half_width| half_width.powi(2)).sum();
        Some(squares.sqrt() / group.runs.len() as f64)
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
        for (weight, report) in self.weighted(group) {
            for sensor in &report.sensors {
                let entry = sensors.entry(sensor.systematic_id.clone()).or_default();
                entry.0 += sensor.energy_j.get() * weight;
                entry.1 = sensor.systematic_fraction.max(entry.1);
            }
        }
        sensors
    }

    /// Which metered groups missed the target, and their best losses.
    fn missing(&self) -> Option<String> {
        let missing = self.groups.iter().filter(|g| g.energy_to_target_j.is_none() && self.is_metered(g));
        let words = |group: &Group| match group.best_loss {
            Some(best) => format!("{} ({} at best)", group.label, loss(best.low)),
            None => group.label.clone(),
        };
        let words: Vec<_> = missing.map(words).collect();
        let target = self.target.map_or(String::new(), |target| format!(" of {}", loss(target.loss)));
        (!words.is_empty()).then(|| format!("{} did not reach the target{target}", words.join(" and ")))
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
    use crate::join::report::Report;
    use crate::join::run::Run;
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
    fn a_power_limit_that_is_all_that_differs_is_what_is_compared() {
        let at = |watts, limit| SyntheticRun { watts, power_limit_w: Some(limit), name: "same", ..small() };
        let comparison = compare(&[at(100.0, 700.0), at(80.0, 400.0)]);
        assert_eq!(comparison.verdict.winner, Some(1), "{:?}", comparison.verdict);
        assert_eq!(comparison.groups.len(), 2);
        let said = "boards were held to different power limits: run-0 700 W; run-1 400 W";
        assert!(comparison.conditions.iter().any(|c| c.what == said && !c.is_blocking));
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
    fn a_run_that_was_not_metered_is_in_no_comparison_of_energy() {
        // By its recorded energy it would be the cheapest by far.
        let dark = SyntheticRun::unmetered;
        let comparison = compare(&[dark(), small(), thrifty()]);
        assert_eq!(comparison.verdict.winner, Some(2), "{:?}", comparison.verdict);
        assert!(
            comparison.verdict.reasons[0].starts_with("run-0 trained on cuda:0, which no sensor measured")
        );
        assert_eq!(comparison.pareto_front, [2]);
        assert!(comparison.groups[0].energy_j.is_none() && comparison.groups[0].energy_to_target_j.is_none());
        assert!(comparison.savings.is_empty(), "there is nothing to hold the others against");
        let json: serde_json::Value = serde_json::from_str(&comparison.to_json()).unwrap();
        assert!(
            json["runs"][0]["to_target"]["energy_j"].is_null() && json["runs"][0]["to_target"]["step"] == 40
        );
        let with_one = compare(&[dark(), small()]).verdict;
        assert_eq!(with_one.winner, None);
        assert!(with_one.reasons[1].contains("run-1 alone was metered"), "{:?}", with_one.reasons);
        let alone = compare(&[dark(), SyntheticRun { learning_rate: 0.5, ..dark() }]).verdict;
        assert_eq!((alone.winner, alone.reasons.len()), (None, 2));
        // An unmetered run with a worse loss does not change the default target.
        let poor = SyntheticRun { floor: 3.0, ..dark() };
        let others = compare(&[small(), thrifty()]);
        assert_eq!(compare(&[small(), thrifty(), poor]).target, others.target);
    }

    #[test]
    fn a_share_that_was_estimated_counts_by_what_it_may_make_of_the_difference() {
        let host = |host_share, run| SyntheticRun { host_share, is_contended: false, ..run };
        let comparison = compare(&[host(0.023, small()), host(0.057, thrifty())]);
        assert_eq!(comparison.verdict.winner, Some(1), "{:?}", comparison.verdict);
        let said = "different shares of their energy were measured: run-0 97.7 %; run-1 94.3 %";
        assert!(comparison.conditions.iter().any(|c| c.what == said && !c.is_blocking));
        // Energy that one run measured and the other estimated cannot be compared.
        let estimated = SyntheticRun { method: "estimated", ..thrifty() };
        let mixed = compare(&[small(), estimated]).verdict;
        let reason = "measured and estimated energies are mixed (measured: run-1 0.0 %, run-0 100 %)";
        assert!(mixed.reasons[0].starts_with(reason), "{:?}", mixed.reasons);
        assert!(mixed.reasons[0].ends_with("while they are 121 J apart"), "{:?}", mixed.reasons);
        // Disturbed estimates have independent errors up to their bound.
        let disturbed = |run| SyntheticRun { method: "estimated", systematic: ("estimate:gpu", 0.5), ..run };
        let verdict = compare(&[disturbed(small()), disturbed(thrifty())]).verdict;
        assert!(
            verdict.reasons[0].starts_with("other processes disturbed the estimates"),
            "{:?}",
            verdict.reasons
        );
        let quiet = |run| SyntheticRun { is_contended: false, ..disturbed(run) };
        assert_eq!(compare(&[quiet(small()), quiet(thrifty())]).verdict.winner, Some(1));
    }

    #[test]
    fn what_held_the_clocks_of_all_back_sets_none_apart() {
        let at_limit = |throttle, run| SyntheticRun { throttle, power_limit_w: Some(700.0), ..run };
        let cap: &[&str] = &["sw_power_cap"];
        let both = compare(&[at_limit(cap, small()), at_limit(cap, thrifty())]);
        assert_eq!(both.verdict.winner, Some(1), "{:?}", both.verdict);
        assert!(!both.conditions.iter().any(|c| c.what.contains("clocks")), "{:?}", both.conditions);
        let one = compare(&[at_limit(cap, small()), at_limit(&[], thrifty())]);
        assert_eq!(one.verdict.winner, Some(1), "a board that is kept busy is at its limit");
        let said =
            "the power limit held clocks back in some of them: run-0 sw power cap at 700 W; run-1 none";
        assert!(one.conditions.iter().any(|c| c.what == said), "{:?}", one.conditions);
        let hot: &[&str] = &["sw_power_cap", "sw_thermal_slowdown"];
        let verdict = compare(&[at_limit(cap, small()), at_limit(hot, thrifty())]).verdict;
        let said = "clocks were held back in some of them: run-0 none; run-1 sw thermal slowdown at 700 W";
        assert_eq!(verdict.reasons, [said]);
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
        assert!(
            comparison.verdict.reasons[0].contains("b (3.542 at best) did not reach"),
            "{:?}",
            comparison.verdict
        );
        // The default target is one that all of them reached.
        let worst = Comparison::of(&runs, &reports, None);
        assert!(worst.runs.iter().all(|run| run.to_target.is_some()));
        assert!(worst.target.unwrap().is_default);
    }
}
