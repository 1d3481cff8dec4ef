//! The moments of all ranks, in the memory of the one that writes checkpoints.

use wattle_dist::DistError;
use wattle_model::engine::{FlatSnapshot, FlatState, Split};

use super::Ranks;

/// Numbers of a rank that go out at once.
const AT_ONCE: usize = 1 << 20;

impl Ranks {
    /// Fills `snapshot`, which has the leading rank's own moments, with those of the others. The others, which have none,
    /// send theirs.
    pub(crate) fn gather_moments(
        &self,
        state: &FlatState,
        snapshot: Option<&mut FlatSnapshot>,
    ) -> Result<(), DistError> {
        if !self.are_several() {
            return Ok(());
        }
        let split = state.split();
        let mut moments = snapshot.map(FlatSnapshot::moments_mut);
        let mut own = vec![0.0; if moments.is_none() { split.own().len() } else { 0 }];
        for which in 0..2 {
            if moments.is_none() {
                state.copy_own_moment(which, &mut own);
            }
            for start in (0..split.longest()).step_by(AT_ONCE) {
                let sent = &own[start.min(own.len())..(start + AT_ONCE).min(own.len())];
                let all = self.fabric().gather(bytemuck::cast_slice(sent), self.between_steps())?;
                if let (Some(moments), Some(all)) = (&mut moments, all) {
                    put(moments[which], split, start, &all);
                }
            }
        }
        Ok(())
    }
}

/// Puts what each rank sent of its part, from the part's `start` on, to its place.
fn put(moment: &mut [f32], split: Split, start: usize, all: &[Vec<u8>]) {
    for (rank, bytes) in all.iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
        let first = split.part(rank).start + start;
        let numbers = bytes.chunks_exact(size_of::<f32>());
        let places = moment[first..first + numbers.len()].iter_mut();
        for (place, bytes) in places.zip(numbers) {
            *place = f32::from_ne_bytes(bytes.try_into().expect("chunks are as long"));
        }
    }
}
