//! `wattle train`

use std::sync::Arc;

use anyhow::Context;
use candle_core::Device;
use indicatif::MultiProgress;
use wattle_data::{Dataset, Loader, Origin, Verify};
use wattle_meter::ResumePoint;
use wattle_meter::sensors::discover::check_boards;
use wattle_model::hugging_face::Directory;
use wattle_model::{LanguageModel, Masks};
use wattle_ops::board::Board;
use wattle_report::page::page;
use wattle_report::{Report, Run};
use wattle_runlog::clock::file_stamp;
use wattle_runlog::manifest::{DataInfo, Drivers, Host, LossFloor, MANIFEST_SCHEMA, ModelInfo, Versions};
use wattle_runlog::run_dir::write_atomic;
use wattle_runlog::{
    Event, LineFile, Manifest, MonotonicNs, Phase, RunDir, Seconds, Segment, Span, SpanClock, StopReason,
};
use wattle_train::device::{ChosenDevice, DeviceChoice};
use wattle_train::engine::{home_of_parameters, refuse_what_cannot_fit};
use wattle_train::{Checkpoints, EngineChoice, Plan, TrainState, Trainer, TrainerOptions};

use crate::allocator::give_back;
use crate::args::TrainArgs;
use crate::budget::Budget;
use crate::checkpoint::tokenizer_of;
use crate::config::Config;
use crate::data_notes;
use crate::describe::{describe_energy, energy_warnings, estimate_warning};
use crate::display::Display;
use crate::ending::{Ending, Sizes};
use crate::exit::{BadUsage, Exit};
use crate::humanize::{count, duration};
use crate::logging::LogFile;
use crate::metering::{MeterInfo, Metering, MeteringOptions};
use crate::metrics::run::SharedProgress;
use crate::metrics::{MetricsServer, registry};
use crate::model_card::ModelCard;
use crate::need::{self, TrainingMemory};
use crate::observer::{RunObserver, Seen, Validation};
use crate::pace::Pace;
use crate::peak::peak_of_training;
use crate::plan::{self, Forecast};
use crate::run::{Earlier, NewRun, Target, ended, target};
use crate::signals::StopSignal;
use crate::terminal::{is_drawn_on, print};
use crate::threads::set_threads;

/// candle's version, for the manifest.
const CANDLE_VERSION: &str = "0.11.1";

/// Trains.
pub fn run(args: &TrainArgs, bars: &MultiProgress, log_file: &LogFile, quiet: bool) -> anyhow::Result<Exit> {
    let target = target(args)?;
    set_threads(target.config.train.threads);
    let mut display = Display::new(bars.clone(), is_drawn_on() && !quiet);
    let verify = if args.no_verify { Verify::Never } else { Verify::FirstUse };
    if args.dry_run {
        return dry_run(args, &target.config, verify, display);
    }
    // A process that has nothing to do leaves no trace: nothing is opened before that is known.
    let earlier = if target.found.is_some() { Earlier::read(&target.path)? } else { Earlier::none() };
    let is_finished = target.is_finished(&earlier);
    if is_finished == Some(true) {
        return Ok(target.leave_alone());
    }
    let Target { config, path, found } = &target;
    let exists = found.is_some();
    let signal = StopSignal::listen().context("cannot listen for signals")?;
    check_boards(&config.energy).map_err(|error| BadUsage::new(error.to_string()))?;
    let device = args.device.open()?;
    if !exists && path.exists() {
        // What is there already is refused before anything takes time.
        drop(NewRun::create(path)?);
    }
    // Data that cannot be trained on leave no directory, not even for a while.
    let dataset = prepare(config, verify, &mut display)?;
    check_length(config, &dataset)?;
    refuse_other_data(&earlier, &dataset)?;
    let made = ended(&earlier.events).map_or(0, |(step, _)| step);
    if is_finished.is_none() && made >= plan_of(config, &dataset)?.total_steps {
        return Ok(target.leave_alone());
    }
    let new_run = if exists { None } else { Some(NewRun::create(path)?) };
    let opened = if exists { Some(RunDir::open(path)?) } else { None };
    let dir = opened.as_ref().or(new_run.as_ref().map(NewRun::dir)).expect("one of the two was made");
    log_file.open(&dir.train_log()).with_context(|| format!("cannot write {}", dir.train_log().display()))?;
    tracing::info!("{} on {}{}", path.display(), device.compute, device.why_said());
    tracing::debug!("{}: {}", device.compute, device.reason);

    // Once more, now that no other process writes to it.
    let earlier = if exists { Earlier::read(path)? } else { earlier };
    let session = Session { config, dir, device: &device, dataset: &dataset, earlier, signal };
    let outcome = session.train(display);
    match outcome {
        Ok(exit) => {
            new_run.map(NewRun::keep);
            Ok(exit)
        }
        Err(error) => {
            // A run that began to train is worth keeping, however it ended.
            if dir.events().exists() {
                new_run.map(NewRun::keep);
            }
            Err(error)
        }
    }
}

/// Tokens of one evaluation.
fn evaluation_tokens(config: &Config, dataset: &Dataset) -> u64 {
    let whole = dataset.manifest.split.val.as_ref().map_or(0, |val| val.tokens);
    match config.evaluate.batches {
        0 => whole,
        n => {
            let of_batch = (config.train.micro_batch() * config.model.context) as u64;
            whole.min((n as u64).saturating_mul(of_batch))
        }
    }
}

/// Says, if so, that the learning rate never reaches its peak.
fn warn_of_warmup(config: &Config, plan: Plan) {
    if let Some(warning) = plan::warmup_warning(config, plan.total_steps) {
        tracing::warn!("{warning}");
    }
}

/// The steps that a configuration makes of its data.
fn plan_of(config: &Config, dataset: &Dataset) -> anyhow::Result<Plan> {
    let (context, train) = (config.model.context, &config.train);
    let loader = Loader::new(&dataset.train, context, train.batch_size, config.run.seed)?;
    Ok(Plan::new(train, loader.steps_per_epoch(), context))
}

/// One process's part of a run.
struct Session<'a> {
    config: &'a Config,
    dir: &'a RunDir,
    device: &'a ChosenDevice,
    dataset: &'a Dataset,
    earlier: Earlier,
    signal: StopSignal,
}

impl Session<'_> {
    fn train(self, mut display: Display) -> anyhow::Result<Exit> {
        let Self { config, dir, device, dataset, ref earlier, .. } = self;
        let started = MonotonicNs::now();
        let checkpoints = Checkpoints::open(&dir.checkpoints(), config.checkpoint.keep)?;
        let latest = checkpoints.latest()?;
        let resumed = latest.as_deref().map(TrainState::read).transpose()?;
        let point = resumed.as_ref().map(|state| ResumePoint { step: state.step, tokens: state.tokens });

        let mut manifest = self.manifest(point.map_or(0, |point| point.step));
        let segment = manifest.segments.last().expect("one was just added").clone();
        write_atomic(&dir.config(), config.to_toml().as_bytes())?;
        // Written now, and again when more is known: a segment's number is never used twice.
        dir.write_manifest(&manifest)?;
        let (metering, meter_info) = Metering::start(&MeteringOptions {
            config,
            run: dir,
            run_id: &manifest.run_id,
            segment: &segment,
            device: &device.compute,
            events: &earlier.events,
            resumed: point,
        })?;
        let served = serve_metrics(config, &manifest.run_id, &metering);

        let options = trainer_options(config, segment.id);
        let board = open_board(config, dataset, device, &options)?;
        let model = build_model(config, dataset, device, board.as_ref())?;
        let mut trainer = Trainer::on_board(model.as_ref(), dataset, board, options, checkpoints)?;
        if let Some(latest) = &latest {
            trainer.resume(latest)?;
            tracing::info!("going on from {}", latest.display());
        }
        complete(&mut manifest, meter_info, dataset, model.as_ref());
        dir.write_manifest(&manifest)?;
        if trainer.is_finished() && was_finished_at(&earlier.events, trainer.state().step) {
            tracing::info!("{} is finished: nothing to do", dir.path().display());
            return Ok(Exit::Done);
        }

        let (events, _) = LineFile::open(&dir.events(), Event::from_json)?;
        let plan = trainer.plan();
        display.start_training(plan, trainer.state().step);
        tracing::info!(
            "{} parameters · {} · {} training tokens · {} steps",
            count(model.n_parameters()),
            trainer.engine(),
            count(dataset.manifest.split.train.tokens),
            count(plan.total_steps)
        );
        warn_of_warmup(config, plan);
        let progress = served.as_ref().map(|(_, progress)| progress.clone());
        if let Some(progress) = &progress {
            progress.plan(plan.total_steps);
        }
        let mut observer = RunObserver {
            dir,
            segment: segment.id,
            events,
            metering,
            display,
            progress,
            signal: self.signal.clone(),
            budget: Budget::new(config.budget.clone(), plan.total_steps, plan.steps_per_epoch),
            ending: Ending::new(&Sizes {
                n_parameters: model.n_parameters(),
                evaluation_tokens: evaluation_tokens(config, dataset),
                tokens_per_step: plan.tokens_per_step,
                interval: Seconds(config.energy.interval_ms as f64 * 1e-3),
            }),
            pace: Pace::default(),
            started,
            card: self.card(&manifest, dataset),
            validation: Validation {
                split: dataset.manifest.split.val.clone(),
                floor: dataset.floor,
                plan,
                every_steps: config.evaluate.every_steps,
            },
            seen: Seen::from_step(trainer.state().step),
        };
        observer.metering.span(setup_span(segment.id, started));
        give_back();
        let reason = trainer.run(&mut observer)?;
        summarize(dir, reason, &observer.seen, trainer.state().step, started);
        if observer.seen.whole.is_some() {
            leave_report(dir);
        }
        Ok(if reason == StopReason::Signal { Exit::Requeue } else { Exit::Done })
    }

    /// The manifest of the run with this segment added, as far as it is known before data and model are.
    fn manifest(&self, step_start: u64) -> Manifest {
        let Self { config, device, earlier, .. } = self;
        let mut manifest = earlier.manifest.clone().unwrap_or_else(|| Manifest {
            schema: MANIFEST_SCHEMA.to_owned(),
            run_id: new_run_id(&config.run.name),
            name: config.run.name.clone(),
            versions: Versions {
                wattle: env!("CARGO_PKG_VERSION").to_owned(),
                candle: Some(CANDLE_VERSION.to_owned()),
            },
            command: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            seed: config.run.seed,
            devices: Vec::new(),
            drivers: Drivers::default(),
            host: Host::here(),
            sensors: Vec::new(),
            data: None,
            model: None,
            segments: Vec::new(),
        });
        manifest.devices = vec![device.compute.clone()];
        manifest.host = Host::here();
        let id = manifest.segments.last().map_or(0, |last| last.id + 1);
        manifest.segments.push(Segment::now(id, step_start));
        manifest
    }

    fn card(&self, manifest: &Manifest, dataset: &Dataset) -> ModelCard {
        let gpu = manifest.sensors.iter().find(|sensor| sensor.id.starts_with("gpu:"));
        let cpu = || manifest.host.cpu_model.clone().unwrap_or_else(|| "a CPU".to_owned());
        let sources: Vec<&str> = dataset.manifest.sources.iter().map(|source| source.path.as_str()).collect();
        let data = match dataset.manifest.generated {
            Some(_) => "tales from wattle's embedded grammar".to_owned(),
            None => sources.join(", "),
        };
        ModelCard {
            name: manifest.name.clone(),
            run_id: manifest.run_id.clone(),
            family: self.config.model.family.title().to_owned(),
            n_parameters: manifest.model.as_ref().map_or(0, |model| model.parameters),
            data,
            base_model: self.config.model.init_from.as_ref().map(|dir| dir.display().to_string()),
            hardware: match self.device.device.is_cpu() {
                true => cpu(),
                false => gpu.map_or_else(|| self.device.compute.to_string(), |gpu| gpu.description.clone()),
            },
        }
    }
}

/// Whether a run already ended at this step. What came after was lost, and is not asked for any more.
fn was_finished_at(events: &[Event], at: u64) -> bool {
    (1..=events.len()).any(|n| ended(&events[..n]).is_some_and(|(step, _)| step == at))
}

/// Prepares the data and builds the model, as training would, and says what the run would be.
///
/// # Errors
/// If training could not begin.
pub fn forecast(config: &Config, display: &mut Display) -> anyhow::Result<Forecast> {
    let dataset = prepare(config, Verify::FirstUse, display)?;
    let device = DeviceChoice::Cpu.open()?;
    on_trial(config, &dataset, &device, |_| forecast_of(config, &dataset, &device))
}

/// What a run would be, by its configuration and its data alone: nothing is built.
fn forecast_of(config: &Config, dataset: &Dataset, device: &ChosenDevice) -> anyhow::Result<Forecast> {
    let vocab_size = config.model.vocab_size_for(dataset.vocab_size()).map_err(BadUsage::new)?;
    let memory = TrainingMemory::of(config, vocab_size);
    let is_cpu = device.device.is_cpu();
    Ok(Forecast {
        n_parameters: config.model.n_parameters(vocab_size),
        plan: plan_of(config, dataset)?,
        engine: memory.engine().to_owned(),
        memory,
        peak: None,
        shortage: if is_cpu { need::training(config, vocab_size).shortage() } else { None },
    })
}

/// Everything up to the first step, and nothing left of it.
fn on_trial<T>(
    config: &Config,
    dataset: &Dataset,
    device: &ChosenDevice,
    with: impl FnOnce(&mut Trainer<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let options = trainer_options(config, 0);
    let board = open_board(config, dataset, device, &options)?;
    let model = build_model(config, dataset, device, board.as_ref())?;
    let scratch =
        tempfile::tempdir().context("a temporary folder cannot be made; set TMPDIR to another place")?;
    let checkpoints = Checkpoints::open(scratch.path(), 0)?;
    let mut trainer = Trainer::on_board(model.as_ref(), dataset, board, options, checkpoints)?;
    with(&mut trainer)
}

fn dry_run(args: &TrainArgs, config: &Config, verify: Verify, mut display: Display) -> anyhow::Result<Exit> {
    let dataset = prepare(config, verify, &mut display)?;
    let device = args.device.open()?;
    let mut forecast = forecast_of(config, &dataset, &device)?;
    // What does not fit is not built either: the plan says so.
    if forecast.shortage.is_none() {
        on_trial(config, &dataset, &device, |trainer| {
            give_back();
            let is_here = trainer.rehearse(plan::is_quick(config, &forecast))?;
            forecast.engine = trainer.engine();
            forecast.peak = if is_here { peak_of_training() } else { None };
            if let Some(memory) = trainer.memory() {
                forecast.memory = TrainingMemory::Explicit(memory);
            }
            Ok(())
        })?;
    }
    print(&plan::describe(config, &dataset, &forecast))?;
    warn_of_warmup(config, forecast.plan);
    Ok(Exit::Done)
}

/// Shows the run's live figures at `energy.metrics_addr`, if that is asked for.
fn serve_metrics(
    config: &Config,
    run_id: &str,
    metering: &Metering,
) -> Option<(MetricsServer, SharedProgress)> {
    let (addr, watch) = (config.energy.metrics_addr?, metering.watch()?);
    let progress = SharedProgress::new(&config.cost.currency);
    let mut registry = registry(run_id, watch);
    registry.register_collector(Box::new(progress.clone()));
    Some((MetricsServer::start("energy.metrics_addr", addr, registry)?, progress))
}

fn prepare(config: &Config, verify: Verify, display: &mut Display) -> anyhow::Result<Dataset> {
    let dataset = wattle_data::prepare(&config.data, &config.tokenizer, verify, &mut |p| display.prepare(p));
    display.end_preparation();
    let dataset = dataset?;
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

/// That the data are enough for a step and, where some are held out, for an evaluation.
fn check_length(config: &Config, dataset: &Dataset) -> anyhow::Result<()> {
    plan_of(config, dataset)?;
    dataset.val.as_ref().map(|val| val.windows(config.model.context)).transpose()?;
    Ok(())
}

/// A run goes on with the data that it began with, or not at all.
fn refuse_other_data(earlier: &Earlier, dataset: &Dataset) -> anyhow::Result<()> {
    let begun_with = earlier.manifest.as_ref().and_then(|manifest| manifest.data.as_ref());
    let now = dataset.content_hash();
    match begun_with {
        Some(data) if !dataset.has_content(&data.sha256) => anyhow::bail!(
            "the data have changed since the run began (sha256 {} then, {now} now): restore data.input or \
             data.dir, or start anew with another --out",
            data.sha256
        ),
        _ => Ok(()),
    }
}

/// The board that steps are made on, if there is one. What does not fit there is refused before the model is made,
/// which takes long.
///
/// # Errors
/// If it does not fit, or the board cannot be opened.
fn open_board(
    config: &Config,
    dataset: &Dataset,
    device: &ChosenDevice,
    options: &TrainerOptions,
) -> anyhow::Result<Option<Arc<dyn Board>>> {
    if config.train.engine == EngineChoice::Autograd {
        return Ok(None);
    }
    let Some(board) = device.board()? else { return Ok(None) };
    let vocab_size = config.model.vocab_size_for(dataset.vocab_size()).map_err(BadUsage::new)?;
    let blank = config.model.build_blank(vocab_size, &Device::Cpu)?;
    refuse_what_cannot_fit(blank.as_ref(), board.as_ref(), options)?;
    Ok(Some(board))
}

/// The model at its start: with initial values, or with those of `model.init_from`.
fn build_model(
    config: &Config,
    dataset: &Dataset,
    device: &ChosenDevice,
    board: Option<&Arc<dyn Board>>,
) -> anyhow::Result<Box<dyn LanguageModel>> {
    let vocab_size = config.model.vocab_size_for(dataset.vocab_size()).map_err(BadUsage::new)?;
    let home = home_of_parameters(&device.device, board);
    if device.device.is_cpu() {
        need::training(config, vocab_size).check()?;
    } else if home.is_cpu() {
        need::loading("training", &config.model, vocab_size, 1).check()?;
    }
    if let Some(dir) = &config.model.init_from {
        let directory = Directory::open(dir)?;
        if !tokenizer_of(&directory)?.encodes_as(&dataset.tokenizer) {
            return Err(BadUsage::new(format!(
                "data.dir = {}: was prepared with another tokenizer than that of model.init_from; \
                 prepare it with wattle prepare --tokenizer {}",
                dataset.dir.display(),
                dir.join("tokenizer.json").display()
            ))
            .into());
        }
        return Ok(directory.load_as(&config.model, &home)?);
    }
    let model = config.model.build(vocab_size, config.run.seed, &home);
    Ok(model.context("the model cannot be built")?)
}

fn trainer_options(config: &Config, segment: u32) -> TrainerOptions {
    TrainerOptions {
        seed: config.run.seed,
        segment,
        dropout: config.model.dropout,
        dtype: config.precision.dtype.into(),
        masks: Masks::default(),
        optimizer: config.optimizer.clone(),
        schedule: config.schedule.clone(),
        train: config.train.clone(),
        evaluate: config.evaluate.clone(),
        early_stop: config.early_stop.clone(),
        checkpoint_every_epochs: config.checkpoint.every_epochs,
        checkpoint_every_steps: config.checkpoint.every_steps,
    }
}

/// Fills in what is known once there are data, a model and sensors.
fn complete(manifest: &mut Manifest, meter: MeterInfo, dataset: &Dataset, model: &dyn LanguageModel) {
    let split = &dataset.manifest.split;
    manifest.drivers = meter.drivers;
    manifest.sensors = meter.sensors;
    manifest.data = Some(DataInfo {
        sha256: dataset.content_hash(),
        text_sha256: Some(dataset.text_hash()),
        tokenizer_sha256: dataset.tokenizer.sha256(),
        train_tokens: split.train.tokens,
        val_tokens: split.val.as_ref().map_or(0, |val| val.tokens),
        unverified: !dataset.is_verified,
        floor: loss_floor(dataset),
    });
    manifest.model = Some(ModelInfo {
        family: model.config_json()["model_type"].as_str().unwrap_or_default().to_owned(),
        parameters: model.n_parameters(),
    });
}

/// The entropy of a generated validation split.
fn loss_floor(dataset: &Dataset) -> Option<LossFloor> {
    let nats_per_token = dataset.floor?.nats_per_token();
    let val = dataset.manifest.split.val.as_ref()?;
    Some(LossFloor { nats_per_token, bits_per_byte: val.bits_per_byte(nats_per_token)? })
}

fn new_run_id(name: &str) -> String {
    format!("{name}-{}-{:x}", file_stamp(), std::process::id())
}

fn setup_span(segment: u32, started: MonotonicNs) -> Span {
    Span {
        segment,
        step: 0,
        phase: Phase::Setup,
        start_ns: started,
        end_ns: MonotonicNs::now(),
        clock: SpanClock::Host,
        error_ns: 0,
    }
}

/// The run's last lines.
fn summarize(dir: &RunDir, reason: StopReason, seen: &Seen, step: u64, started: MonotonicNs) {
    let how = match reason {
        StopReason::Done => "done",
        StopReason::EarlyStop => "stopped early, as configured",
        StopReason::Budget => "the budget is used up",
        StopReason::Signal => "stopped by a signal; go on with --resume",
        StopReason::Error => "failed",
    };
    let mut parts = vec![format!("{how} at step {}", count(step))];
    parts.push(duration(MonotonicNs::now().since(started)));
    if let Some(whole) = &seen.whole {
        parts.extend(describe_energy(whole));
        energy_warnings(whole)
            .iter()
            .chain(estimate_warning(whole).iter())
            .for_each(|warning| tracing::warn!("{warning}"));
    }
    tracing::info!("{}", parts.join(" · "));
    tracing::info!("{}", dir.path().display());
}

/// Leaves the page of a run that is over, and says what to do next.
fn leave_report(dir: &RunDir) {
    let path = dir.report();
    match write_report(dir) {
        Ok(()) => tracing::info!(
            "what it learnt and what it cost: {}, or wattle report {}",
            path.display(),
            dir.path().display()
        ),
        Err(error) => tracing::warn!("{} was not written: {error:#}", path.display()),
    }
}

fn write_report(dir: &RunDir) -> anyhow::Result<()> {
    // The lock is this process's own: nobody is at the run any more.
    let run = Run { is_locked: false, ..Run::open(dir.path())? };
    let report = Report::of(&run, None)?;
    write_atomic(&dir.report(), page(&report, &run).as_bytes())?;
    Ok(())
}
