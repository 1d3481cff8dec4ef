//! Runs side by side: which way cost least for the same result. As JSON this is `wattle.compare/1`.
//!
//! A winner is named only where the runs may be compared at all and differ by more than they may be off: see
//! [`conditions`] and [`verdict`].

pub mod conditions;
pub mod contender;
pub mod difference;
pub mod group;
pub mod measure;
pub mod metric;
pub mod saving;
pub mod spread;
pub mod target;
pub mod verdict;

mod keys;
mod page;
mod text;
mod unmeasured;

use serde::Serialize;

use crate::error::ReportError;
use crate::join::report::Report;
use crate::join::run::Run;
pub use conditions::Condition;
pub use contender::Contender;
use difference::Change;
pub use difference::Difference;
pub use group::Group;
pub use measure::Measure;
pub use metric::Metric;
pub use page::page;
pub use saving::Saving;
pub use target::{Reached, Target};
pub use text::text;
use verdict::Parties;
pub use verdict::Verdict;

/// Name and version of the format of a comparison.
pub const COMPARE_SCHEMA: &str = "wattle.compare/1";

/// Runs side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// [`COMPARE_SCHEMA`].
    pub schema: &'static str,
    /// In what every loss here is stated.
    pub measure: Measure,
    /// The score of which shares of wrong items stand for losses here; absent where losses are losses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// The loss to which the way is compared; null where no run has an evaluation.
    pub target: Option<Target>,
    /// Every run, in the order in which they were given.
    pub runs: Vec<Contender>,
    /// Runs that differ in nothing but their seed and name, together.
    pub groups: Vec<Group>,
    /// Keys of the configuration that differ.
    pub differences: Vec<Difference>,
    /// What else differs.
    pub conditions: Vec<Condition>,
    /// Groups that no other beats in both validation loss and energy, by their place in `groups`.
    pub pareto_front: Vec<usize>,
    /// The groups after the first, against it.
    pub savings: Vec<Saving>,
    /// Which group reached the target with the least energy, or why none is named.
    pub verdict: Verdict,
}

impl Comparison {
    /// Compares runs on their way to a validation loss; without one, to the worst of their best.
    pub fn of(runs: &[Run], reports: &[Report], target_loss: Option<f64>) -> Self {
        Self::in_measure(runs, reports, target_loss, Measure::of(reports), None)
    }

    /// Compares runs on their way to a score; without one, to the lowest of their best. Also returns the reports that it
    /// was made from, which have shares of wrong items for losses.
    ///
    /// # Errors
    /// If a run was never scored so.
    pub fn by_metric(
        runs: &[Run],
        reports: &[Report],
        metric: Metric,
        target_score: Option<f64>,
    ) -> Result<(Self, Vec<Report>), ReportError> {
        let reports: Vec<Report> =
            reports.iter().map(|report| metric.for_losses(report)).collect::<Result<_, _>>()?;
        let target = target_score.map(|score| 1.0 - score);
        let comparison = Self::in_measure(runs, &reports, target, Measure::ErrorRate, Some(metric));
        Ok((comparison, reports))
    }

    fn in_measure(
        runs: &[Run],
        reports: &[Report],
        target_loss: Option<f64>,
        measure: Measure,
        metric: Option<Metric>,
    ) -> Self {
        let labels = contender::labels(runs);
        let target = Target::of(reports, target_loss, measure);
        let contenders: Vec<_> = labels
            .into_iter()
            .zip(reports)
            .map(|(label, report)| Contender::of(label, report, target.as_ref(), measure))
            .collect();
        let groups = group::groups(reports, &contenders);
        let mut conditions = conditions::conditions(reports, &contenders);
        conditions.extend(metric.as_ref().and_then(|metric| metric.other_items(reports, &contenders)));
        let parties =
            Parties { groups: &groups, contenders: &contenders, reports, target: target.as_ref(), measure };
        let verdict = Verdict::of(&parties, &conditions);
        let savings = saving::savings(&parties, &conditions);
        Self {
            schema: COMPARE_SCHEMA,
            measure,
            metric,
            target,
            pareto_front: group::pareto_front(&groups),
            savings,
            differences: difference::differences(reports),
            runs: contenders,
            groups,
            conditions,
            verdict,
        }
    }

    /// Whether there is more to say of ways of training than of runs: several seeds, or more ways than two.
    pub(crate) fn has_ways(&self) -> bool {
        self.groups.len() > 2 || self.groups.iter().any(|group| group.runs.len() > 1)
    }

    /// What each way changes against the first.
    pub(crate) fn changes(&self) -> Vec<Vec<Change<'_>>> {
        difference::changes(&self.differences, &self.groups)
    }

    /// One sentence for each unmetered run.
    pub(crate) fn unmetered(&self) -> Vec<String> {
        self.runs.iter().filter_map(conditions::unmetered_words).collect()
    }

    /// `against base`
    pub(crate) fn against_first(&self) -> String {
        self.groups.first().map_or(String::new(), |first| format!("against {}", first.label))
    }

    /// The comparison as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a comparison is plain data")
    }
}
