//! The moments of all ranks, in the memory of the one that writes checkpoints.

use wattle_dist::DistError;
use wattle_model::Ranges;
use wattle_model::engine::{FlatSnapshot, FlatState};

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
        let mut moments = snapshot.map(FlatSnapshot::moments_mut);
        for which in 0..2 {
            let places = |rank: usize| state.moment_places(which, rank);
            let places: Vec<Ranges> = (0..self.share().world).map(places).collect();
            let mut own = Vec::new();
            if moments.is_none() {
                own.resize(places[self.share().rank].len(), 0.0);
                state.copy_own_moment(which, &mut own);
            }
            let longest = places.iter().map(Ranges::len).max().unwrap_or(0);
            for start in (0..longest).step_by(AT_ONCE) {
                let chunk = start..start + AT_ONCE;
                let sent = &own[start.min(own.len())..chunk.end.min(own.len())];
                let all = self.fabric().gather(bytemuck::cast_slice(sent), self.between_steps())?;
                if let (Some(moments), Some(all)) = (&mut moments, all) {
                    for (places, bytes) in places.iter().zip(&all).filter(|(_, bytes)| !bytes.is_empty()) {
                        places.unpack(&chunk, &numbers(bytes), moments[which]);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Numbers as they were sent, wherever their bytes begin in memory.
fn numbers(bytes: &[u8]) -> Vec<f32> {
    let numbers = bytes.chunks_exact(size_of::<f32>());
    numbers.map(|bytes| f32::from_ne_bytes(bytes.try_into().expect("chunks are as long"))).collect()
}
