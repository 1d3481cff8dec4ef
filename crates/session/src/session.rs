//! One process's part of a run, from its configuration to its last checkpoint.

use std::path::{Path, PathBuf};

use wattle_data::{Dataset, Verify};
use wattle_grid::Grid;
use wattle_meter::ResumePoint;
use wattle_meter::sensors::discover::check_boards;
use wattle_model::LanguageModel;
use wattle_report::page::page;
use wattle_report::words::quantity::count;
use wattle_report::{Report, Run};
use wattle_runlog::event::EvaluateEvent;
use wattle_runlog::run_dir::write_atomic;
use wattle_runlog::{
    Event, LineFile, MonotonicNs, Phase, Record, RunDir, Seconds, Span, SpanClock, StopReason,
};
use wattle_train::config::KernelSelection;
use wattle_train::device::{ChosenDevice, DeviceChoice};
use wattle_train::{Checkpoints, Plan, Ranks, TrainConfig, TrainError, TrainState, TrainerOptions};

use crate::budget::Budget;
use crate::build::{BuildModel, Materials, Values, build, has_room_for_snapshot, trainer_options};
use crate::config::{Config, resume_faults};
use crate::data::{check_length, evaluation_tokens, plan_of, prepare, refuse_other_data, tokens_beside};
use crate::earlier::{Earlier, ended, is_run, was_finished_at};
use crate::ending::{Ending, Sizes};
use crate::error::SessionError;
use crate::following::{Go, Hello, Rank, Start, Training, refuse_unlike_data, refuse_unlike_weights};
use crate::grid::{self, GridBeside};
use crate::kernels;
use crate::listener::{Listener, MeterStart, TrainingStart};
use crate::manifest;
use crate::metering::{Metering, MeteringOptions};
use crate::new_run::NewRun;
use crate::observer::{RunObserver, Seen, Validation};
use crate::pace::Pace;
use crate::seats::Seats;
use crate::snapshot;
use crate::threads;
use crate::together::{PREPARATION, Together};
use crate::warmup::warmup_warning;

/// A run directory to train in, and how.
///
/// ```no_run
/// use wattle_session::{Config, Outcome, Resume, Session};
///
/// let mut config = Config::default();
/// config.train.max_steps = 100;
/// if let Outcome::Trained(trained) = Session::new(config, "runs/mine").resume(Resume::Auto).train()? {
///     println!("{:?} in {} steps", trained.record.map(|record| record.energy_j), trained.step);
/// }
/// # Ok::<(), wattle_session::SessionError>(())
/// ```
pub struct Session<'a> {
    config: Config,
    path: PathBuf,
    device: DeviceChoice,
    verify: Verify,
    resume: Resume,
    ranks: Ranks,
    own_model: Option<Box<BuildModel<'a>>>,
    listener: Option<&'a mut dyn Listener>,
    is_asked_to_stop: Option<Box<dyn Fn() -> bool + 'a>>,
}

/// What to do with a run that is in the directory already, or is not.
#[derive(Clone, Debug, Default)]
pub enum Resume {
    /// A run that is there is an error.
    #[default]
    Never,
    /// A run that is not there is an error.
    Existing,
    /// Resume a run that is there, start one that is not.
    Auto,
    /// Resume the run that is there, whose stored configuration the caller has read (if there was one) and compared with
    /// that of the session.
    Accepted(Option<Box<Config>>),
}

/// What a session came to.
#[derive(Debug)]
pub enum Outcome {
    /// The run was finished already, and the configuration asks for no more.
    WasFinished,
    /// Training ended, with a checkpoint.
    Trained(Box<Trained>),
    /// Training ended for this reason on a rank that leaves the run directory to the leading one.
    Followed(StopReason),
}

/// How training ended.
#[derive(Debug)]
pub struct Trained {
    /// The run directory.
    pub path: PathBuf,
    /// Why it ended.
    pub reason: StopReason,
    /// Updates over all segments.
    pub step: u64,
    /// How long this segment took.
    pub time: Seconds,
    /// The latest evaluation of this segment.
    pub evaluation: Option<EvaluateEvent>,
    /// The record of the whole run, if it is over and was metered.
    pub record: Option<Record>,
    /// Where `report.html` is; `None` while the run is not over.
    pub report: Option<Result<PathBuf, SessionError>>,
}

impl<'a> Session<'a> {
    /// A session that trains by `config` in the run directory `path`.
    pub fn new(config: Config, path: impl Into<PathBuf>) -> Self {
        Self {
            config,
            path: path.into(),
            device: DeviceChoice::Auto,
            verify: Verify::FirstUse,
            resume: Resume::default(),
            ranks: Ranks::default(),
            own_model: None,
            listener: None,
            is_asked_to_stop: None,
        }
    }

    /// Trains on this device instead of the best one there is.
    pub fn device(self, device: DeviceChoice) -> Self {
        Self { device, ..self }
    }

    /// Compares tokens with their hashes at their first use unless told otherwise.
    pub fn verify(self, verify: Verify) -> Self {
        Self { verify, ..self }
    }

    /// What to do with a run that is there already. The default is to refuse it.
    pub fn resume(self, resume: Resume) -> Self {
        Self { resume, ..self }
    }

    /// Trains together with other processes. The leading rank's run directory is that of all, and its listener alone is told
    /// what happens.
    pub fn ranks(self, ranks: Ranks) -> Self {
        Self { ranks, ..self }
    }

    /// Trains the model that `build` makes, instead of one of wattle's families. Of the `model` section, `context` (which
    /// must be the model's) and `dropout` apply.
    pub fn model<M: LanguageModel + 'static>(
        self,
        build: impl Fn(&Materials<'_>) -> candle_core::Result<M> + 'a,
    ) -> Self {
        let build = move |materials: &Materials<'_>| {
            build(materials).map(|model| Box::new(model) as Box<dyn LanguageModel>)
        };
        Self { own_model: Some(Box::new(build)), ..self }
    }

    /// Tells `listener` what happens.
    pub fn listener(self, listener: &'a mut dyn Listener) -> Self {
        Self { listener: Some(listener), ..self }
    }

    /// Asks `is_asked_to_stop` before each step; once it says so, training ends with a checkpoint and
    /// [`StopReason::Signal`].
    pub fn stop_when(self, is_asked_to_stop: impl Fn() -> bool + 'a) -> Self {
        Self { is_asked_to_stop: Some(Box::new(is_asked_to_stop)), ..self }
    }

    /// Trains until the run is over, a budget is used up, or it is asked to stop. A run that cannot start leaves no
    /// directory.
    ///
    /// # Errors
    /// [`SessionError::Config`] with everything that is wrong with the configuration; other variants if data, model or
    /// device cannot be used, or a file cannot be written.
    pub fn train(self) -> Result<Outcome, SessionError> {
        let ranks = self.ranks.clone();
        let outcome = self.train_together();
        match &outcome {
            Ok(_) | Err(SessionError::Train(TrainError::Parted { .. })) => {}
            Err(error) => ranks.part(&error.to_string()),
        }
        outcome
    }

    fn train_together(self) -> Result<Outcome, SessionError> {
        let Self { mut config, path, device, verify, resume, ranks, own_model, listener, is_asked_to_stop } =
            self;
        let mut nobody = ();
        let listener = listener.unwrap_or(&mut nobody);
        let together = Together::new(&ranks);
        // What the command line has settled already stays as it is.
        config.schedule.settle(&config.optimizer).iter().for_each(|note| tracing::warn!("{note}"));
        let absolute = config.make_absolute().map_err(SessionError::config);
        let over_ranks = together.meet(absolute.and_then(|()| checked(&config, &ranks)))?;
        together.alike(&Hello::of(&config), Hello::difference)?;
        // The run's own file keeps what was asked for.
        let config_toml = match own_model {
            Some(_) => config.to_toml_of_own_model(),
            None => config.to_toml(),
        };
        let own_model = own_model.as_deref();
        let is_asked_to_stop = is_asked_to_stop.as_deref().unwrap_or(&|| false);
        if !ranks.leads() {
            config.train = over_ranks;
            let rank = Rank { config: &config, own_model, ranks: &ranks, verify, is_asked_to_stop };
            return Ok(rank.follow(device)?.map_or(Outcome::WasFinished, Outcome::Followed));
        }
        let ready = Ready::look(&mut config, over_ranks, &path, device, verify, resume, listener);
        let go = if matches!(ready, Ok(None)) { Go::WasFinished } else { Go::Train };
        let (ready, _) = together.meet_for(PREPARATION, ready, go)?;
        let Some(Ready { found, earlier, grid, device, dataset }) = ready else {
            return Ok(Outcome::WasFinished);
        };
        // Where the cache is not shared, others prepare them now.
        let (dataset, ()) = together.meet_for(PREPARATION, Ok(dataset), ())?;
        refuse_unlike_data(&together, &dataset)?;
        let (new_run, opened) = match found.is_there() {
            true => (None, Some(RunDir::open(&path)?)),
            false => (Some(NewRun::create(&path)?), None),
        };
        let dir = opened.as_ref().or(new_run.as_ref().map(NewRun::dir)).expect("one of the two was made");
        listener.opened(dir).map_err(|source| SessionError::Io {
            what: format!("cannot write {}", dir.train_log().display()),
            source,
        })?;
        tracing::info!("{} on {}{}", path.display(), device.compute, device.why_said());
        tracing::debug!("{}: {}", device.compute, device.reason);

        // Once more, now that no other process writes to it.
        let earlier = if found.is_there() { Earlier::read(&path)? } else { earlier };
        let attempt = Attempt {
            config: &config,
            config_toml,
            own_model,
            ranks: &ranks,
            dir,
            device: &device,
            dataset: &dataset,
            earlier,
            grid,
            is_asked_to_stop,
        };
        let outcome = attempt.train(listener);
        // A run that began to train is worth keeping, however it ended.
        if outcome.is_ok() || dir.events().exists() {
            new_run.map(NewRun::keep);
        }
        outcome
    }
}

/// What is wrong with a configuration, or how the ranks share its steps.
fn checked(config: &Config, ranks: &Ranks) -> Result<TrainConfig, SessionError> {
    let faults: Vec<String> =
        config.faults().into_iter().chain(threads::mismatch(config.train.threads)).collect();
    if !faults.is_empty() {
        return Err(SessionError::Config(faults));
    }
    config.train.over_ranks(ranks.share().world).map_err(SessionError::config)
}

/// A run that can begin, as far as that is known before anything is written.
struct Ready {
    found: Found,
    earlier: Earlier,
    grid: Option<Grid>,
    device: ChosenDevice,
    dataset: Dataset,
}

impl Ready {
    /// Looks at what is in `path`, opens the device and prepares data. `None` if nothing is left to do.
    fn look(
        config: &mut Config,
        over_ranks: TrainConfig,
        path: &Path,
        device: DeviceChoice,
        verify: Verify,
        resume: Resume,
        listener: &mut dyn Listener,
    ) -> Result<Option<Self>, SessionError> {
        let found = find(path, config, resume)?;
        config.train = over_ranks;
        // A process that has nothing to do leaves no trace: nothing is opened before that is known.
        let earlier = if found.is_there() { Earlier::read(path)? } else { Earlier::none() };
        let is_finished = is_finished(config, &found, &earlier);
        if is_finished == Some(true) {
            return Ok(None);
        }
        let grid = grid::start(config)?;
        check_boards(&config.energy).map_err(|error| SessionError::config(error.to_string()))?;
        let device = device.open()?;
        if !found.is_there() && path.exists() {
            // What is there already is refused before anything takes time.
            drop(NewRun::create(path)?);
        }
        // Data that cannot be trained on leave no directory, not even for a while.
        let dataset = prepare(config, verify, listener)?;
        check_length(config, &dataset)?;
        refuse_other_data(&earlier, &dataset)?;
        let made = ended(&earlier.events).map_or(0, |(step, _)| step);
        if is_finished.is_none() && made >= plan_of(config, &dataset)?.total_steps {
            return Ok(None);
        }
        Ok(Some(Self { found, earlier, grid, device, dataset }))
    }
}

/// What is in the run directory.
enum Found {
    /// No run.
    Nothing,
    /// A run, and its configuration; none if it was killed before it had written one.
    Run(Option<Box<Config>>),
}

impl Found {
    fn is_there(&self) -> bool {
        matches!(self, Self::Run(_))
    }
}

/// Looks for a run in `path` and holds its configuration against `config`.
fn find(path: &Path, config: &Config, resume: Resume) -> Result<Found, SessionError> {
    match resume {
        Resume::Accepted(stored) => return Ok(Found::Run(stored)),
        Resume::Never => return Ok(Found::Nothing),
        Resume::Auto if !is_run(path) => return Ok(Found::Nothing),
        Resume::Existing if !is_run(path) => {
            return Err(SessionError::config(format!("{}: there is no run to resume", path.display())));
        }
        Resume::Auto | Resume::Existing => {}
    }
    let file = path.join("config.toml");
    if !file.exists() {
        return Ok(Found::Run(None));
    }
    let stored = Config::read(&file).map_err(SessionError::Config)?;
    let differences = resume_faults(path, &stored, config);
    if !differences.is_empty() {
        return Err(SessionError::config(format!(
            "{} was begun with another configuration; leave these as they were, or start a new run in another \
             directory:\n  {}",
            path.display(),
            differences.join("\n  ")
        )));
    }
    Ok(Found::Run(Some(Box::new(stored))))
}

/// Whether nothing is left to do: the run that was found is finished, and the configuration asks for no more of it.
/// `None` if it is finished unless the data make more steps than it made.
fn is_finished(config: &Config, found: &Found, earlier: &Earlier) -> Option<bool> {
    let Found::Run(Some(stored)) = found else { return Some(false) };
    match ended(&earlier.events) {
        Some((_, StopReason::EarlyStop)) => Some(true),
        // A later process that was given more may have been killed before its first step.
        Some((_, StopReason::Budget)) => {
            Some(!earlier.was_opened_again() && !config.budget.allows_more_than(&stored.budget))
        }
        Some((step, StopReason::Done)) => {
            let max_steps = config.train.max_steps;
            (max_steps > 0 && step >= max_steps).then_some(true)
        }
        _ => Some(false),
    }
}

/// Training in a run directory that this process has locked.
struct Attempt<'a> {
    config: &'a Config,
    /// The configuration as the run directory keeps it.
    config_toml: String,
    ranks: &'a Ranks,
    own_model: Option<&'a BuildModel<'a>>,
    dir: &'a RunDir,
    device: &'a ChosenDevice,
    dataset: &'a Dataset,
    earlier: Earlier,
    grid: Option<Grid>,
    is_asked_to_stop: &'a dyn Fn() -> bool,
}

impl Attempt<'_> {
    fn train(mut self, listener: &mut dyn Listener) -> Result<Outcome, SessionError> {
        let grid = self.grid.take();
        let Self { config, ranks, own_model, dir, device, dataset, ref earlier, is_asked_to_stop, .. } = self;
        let (started, together) = (MonotonicNs::now(), Together::new(ranks));
        let checkpoints = Checkpoints::open(&dir.checkpoints(), config.checkpoint.keep)?;
        let latest = checkpoints.latest()?;
        let resumed = latest.as_deref().map(TrainState::read).transpose()?;
        let point = resumed.as_ref().map(|state| ResumePoint { step: state.step, tokens: state.tokens });

        let mut manifest = {
            let origin = grid.as_ref().map(|grid| grid.known().origin().clone());
            manifest::with_segment(
                config,
                device,
                earlier,
                point.map_or(0, |point| point.step),
                origin.as_ref(),
            )
        };
        let seats = Seats::learn(ranks, &device.compute)?;
        if let Some(seats) = &seats {
            manifest.devices = seats.devices();
        }
        let segment = manifest.segments.last_mut().expect("one was just added");
        segment.ranks = seats.as_ref().map(Seats::of_segment);
        let segment = segment.clone();
        write_atomic(&dir.config(), self.config_toml.as_bytes())?;
        // Written now, and again when more is known: a segment's number is never used twice.
        dir.write_manifest(&manifest)?;
        let entries = grid::earlier_entries(dir)?;
        let open = |grid| GridBeside::open(grid, &config.grid, dir, &manifest, segment.id);
        let grid = grid.map(open).transpose()?;
        let (mut metering, mut meter_info) = Metering::start(&MeteringOptions {
            config,
            run: dir,
            run_id: &manifest.run_id,
            segment: &segment,
            devices: &manifest.devices,
            events: &earlier.events,
            resumed: point,
            grid: &entries,
            known: grid.as_ref().map(GridBeside::known),
            beside: tokens_beside(config, dataset)?,
            together: seats.as_ref().map(|seats| (ranks, seats)),
        })?;
        if let Some(watch) = metering.watch() {
            listener.metering(&MeterStart { run_id: manifest.run_id.clone(), watch });
        }

        let start = Start {
            path: std::path::absolute(dir.path()).unwrap_or_else(|_| dir.path().to_owned()),
            run_id: manifest.run_id.clone(),
            segment: segment.id,
            checkpoint: latest.clone(),
        };
        let (_, start) = together.meet_for(ranks.between_steps(), Ok(()), start)?;
        together.meet(start.check_shared())?;
        if let Some(seats) = &seats {
            metering.join(ranks, seats, &mut meter_info)?;
        }
        let mut options =
            TrainerOptions { ranks: ranks.clone(), ..trainer_options(config, dataset, segment.id) };
        if own_model.is_none() {
            options.checkpoint_in_background = has_room_for_snapshot(config, dataset, device)?;
        }
        let values = if latest.is_some() { Values::Checkpoint } else { Values::Initial };
        let built = together.meet(build(config, own_model, dataset, device, &options, values))?;
        if let Some(board) = &built.board {
            let file = config.train.kernels.as_deref();
            options.kernels = kernels::to_start_from(latest.as_deref(), file, board.as_ref())?;
            options.select = config.train.select == KernelSelection::Measure;
        }
        let model = built.model.as_ref();
        if own_model.is_some() {
            let plan = plan_of(config, dataset)?;
            options.checkpoint_in_background = snapshot::is_affordable_for(config, model, &plan);
        }
        let checkpoint = latest.as_deref();
        let (is_own_model, board) = (own_model.is_some(), built.board);
        let training = Training { model, is_own_model, board, dataset, device };
        let mut trainer = together.meet(training.trainer(options, checkpoints, checkpoint))?;
        refuse_unlike_weights(&together, model)?;
        let kernels = kernels::keep(dir, &trainer)?;
        if let Some(latest) = checkpoint {
            tracing::info!("going on from {}", latest.display());
        }
        manifest::complete(&mut manifest, meter_info, dataset, model);
        dir.write_manifest(&manifest)?;
        let was_finished = trainer.is_finished() && was_finished_at(&earlier.events, trainer.state().step);
        let go = if was_finished { Go::WasFinished } else { Go::Train };
        together.meet_for(ranks.between_steps(), Ok(()), go)?;
        if was_finished {
            return Ok(Outcome::WasFinished);
        }

        let (events, _) = LineFile::open(&dir.events(), Event::from_json)?;
        let plan = trainer.plan();
        tracing::info!(
            "{} parameters · {} · {} training tokens · {} steps",
            count(model.n_parameters()),
            trainer.engine(),
            count(dataset.manifest.split.train.tokens),
            count(plan.total_steps)
        );
        if let Some(warning) = warmup_warning(config, plan.total_steps) {
            tracing::warn!("{warning}");
        }
        listener.training(&TrainingStart { plan, step: trainer.state().step });
        let mut observer = RunObserver {
            dir,
            segment: segment.id,
            events,
            metering,
            grid,
            listener,
            is_asked_to_stop,
            budget: Budget::new(config.budget.clone(), plan.total_steps, plan.steps_per_epoch),
            ending: Ending::new(&self.sizes(model, plan, trainer.examined_tokens())),
            pace: Pace::default(),
            started,
            kernels,
            card: manifest::card(config, self.family(model), device, dataset, &manifest),
            validation: Validation {
                split: dataset.manifest.split.val.clone(),
                floor: dataset.floor,
                plan,
                every_steps: config.evaluate.every_steps,
                examines: trainer.examined_tokens() > 0,
            },
            seen: Seen::from_step(trainer.state().step),
        };
        observer.metering.span(setup_span(segment.id, started));
        let reason = trainer.run(&mut observer)?;
        // The others' work was metered until here.
        together.meet(Ok(()))?;
        let Seen { evaluation, whole: record, .. } = observer.seen;
        Ok(Outcome::Trained(Box::new(Trained {
            path: dir.path().to_owned(),
            reason,
            step: trainer.state().step,
            time: MonotonicNs::now().since(started),
            evaluation,
            report: record.is_some().then(|| write_report(dir)),
            record,
        })))
    }

    /// How a person calls the model.
    fn family(&self, model: &dyn LanguageModel) -> String {
        match self.own_model {
            Some(_) => manifest::model_type(model),
            None => self.config.model.family.title().to_owned(),
        }
    }

    fn sizes(&self, model: &dyn LanguageModel, plan: Plan, examined_tokens: u64) -> Sizes {
        Sizes {
            n_parameters: model.n_parameters(),
            evaluation_tokens: evaluation_tokens(self.config, self.dataset) + examined_tokens,
            tokens_per_step: plan.tokens_per_step,
            interval: Seconds(self.config.energy.interval_ms as f64 * 1e-3),
        }
    }
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
        overlaps: false,
    }
}

/// Leaves the page of a run that is over.
fn write_report(dir: &RunDir) -> Result<PathBuf, SessionError> {
    // The lock is this process's own: nobody else is at the run.
    let run = Run { is_locked: false, ..Run::open(dir.path())? };
    let report = Report::of(&run, None)?;
    let path = dir.report();
    write_atomic(&path, page(&report, &run).as_bytes())?;
    Ok(path)
}
