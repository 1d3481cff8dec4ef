//! The data of a run: prepared, looked at, and still the same at a resume.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use wattle_data::{Dataset, EvalBatches, Loader, Origin, TokenStore, Verify};
use wattle_meter::TokensBeside;
use wattle_train::Plan;

use crate::config::Config;
use crate::data_notes;
use crate::earlier::Earlier;
use crate::error::SessionError;
use crate::listener::Listener;

/// Prepares the data of `config`, or finds them in the cache, and warns of what a person should know of them.
///
/// # Errors
/// If they cannot be read or prepared.
pub fn prepare(
    config: &Config,
    verify: Verify,
    listener: &mut dyn Listener,
) -> Result<Dataset, SessionError> {
    let prepared =
        wattle_data::prepare(&config.data, &config.tokenizer, verify, &mut |p| listener.preparing(p));
    listener.prepared();
    let dataset = prepared?;
    match &dataset.origin {
        Origin::Repaired { fault } => tracing::warn!("prepared anew, the cache was damaged: {fault}"),
        origin => tracing::debug!("data in {} ({origin:?})", dataset.dir.display()),
    }
    if verify == Verify::Never {
        tracing::warn!(
            "--no-verify: the tokens are taken as they are; if a shard is damaged, the run learns from it and its \
             manifest states the hash of the data as they should be"
        );
    }
    data_notes::say(&dataset);
    Ok(dataset)
}

/// The data of the run in `dir`, whose configuration is `config`.
///
/// # Errors
/// If they cannot be read or prepared, or are not those that it began with.
pub fn of_run(dir: &Path, config: &Config, listener: &mut dyn Listener) -> Result<Dataset, SessionError> {
    let dataset = prepare(config, Verify::FirstUse, listener)?;
    refuse_other_data(&Earlier::read(dir)?, &dataset)?;
    Ok(dataset)
}

/// The steps that a configuration makes of its data.
///
/// # Errors
/// If the data are too short for a single step.
pub fn plan_of(config: &Config, dataset: &Dataset) -> Result<Plan, SessionError> {
    let loader = loader_of(config, dataset)?;
    let plan = Plan::new(&config.train, loader.steps_per_epoch(), config.model.context);
    loader.check_passes(plan.total_steps)?;
    Ok(plan)
}

/// Checks that the data are enough for a step and, where some are held out, for an evaluation.
pub(crate) fn check_length(config: &Config, dataset: &Dataset) -> Result<(), SessionError> {
    plan_of(config, dataset)?;
    for val in dataset.val_stores() {
        EvalBatches::new(val, config.model.context, 1, 0)?;
    }
    Ok(())
}

/// What goes through the model beside the tokens that are learnt, where not all are.
pub(crate) fn tokens_beside(
    config: &Config,
    dataset: &Dataset,
) -> Result<Option<TokensBeside>, SessionError> {
    let (is_masked, is_packed) = (dataset.train.has_mask(), dataset.train.is_packed());
    if !is_masked && !is_packed {
        return Ok(None);
    }
    let loader = loader_of(config, dataset)?;
    let tokens_per_step = loader.tokens_per_step();
    let padding = move |steps: Range<u64>| {
        let of_epoch = loader.steps_per_epoch();
        // Every step of an epoch is within it.
        steps.map(|step| loader.padding(step / of_epoch, step % of_epoch).unwrap_or(0)).sum()
    };
    let padding = is_packed.then(|| Arc::new(padding) as _);
    Ok(Some(TokensBeside { tokens_per_step, is_masked, padding }))
}

fn loader_of(config: &Config, dataset: &Dataset) -> Result<Loader, SessionError> {
    Ok(Loader::of(dataset, config.model.context, config.train.batch_size, config.run.seed)?)
}

/// Tokens of one evaluation, of all sources.
pub(crate) fn evaluation_tokens(config: &Config, dataset: &Dataset) -> u64 {
    let of_store = |val: &TokenStore| match config.evaluate.batches {
        _ if val.is_packed() => {
            let (context, batch_size) = (config.model.context, config.train.micro_batch());
            // Those that are too short for a window were refused before.
            EvalBatches::new(val, context, batch_size, config.evaluate.batches)
                .map_or(0, |batches| batches.tokens())
        }
        0 => val.len(),
        n => {
            let of_batch = (config.train.micro_batch() * config.model.context) as u64;
            val.len().min((n as u64).saturating_mul(of_batch))
        }
    };
    dataset.val_stores().map(of_store).sum()
}

/// A run goes on with the data that it began with, or not at all.
pub(crate) fn refuse_other_data(earlier: &Earlier, dataset: &Dataset) -> Result<(), SessionError> {
    let begun_with = earlier.manifest.as_ref().and_then(|manifest| manifest.data.as_ref());
    match begun_with {
        Some(data) if !dataset.has_content(&data.sha256) => {
            Err(SessionError::OtherData { then: data.sha256.clone(), now: dataset.content_hash() })
        }
        _ => Ok(()),
    }
}
