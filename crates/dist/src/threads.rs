//! Ranks that are threads of one process: for tests, and for engines that have no other way to be tried.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::DistError;
use crate::fabric::Fabric;
use crate::place::Place;

/// One of some ranks in this process.
#[derive(Debug)]
pub struct Threads {
    place: Place,
    table: Arc<Table>,
}

/// Where ranks lay down what they have to say.
#[derive(Debug)]
struct Table {
    round: Mutex<Round>,
    changed: Condvar,
}

#[derive(Debug)]
struct Round {
    /// What each rank has laid down, until all have and all have read it.
    said: Vec<Option<Arc<[u8]>>>,
    /// Ranks that have yet to read, once all have spoken; 0 while they speak.
    n_to_read: usize,
    /// The first that cannot go on, and why.
    parted: Option<(usize, String)>,
}

impl Threads {
    /// `world` ranks, one for each thread.
    pub fn ranks(world: usize) -> Vec<Self> {
        Self::machines(&[world])
    }

    /// Ranks that take themselves for those of several machines, so many on each.
    pub fn machines(n_ranks: &[usize]) -> Vec<Self> {
        let world = n_ranks.iter().sum();
        let round = Round { said: vec![None; world], n_to_read: 0, parted: None };
        let table = Arc::new(Table { round: Mutex::new(round), changed: Condvar::new() });
        let n_nodes = n_ranks.len();
        let on_machine = |(node, &local_world): (usize, &usize)| {
            (0..local_world).map(move |local_rank| Place {
                local_rank,
                local_world,
                node,
                n_nodes,
                ..Place::solo()
            })
        };
        let places = n_ranks.iter().enumerate().flat_map(on_machine).enumerate();
        places
            .map(|(rank, place)| Self { place: Place { rank, world, ..place }, table: Arc::clone(&table) })
            .collect()
    }

    /// What every rank says, in their order.
    fn round(
        &self,
        own: &[u8],
        operation: &'static str,
        within: Duration,
    ) -> Result<Vec<Arc<[u8]>>, DistError> {
        let began = Instant::now();
        let mut round = self.lock();
        round.said[self.place.rank] = Some(own.into());
        if round.said.iter().all(Option::is_some) {
            round.n_to_read = self.place.world;
            self.table.changed.notify_all();
        }
        while round.n_to_read == 0 {
            round = self.wait(round, operation, began, within)?;
        }
        let said: Vec<Arc<[u8]>> = round.said.iter().flatten().cloned().collect();
        round.n_to_read -= 1;
        if round.n_to_read == 0 {
            round.said.fill(None);
            self.table.changed.notify_all();
        }
        // Nobody speaks again before all have read.
        while round.n_to_read > 0 {
            round = self.wait(round, operation, began, within)?;
        }
        Ok(said)
    }

    fn lock(&self) -> MutexGuard<'_, Round> {
        self.table.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        round: MutexGuard<'a, Round>,
        operation: &'static str,
        began: Instant,
        within: Duration,
    ) -> Result<MutexGuard<'a, Round>, DistError> {
        if let Some((rank, reason)) = &round.parted {
            return Err(DistError::Gone { gone: vec![*rank], reason: reason.clone() });
        }
        let left = within.saturating_sub(began.elapsed());
        if left.is_zero() {
            let has_not_spoken = |rank: &usize| round.said[*rank].is_none();
            let silent = (0..self.place.world).filter(has_not_spoken).collect();
            return Err(DistError::Silent { silent, operation, waited: within });
        }
        let (round, _) = self.table.changed.wait_timeout(round, left).unwrap_or_else(PoisonError::into_inner);
        Ok(round)
    }
}

impl Fabric for Threads {
    fn place(&self) -> &Place {
        &self.place
    }

    fn describe(&self) -> String {
        format!("{} threads of one process", self.place.world)
    }

    fn barrier(&self, within: Duration) -> Result<(), DistError> {
        self.round(&[], "a barrier", within).map(|_| ())
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize, within: Duration) -> Result<(), DistError> {
        let own: &[u8] = if self.place.rank == root { bytes } else { &[] };
        let said = self.round(own, "a broadcast", within)?;
        bytes.copy_from_slice(&said[root]);
        Ok(())
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8], within: Duration) -> Result<(), DistError> {
        let said = self.round(own, "a gathering by all", within)?;
        let pieces = all.chunks_exact_mut(own.len().max(1));
        pieces.zip(said).for_each(|(piece, said)| piece.copy_from_slice(&said));
        Ok(())
    }

    fn gather(&self, own: &[u8], within: Duration) -> Result<Option<Vec<Vec<u8>>>, DistError> {
        let said = self.round(own, "a gathering by rank 0", within)?;
        Ok(self.place.leads().then(|| said.iter().map(|said| said.to_vec()).collect()))
    }

    fn exchange(&self, own: &[u8], all: &mut [u8], within: Duration) -> Result<(), DistError> {
        let said = self.round(own, "an exchange", within)?;
        let len = own.len() / self.place.world;
        let mine = len * self.place.rank..len * (self.place.rank + 1);
        let pieces = all.chunks_exact_mut(len.max(1));
        pieces.zip(said).for_each(|(piece, said)| piece.copy_from_slice(&said[mine.clone()]));
        Ok(())
    }

    fn part(&self, reason: &str) {
        self.lock().parted.get_or_insert((self.place.rank, reason.to_owned()));
        self.table.changed.notify_all();
    }

    fn abort(&self, exit_code: u8) -> ! {
        std::process::exit(exit_code.into())
    }
}
