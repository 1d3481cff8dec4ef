//! Values that nobody asked for give way to those that somebody did: no default, and no preset's value, may be
//! invalid beside a setting of the user's.

use wattle_data::{Mixture, TokenizerKind};
use wattle_train::config::OptimizerKind;

use wattle_session::Config;

/// What the vocabulary is padded to a multiple of, where a preset pads it.
const PADDED_TO: usize = 64;

/// Changes values whose keys are not among `explicit_keys` (as `section.key`) where they contradict those that are,
/// and gives the minimum of the learning rate its number. Returns a sentence for each change that is worth one.
pub fn settle(config: &mut Config, explicit_keys: &[String]) -> Vec<String> {
    let is_explicit = |key: &str| explicit_keys.iter().any(|explicit| explicit == key);
    let mut notes = Vec::new();
    if config.optimizer.kind == OptimizerKind::Adam && !is_explicit("optimizer.weight_decay") {
        config.optimizer.weight_decay = 0.0;
    }
    if !is_explicit("schedule.min_learning_rate")
        && config.schedule.min_learning_rate.is_some_and(|min| min > config.optimizer.learning_rate)
    {
        config.schedule.min_learning_rate = None;
    }
    notes.extend(config.schedule.settle(&config.optimizer));
    let train = &mut config.train;
    if !is_explicit("train.micro_batch_size") {
        train.micro_batch_size = train.micro_batch_size.min(train.batch_size);
    }
    if is_explicit("tokenizer.file") && !is_explicit("tokenizer.kind") {
        config.tokenizer.kind = TokenizerKind::File;
    }
    settle_data(config, is_explicit);
    settle_vocabulary(config, is_explicit);
    notes.extend(settle_heads(config, is_explicit));
    notes
}

/// Of a prepared folder, files and a mixture, those that were asked for.
fn settle_data(config: &mut Config, is_explicit: impl Fn(&str) -> bool) {
    let [dir, input, mixture] = ["data.dir", "data.input", "data.mixture"].map(is_explicit);
    if (input || mixture) && !dir {
        config.data.dir = None;
    }
    if (dir || mixture) && !input {
        config.data.input.clear();
    }
    if (dir || input) && !mixture {
        config.data.mixture = Mixture::default();
    }
}

/// A token table that a preset states holds the vocabulary that was asked for.
fn settle_vocabulary(config: &mut Config, is_explicit: impl Fn(&str) -> bool) {
    let (table, asked) = (config.model.vocab_size, config.tokenizer.vocab_size);
    // A prepared folder has a vocabulary of its own.
    let is_made = config.data.dir.is_none() && config.tokenizer.kind == TokenizerKind::Bpe;
    let is_asked = is_made && is_explicit("tokenizer.vocab_size");
    if is_asked && !is_explicit("model.vocab_size") && table != 0 && table < asked {
        config.model.vocab_size = asked.next_multiple_of(PADDED_TO);
    }
}

/// Heads that divide the width that was asked for.
fn settle_heads(config: &mut Config, is_explicit: impl Fn(&str) -> bool) -> Option<String> {
    let model = &mut config.model;
    let is_free = !is_explicit("model.n_heads") && !is_explicit("model.n_kv_heads");
    if !is_free
        || model.head_width != 0
        || !is_explicit("model.d_model")
        || model.n_heads == 0
        || model.d_model == 0
    {
        return None;
    }
    let (width, before) = (model.d_model, model.n_heads);
    let turns_pairs = model.family.has_rotary_positions();
    let fits = |n: &usize| width.is_multiple_of(*n) && (!turns_pairs || (width / n).is_multiple_of(2));
    if fits(&before) {
        return None;
    }
    // Fewer heads before more: each is wider then.
    let n_heads = (1..=before).rev().find(fits)?;
    model.n_heads = n_heads;
    Some(format!("model.n_heads = {n_heads}: {before} heads do not divide model.d_model = {width}"))
}
