//! Checksums made to fit again, so that damage reaches what lies behind them.

use wattle_train::TrainState;

/// A `state.json` with its checksum made right; unchanged if it can no longer be read as one.
pub fn state(bytes: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<TrainState>(bytes) {
        Ok(state) => serde_json::to_vec_pretty(&state.seal()).unwrap(),
        Err(_) => bytes.to_vec(),
    }
}

/// A `power.trace` in which every record's checksum is right, and that of every header's JSON.
pub fn trace(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    let mut at = 0;
    while at + 16 <= sealed.len() {
        let mut len = 16;
        if sealed[at..].starts_with(b"\xffWTRC") {
            let json_len = u32::from_le_bytes(sealed[at + 6..at + 10].try_into().unwrap()) as usize;
            let json = sealed.get(at + 16..(at + 16).saturating_add(json_len)).unwrap_or_default();
            let crc = crc32c::crc32c(json).to_le_bytes();
            len += json.len().next_multiple_of(16);
            sealed[at + 10..at + 14].copy_from_slice(&crc);
        }
        let crc = crc16(&sealed[at..at + 14]).to_le_bytes();
        sealed[at + 14..at + 16].copy_from_slice(&crc);
        at += len;
    }
    sealed
}

/// CRC-16/IBM-3740.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| crc << 1 ^ if crc >> 15 == 1 { 0x1021 } else { 0 })
    })
}
