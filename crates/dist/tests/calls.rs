//! Every call of a fabric, with awkward sizes.

use std::time::Duration;

use wattle_dist::Fabric;

/// Longer than anything here takes.
pub const LONG: Duration = Duration::from_secs(60);

/// Bytes that depend on who says them, in which call, and where they stand.
fn bytes(rank: usize, call: usize, len: usize) -> Vec<u8> {
    let byte = |at: usize| (at * 31 + at / 256 * 7 + rank * 101 + call * 17) as u8;
    (0..len).map(byte).collect()
}

/// All that a rank receives in every call, for pieces of each of `lens` bytes.
pub fn transcript(fabric: &dyn Fabric, lens: &[usize]) -> Vec<u8> {
    let (rank, world) = (fabric.place().rank, fabric.place().world);
    let mut heard = Vec::new();
    for (call, &len) in lens.iter().enumerate() {
        let mut all = vec![0; len * world];
        fabric.exchange(&bytes(rank, call, len * world), &mut all, LONG).unwrap();
        heard.append(&mut all);

        let mut all = vec![0; len * world];
        fabric.all_gather(&bytes(rank, call, len), &mut all, LONG).unwrap();
        heard.append(&mut all);

        let root = call % world;
        let mut shared = if rank == root { bytes(root, call, len) } else { vec![0; len] };
        fabric.broadcast(&mut shared, root, LONG).unwrap();
        heard.append(&mut shared);

        // Rank 1 has nothing to say, rank 0 less than rank 2.
        let own = bytes(rank, call, if rank == 1 { 0 } else { len + rank * 37 });
        let gathered = fabric.gather(&own, LONG).unwrap();
        assert_eq!(gathered.is_some(), rank == 0);
        for mut bytes in gathered.into_iter().flatten() {
            heard.extend(bytes.len().to_le_bytes());
            heard.append(&mut bytes);
        }
        fabric.barrier(LONG).unwrap();
    }
    heard
}

/// What the transcript has to be, from the definitions of the calls.
pub fn expected(rank: usize, world: usize, lens: &[usize]) -> Vec<u8> {
    let mut heard = Vec::new();
    for (call, &len) in lens.iter().enumerate() {
        let piece_of = |other| bytes(other, call, len * world)[rank * len..][..len].to_vec();
        heard.extend((0..world).flat_map(piece_of));
        heard.extend((0..world).flat_map(|other| bytes(other, call, len)));
        heard.extend(bytes(call % world, call, len));
        for other in (0..world).filter(|_| rank == 0) {
            let said = bytes(other, call, if other == 1 { 0 } else { len + other * 37 });
            heard.extend(said.len().to_le_bytes());
            heard.extend(said);
        }
    }
    heard
}
