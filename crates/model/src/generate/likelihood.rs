//! How likely a model finds continuations of a text.

use super::decoder::Decoder;
use crate::error::ModelError;

/// A context, and continuations of it.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The context, at least one token.
    pub context: &'a [u32],
    /// The continuations, each of at least one token.
    pub continuations: Vec<&'a [u32]>,
}

/// How likely a continuation is after its context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// Sum of the logarithms of its tokens' probabilities, in nats.
    pub log_likelihood: f64,
    /// Whether each of its tokens is the likeliest one, so that it is what greedy decoding says.
    pub is_greedy: bool,
}

/// A context with those of its continuations that look back on the same part of it.
struct Reading<'a> {
    asked_idx: usize,
    context: &'a [u32],
    continuations: Vec<usize>,
}

/// The likelihood of each continuation of each context, whose tokens go through the decoder once for all its continuations.
/// The first tokens of a context that does not fit into `room` beside all but the last token of a continuation are left
/// out. `progress` is told how many of `asked` are done.
///
/// Results are the same for any number of slots, where the decoder's are.
///
/// # Errors
/// If the device or a tensor operation fails, or a logit is not finite.
///
/// # Panics
/// If a context or a continuation is empty, or a continuation is longer than `room`.
pub fn likelihoods(
    decoder: &mut dyn Decoder,
    room: usize,
    asked: &[Asked<'_>],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Likelihood>>, ModelError> {
    let none = Likelihood { log_likelihood: 0.0, is_greedy: true };
    let mut found: Vec<Vec<_>> = asked.iter().map(|asked| vec![none; asked.continuations.len()]).collect();
    let readings: Vec<_> =
        asked.iter().enumerate().flat_map(|(asked_idx, asked)| readings(asked_idx, asked, room)).collect();
    for wave in readings.chunks(decoder.n_slots()) {
        read(decoder, wave, asked, &mut found)?;
        progress(wave.last().map_or(0, |reading| reading.asked_idx + 1));
    }
    Ok(found)
}

/// What goes through the decoder for one context: once, or once more for each part of it that fits beside a long
/// continuation.
fn readings<'a>(asked_idx: usize, asked: &Asked<'a>, room: usize) -> Vec<Reading<'a>> {
    let mut readings: Vec<Reading<'a>> = Vec::new();
    for (idx, continuation) in asked.continuations.iter().enumerate() {
        assert!(!asked.context.is_empty() && (1..=room).contains(&continuation.len()), "it fits");
        let n_left_out = (asked.context.len() + continuation.len() - 1).saturating_sub(room);
        let context = &asked.context[n_left_out..];
        match readings.iter_mut().find(|reading| reading.context.len() == context.len()) {
            Some(reading) => reading.continuations.push(idx),
            None => readings.push(Reading { asked_idx, context, continuations: vec![idx] }),
        }
    }
    readings
}

/// Reads as many contexts as there are slots, and their continuations.
fn read(
    decoder: &mut dyn Decoder,
    wave: &[Reading<'_>],
    asked: &[Asked<'_>],
    found: &mut [Vec<Likelihood>],
) -> Result<(), ModelError> {
    let continuation = |reading: &Reading<'_>, idx: usize| asked[reading.asked_idx].continuations[idx];
    let mut broken = Ok(());
    let mut note = |reading: &Reading<'_>, idx: usize, place: usize, logits: &[f32]| match found
        [reading.asked_idx][idx]
        .add(logits, continuation(reading, idx)[place])
    {
        Err(error) if broken.is_ok() => broken = Err(error),
        _ => {}
    };
    for (slot, reading) in wave.iter().enumerate() {
        decoder.forget(slot);
        // Contexts go one by one, so that none depends on the others.
        decoder.decode(&[(slot, reading.context)], &mut |_, logits| {
            reading.continuations.iter().for_each(|&idx| note(reading, idx, 0, logits));
        })?;
    }
    let most = wave.iter().map(|reading| reading.continuations.len()).max().unwrap_or(0);
    for turn in 0..most {
        let mut texts = Vec::new();
        let mut whose = Vec::new();
        for (slot, reading) in wave.iter().enumerate() {
            let Some(&idx) = reading.continuations.get(turn) else { continue };
            let tokens = continuation(reading, idx);
            // What follows the last token is not asked.
            let seen = &tokens[..tokens.len() - 1];
            if !seen.is_empty() {
                decoder.rewind(slot, reading.context.len());
                texts.push((slot, seen));
                whose.push((reading, idx));
            }
        }
        decoder.decode_all(&texts, &mut |text_idx, place, logits| {
            let (reading, idx) = whose[text_idx];
            note(reading, idx, place + 1, logits);
        })?;
    }
    broken
}

impl Likelihood {
    /// Goes on by the token `next`, which `logits` (v) predict.
    fn add(&mut self, logits: &[f32], next: u32) -> Result<(), ModelError> {
        let mut best = 0;
        for (token, &logit) in logits.iter().enumerate() {
            if !logit.is_finite() {
                return Err(ModelError::NotFinite { token, logit });
            }
            if logit > logits[best] {
                best = token;
            }
        }
        let most = f64::from(logits[best]);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum();
        self.log_likelihood += f64::from(logits[next as usize]) - most - sum.ln();
        self.is_greedy &= best == next as usize;
        Ok(())
    }
}
