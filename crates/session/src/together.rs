//! What ranks settle among themselves before the first step: that all can begin, and that all begin alike.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wattle_train::{Ranks, TrainError};

use crate::error::SessionError;

/// How long ranks wait while the leading one prepares data.
pub(crate) const PREPARATION: Duration = Duration::from_secs(24 * 3600);

/// The ranks of a session, before the first step.
pub struct Together<'a> {
    ranks: &'a Ranks,
}

/// What became of a meeting, as the leading rank tells it.
#[derive(Serialize, Deserialize)]
struct Verdict<W> {
    /// Whether all can go on.
    is_good: bool,
    /// Its word to all.
    word: W,
    /// Whether what is wrong is the configuration.
    is_usage: bool,
}

/// What a rank brings to a meeting.
#[derive(Serialize, Deserialize)]
struct Report {
    fault: Option<String>,
    is_usage: bool,
    /// Whether that follows from what is wrong on another rank.
    follows: bool,
}

impl<'a> Together<'a> {
    /// Those of `ranks`.
    pub fn new(ranks: &'a Ranks) -> Self {
        Self { ranks }
    }

    /// Whether this rank writes the run directory.
    pub fn leads(&self) -> bool {
        self.ranks.leads()
    }

    /// Goes on where every rank can. Otherwise the leading one gets what is wrong, with the ranks it is wrong on, and the
    /// others [`SessionError::ToldByLeader`].
    ///
    /// # Errors
    /// If something is wrong on a rank, or a rank does not answer.
    pub fn meet<T>(&self, own: Result<T, SessionError>) -> Result<T, SessionError> {
        self.meet_for(self.ranks.between_steps(), own, ()).map(|(own, ())| own)
    }

    /// [`Together::meet`], which waits for others as long as `within`, and at which the leading rank's `word` is told to
    /// all.
    pub(crate) fn meet_for<T, W: Serialize + DeserializeOwned>(
        &self,
        within: Duration,
        own: Result<T, SessionError>,
        word: W,
    ) -> Result<(T, W), SessionError> {
        if !self.ranks.are_several() {
            return own.map(|own| (own, word));
        }
        let reports = self.gather(&Report::of(&own), within)?;
        let fault = reports.as_deref().and_then(combined);
        self.conclude(own, fault, word, within)
    }

    /// Tells all ranks whether they go on. What keeps them from it is known to the leading one.
    fn conclude<T, W: Serialize + DeserializeOwned>(
        &self,
        own: Result<T, SessionError>,
        fault: Option<(String, bool)>,
        word: W,
        within: Duration,
    ) -> Result<(T, W), SessionError> {
        let is_usage = fault.as_ref().is_some_and(|(_, is_usage)| *is_usage);
        let Verdict { is_good, word, is_usage } =
            self.tell(Verdict { is_good: fault.is_none(), word, is_usage }, within)?;
        if !is_good {
            self.ranks.all_know();
        }
        match (own, fault) {
            (Ok(own), None) if is_good => Ok((own, word)),
            // It is wrong here, and everywhere in the same words.
            (Err(error), Some((text, _))) if text == error.to_string() => Err(error),
            (_, Some((text, true))) => Err(SessionError::config(text)),
            (_, Some((text, false))) => Err(SessionError::Ranks(text)),
            (_, None) => Err(SessionError::ToldByLeader { is_usage }),
        }
    }

    /// Refuses what is not the same on all ranks: `differences` says how a rank's value differs from the leading one's.
    pub(crate) fn alike<T: Serialize + DeserializeOwned>(
        &self,
        own: &T,
        differences: impl Fn(&T, &T) -> Option<String>,
    ) -> Result<(), SessionError> {
        if !self.ranks.are_several() {
            return Ok(());
        }
        let within = self.ranks.between_steps();
        let fault = self.gather(own, within)?.and_then(|all| {
            let others = all.iter().enumerate().skip(1);
            let found = others.filter_map(|(rank, other)| Some((rank, differences(&all[0], other)?)));
            Some((grouped(found.collect())?, true))
        });
        self.conclude(Ok(()), fault, (), within).map(|_| ())
    }

    /// What every rank has to say, on the leading one.
    pub(crate) fn gather<T: Serialize + DeserializeOwned>(
        &self,
        own: &T,
        within: Duration,
    ) -> Result<Option<Vec<T>>, SessionError> {
        let bytes = serde_json::to_vec(own).expect("what ranks say is plain data");
        let all = self.ranks.fabric().gather(&bytes, within).map_err(TrainError::from)?;
        all.map(|all| all.iter().map(|bytes| read(bytes)).collect()).transpose()
    }

    /// The leading rank's word, on all.
    pub(crate) fn tell<W: Serialize + DeserializeOwned>(
        &self,
        word: W,
        within: Duration,
    ) -> Result<W, SessionError> {
        let own = serde_json::to_vec(&word).expect("what ranks say is plain data");
        let bytes = self.ranks.tell(own, within).map_err(TrainError::from)?;
        if self.leads() { Ok(word) } else { read(&bytes) }
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, SessionError> {
    serde_json::from_slice(bytes).map_err(|_| {
        SessionError::config(
            "the ranks are of different versions of wattle: start one binary on all machines",
        )
    })
}

impl Report {
    fn of<T>(own: &Result<T, SessionError>) -> Self {
        let fault = own.as_ref().err().map(ToString::to_string);
        let is_usage = matches!(own, Err(SessionError::Config(_) | SessionError::OtherData { .. }));
        Self { fault, is_usage, follows: matches!(own, Err(SessionError::Train(TrainError::OtherRank))) }
    }
}

/// What is wrong on ranks, and whether it is the configuration.
fn combined(reports: &[Report]) -> Option<(String, bool)> {
    let has_own = reports.iter().any(|report| report.fault.is_some() && !report.follows);
    let counts = |report: &&Report| report.fault.is_some() && !(report.follows && has_own);
    let faults = reports.iter().enumerate().filter(|(_, report)| counts(report));
    let found: Vec<(usize, String)> =
        faults.filter_map(|(rank, report)| Some((rank, report.fault.clone()?))).collect();
    let is_usage = reports.iter().filter(counts).all(|report| report.is_usage);
    let is_everywhere = found.len() == reports.len();
    if let Some((rank, first)) = found.first()
        && found.iter().all(|(_, fault)| fault == first)
        // What rank 0 does alone goes wrong there alone.
        && (is_everywhere || (*rank == 0 && found.len() == 1))
    {
        return Some((first.clone(), is_usage));
    }
    Some((grouped(found)?, is_usage))
}

/// What was found on which ranks: `ranks 1 and 3: …`.
fn grouped(found: Vec<(usize, String)>) -> Option<String> {
    let mut groups: Vec<(Vec<usize>, String)> = Vec::new();
    for (rank, text) in found {
        match groups.iter_mut().find(|(_, other)| *other == text) {
            Some((ranks, _)) => ranks.push(rank),
            None => groups.push((vec![rank], text)),
        }
    }
    let said = groups.iter().map(|(ranks, text)| format!("{}: {text}", wattle_dist::names_of(ranks)));
    let said: Vec<String> = said.collect();
    (!said.is_empty()).then(|| said.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wattle_dist::{Fabric, Threads};

    use super::*;

    /// What becomes of `on_rank` on each of `world` ranks.
    fn on_ranks<T: Send>(world: usize, on_rank: impl Fn(usize, &Together<'_>) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let start = |fabric: Threads| {
                let (rank, on_rank) = (fabric.place().rank, &on_rank);
                scope.spawn(move || {
                    let ranks = Ranks::new(Arc::new(fabric), Duration::from_secs(1));
                    on_rank(rank, &Together::new(&ranks))
                })
            };
            let running: Vec<_> = Threads::ranks(world).into_iter().map(start).collect();
            running.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn what_is_wrong_on_some_ranks_is_told_once_with_their_names() {
        let told = on_ranks(4, |rank, together| {
            let own = match rank {
                1 | 3 => Err(SessionError::config("there is no data.input")),
                _ => Ok(rank),
            };
            together.meet(own).unwrap_err().to_string()
        });
        assert_eq!(told[0], "ranks 1 and 3: there is no data.input");
        assert!(told[1..].iter().all(|told| told.contains("rank 0 says what")), "{told:?}");
    }

    #[test]
    fn what_follows_from_another_ranks_fault_is_not_told_beside_it() {
        let told = on_ranks(3, |rank, together| {
            let own: Result<(), _> = match rank {
                2 => Err(SessionError::Train(TrainError::Device("cuda:2 is lost".to_owned()))),
                _ => Err(SessionError::Train(TrainError::OtherRank)),
            };
            together.meet(own).unwrap_err().to_string()
        });
        assert_eq!(told[0], "rank 2: cuda:2 is lost");
        assert!(told[2].contains("rank 0 says what"), "{told:?}");
    }

    #[test]
    fn what_is_wrong_everywhere_is_told_as_if_there_were_one_rank() {
        let told =
            on_ranks(3, |_, together| together.meet::<()>(Err(SessionError::config("no"))).unwrap_err());
        assert!(matches!(&told[0], SessionError::Config(faults) if faults == &["no"]));
        assert!(matches!(told[2], SessionError::ToldByLeader { is_usage: true }));
    }

    #[test]
    fn the_leaders_word_is_told_to_all_and_values_are_compared() {
        let said = on_ranks(3, |rank, together| {
            let (own, word) = together.meet_for(PREPARATION, Ok(rank), format!("word of {rank}")).unwrap();
            assert_eq!((own, word.as_str()), (rank, "word of 0"));
            let differ =
                |first: &usize, other: &usize| (first != other).then(|| format!("{other}, not {first}"));
            together.alike(&7, differ).unwrap();
            together.alike(&(rank / 2), differ).unwrap_err().to_string()
        });
        assert_eq!(said[0], "rank 2: 1, not 0");
    }
}
